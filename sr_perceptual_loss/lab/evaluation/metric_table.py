"""A CSV of one row per image that survives interruptions: rows of the same settings and files are not computed again.

The settings that the numbers depend on are in ``x.settings.json`` beside ``x.csv``. While images are measured, each row
is appended and flushed; at the end the file is replaced as a whole, with the means in its last row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights.file import atomic_path

__all__ = ["Mean", "MetricTable", "Row", "fingerprint", "means"]

#: First cell of the last row. No image can have this name, since images have a suffix.
MEAN = "mean"


@dataclass(frozen=True)
class Row:
    """One measured image."""

    image: str  # name of the SR file
    reference: str  # name of the HR file
    inputs: str  # :func:`fingerprint` of all files that were read for it
    values: Mapping[str, float]  # number by column


@dataclass(frozen=True)
class Mean:
    """Mean of a column."""

    value: float  # over the finite values; infinite only if no value is finite
    infinite: int  # number of values left out: PSNR of images that equal their reference


def fingerprint(files: Iterable[Path]) -> str:
    """12 hexadecimal digits of the SHA-256 over the files' contents: replaced images are measured again."""
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:12]


def means(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, Mean]:
    """Mean of every column; infinite values are counted, not averaged."""
    result = {}
    for column in columns:
        finite = [row.values[column] for row in rows if math.isfinite(row.values[column])]
        mean = math.fsum(finite) / len(finite) if finite else math.inf
        result[column] = Mean(mean, len(rows) - len(finite))
    return result


class MetricTable:
    """The table of one run: ``rows`` by image, also those of the file; an interruption damaged ``dropped`` lines.

    Args:
        path: the CSV; an unfinished or finished one of the same settings is continued.
        columns: names of the numbers, in order.
        settings: plain values that the numbers depend on.

    Raises:
        InputError: the file was made with other settings or by something else, or the place cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str], settings: Mapping[str, Any]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self.rows: dict[str, Row] = {}
        self.dropped = 0
        self._header = ["image", "reference", *self.columns, "inputs"]
        self._settings_path = path.with_suffix(".settings.json")
        plain = json.loads(json.dumps(settings))
        if path.exists():
            self._check_settings(plain)
            self._read()
        else:
            self._replace(self._settings_path, json.dumps(plain, indent=2) + "\n")
        self._replace(path, self._text())

    def find(self, image: str, reference: str, inputs: str) -> Row | None:
        """The row of an image, if it was made from the same files."""
        row = self.rows.get(image)
        return row if row and (row.reference, row.inputs) == (reference, inputs) else None

    def add(self, row: Row) -> None:
        """Append a row and flush it; the row of a replaced image takes the place of the old one."""
        known = row.image in self.rows
        self.rows[row.image] = row
        if known:
            self._replace(self.path, self._text())
            return
        with self.path.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(_line(self._cells(row)))

    def finish(self, images: Iterable[str]) -> list[Row]:
        """Replace the file: the rows of these images in this order, then the means. Returns the rows."""
        self.rows = {name: self.rows[name] for name in images}
        rows = list(self.rows.values())
        mean = means(rows, self.columns)
        self._replace(self.path, self._text() + _line([MEAN, "", *(repr(mean[c].value) for c in self.columns), ""]))
        return rows

    def _cells(self, row: Row) -> list[str]:
        # repr keeps every digit, so that a continued run gives the same means.
        return [row.image, row.reference, *(repr(float(row.values[c])) for c in self.columns), row.inputs]

    def _text(self) -> str:
        return _line(self._header) + "".join(_line(self._cells(row)) for row in self.rows.values())

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        cure = f"Give another --out, or delete {self.path}."
        try:
            old = json.loads(self._settings_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            old = None
        if not isinstance(old, dict):
            raise InputError(
                f"{self.path} exists, but {self._settings_path.name} with its settings is missing or unreadable; it "
                f"was not changed. {cure}"
            )
        differ = sorted(key for key in {*old, *settings} if old.get(key) != settings.get(key))
        if differ:
            changes = "; ".join(f"{k}: {_short(old.get(k))} there, {_short(settings.get(k))} now" for k in differ)
            raise InputError(f"{self.path} was made with other settings ({changes}); it was not changed. {cure}")

    def _read(self) -> None:
        complete, _, incomplete = self.path.read_bytes().rpartition(b"\n")
        # Some file systems leave zeros after a power failure.
        text = complete.decode("utf-8", errors="surrogateescape").replace("\0", "")
        lines = list(csv.reader(io.StringIO(text, newline="")))
        self.dropped = int(bool(incomplete))
        if lines and lines[0] != self._header:
            raise InputError(
                f"{self.path}: the first line is {','.join(lines[0])[:200]!r}, expected {','.join(self._header)!r}. "
                "Give another --out, or delete it."
            )
        for cells in lines[1:]:
            row = self._parse(cells)
            if row:
                self.rows[row.image] = row
            elif cells[:1] != [MEAN]:
                self.dropped += 1

    def _parse(self, cells: Sequence[str]) -> Row | None:
        """A row, or None for the means and for what an interruption damaged."""
        if len(cells) != len(self._header) or cells[0] == MEAN or not cells[-1]:
            return None
        try:
            values = {column: float(cell) for column, cell in zip(self.columns, cells[2:-1], strict=True)}
        except ValueError:
            return None
        return Row(cells[0], cells[1], cells[-1], values)

    @staticmethod
    def _replace(path: Path, text: str) -> None:
        try:
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
        except WeightsError as error:
            raise InputError(f"--out {path}: cannot be written ({error.__cause__}); choose another path.") from None


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
