"""Rows of label files with their line numbers, and the report of everything that is wrong with them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_perceptual_loss.errors import InputError

__all__ = ["IQA_LIST", "Problems", "Row", "base_name", "is_iqa_list", "read_lines", "read_rows"]

#: Header of the label lists of the IQA-Dataset project: one CSV per data set.
IQA_LIST = ("dis_img_path", "dis_type", "ref_img_path", "score")


class Problems:
    """Collects what is wrong with a data set, so that a user sees everything in one report.

    Args:
        name: of the data set, for the heading.
    """

    SHOWN = 20

    def __init__(self, name: str) -> None:
        self.name = name
        self._lines: list[str] = []

    def add(self, file: Path, line: int | None, what: str) -> None:
        """Note one problem.

        Args:
            file: where it is.
            line: line number, from 1; None for the whole file.
            what: what was read and what was expected.
        """
        self._lines.append(f"{file}{'' if line is None else f', line {line}'}: {what}")

    def check(self) -> None:
        """Raise if anything was noted.

        Raises:
            InputError: one report with the first 20 problems and the number of the others.
        """
        if not self._lines:
            return
        shown = "\n  ".join(self._lines[: self.SHOWN])
        rest = len(self._lines) - self.SHOWN
        more = f"\n  ... and {rest} more" if rest > 0 else ""
        raise InputError(f"{self.name}: {len(self._lines)} problem(s) in the data set:\n  {shown}{more}")


@dataclass(frozen=True)
class Row:
    """One row of a label file.

    Attributes:
        file: the label file.
        line: line number, from 1.
        cells: its columns, without blanks around them.
    """

    file: Path
    line: int
    cells: tuple[str, ...]


def read_lines(file: Path, problems: Problems) -> list[tuple[int, str]]:
    """Line numbers and lines that are not blank; a byte order mark and CRLF are removed.

    Args:
        file: a text file in UTF-8.
        problems: gets a file that is missing, empty or not text.

    Returns:
        (line number from 1, stripped line); empty if the file could not be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        problems.add(file, None, "label file not found.")
        return []
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null character in the name
        problems.add(file, None, f"not a readable text file ({error}).")
        return []
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        problems.add(file, None, "the file is empty; expected one row per image.")
    return lines


def read_rows(
    file: Path, problems: Problems, columns: Sequence[str] = (), separator: str | None = ","
) -> tuple[tuple[str, ...], list[Row]]:
    """Names of the columns, and the rows that have as many columns.

    Args:
        file: label file.
        problems: gets what cannot be read.
        columns: names of the columns; empty if the first line of the file is a header.
        separator: ``,`` (cells may be quoted), another text, or None for any white space.

    Returns:
        The columns (a header in lower case) and the rows; both empty if there is no header where one is expected.
    """
    lines = read_lines(file, problems)
    names, rows = tuple(columns), []
    # Label files have no quoted line breaks, so each line is parsed alone and its number is exact.
    for line, text in lines:
        try:
            parts = next(csv.reader([text])) if separator == "," else text.split(separator)
            cells = tuple(cell.strip() for cell in parts)
        except csv.Error as error:
            problems.add(file, line, f"not a comma-separated row ({error}).")
            continue
        if not names:
            names = tuple(cell.lower() for cell in cells)
        elif len(cells) == len(names):
            rows.append(Row(file, line, cells))
        else:
            form = (separator or " ").join(names)
            problems.add(file, line, f"got {len(cells)} column(s): '{text[:80]}', expected {len(names)}: {form}.")
    if len(lines) == 1 and not columns:
        problems.add(file, None, "the file has a header but no rows.")
    return names, rows


def is_iqa_list(file: Path) -> bool:
    """Whether a file starts with the header ``IQA_LIST``; False if it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig") as stream:
            first = stream.readline(200)
    except (OSError, ValueError):
        return False
    return tuple(cell.strip().lower() for cell in first.split(",")) == IQA_LIST


def base_name(path: str) -> str:
    """File name of a path that is written with either kind of slash."""
    return path.replace("\\", "/").rpartition("/")[2]
