"""Your own data: one CSV file ``ref,dist,score[,std][,distortion][,content][,official_split]``."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sr_perceptual_loss.checks import composed
from sr_perceptual_loss.lab.data.folders import list_folder
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import DatasetCard, Reader
from sr_perceptual_loss.lab.data.rows import Row, read_rows

__all__ = ["CARD", "read"]

CARD = DatasetCard(
    name="table",
    score_range=None,
    url="made by you; meta files of pyiqa for full-reference sets have this form too",
    layout="one .csv file with the header ref,dist,score[,std][,distortion][,content][,official_split] and the images, "
    "whose paths are relative to the folder",
)

#: What is read -> names that its column may have.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "ref": ("ref", "ref_name", "ref_img", "reference"),
    "dist": ("dist", "dist_name", "dist_img", "distorted"),
    "score": ("score", "mos"),
    "distortion": ("distortion",),
    "content": ("content", "scene"),
    "part": ("official_split", "split"),
    "std": ("std", "mos_std"),  # allowed, not used
}
_REQUIRED = ("ref", "dist", "score")


def read(reader: Reader, labels: Path | None) -> LabelSet:
    """Read a table; the reference content is the reference image unless a column ``content`` says otherwise.

    ``labels`` is the table: the only ``.csv`` or ``.tsv`` file in the root by default. Higher scores must be better.
    The column ``official_split`` (or ``split``) becomes the official split. Unused columns are named in a note.
    """
    file = labels or _only_table(reader)
    header, rows = read_rows(file, reader.problems) if file is not None else ((), [])
    columns = _columns(file, header, reader) if file is not None and header else {}
    parts: dict[str, list[Path]] = {}
    for row in rows if columns else []:
        cells = {name: row.cells[place] for name, place in columns.items()}
        blank = [name for name in (*_REQUIRED, "content", "part") if cells.get(name) in ("", ".", "/")]
        if blank:
            reader.problem(row, f"blank: {', '.join(blank)}; expected a value.")
            continue
        ref = _image(reader, cells["ref"], row)
        # The file's own name, so that two spellings of one reference are one content.
        reference = _path(cells["ref"]).parent / composed(ref.stem)
        image = reader.rate(
            row,
            cells["score"],
            content=cells.get("content", reference.as_posix()),
            dist=_image(reader, cells["dist"], row),
            ref=ref,
            distortion=cells.get("distortion", ""),
        )
        if image and "part" in cells:
            parts.setdefault(cells["part"], []).append(image.dist)
    return reader.label_set(official_split=parts, notes=_notes(header))


def _only_table(reader: Reader) -> Path | None:
    tables = list_folder(reader.root, (".csv", ".tsv")).files
    if len(tables) == 1:
        return tables[0]
    names = ", ".join(path.name for path in tables) or "none"
    reader.problems.add(
        reader.root, None, f"expected one .csv or .tsv file, got {len(tables)}: {names}; give the table with labels=."
    )
    return None


def _columns(file: Path, header: tuple[str, ...], reader: Reader) -> dict[str, int]:
    """What is read -> number of its column; empty after a problem."""
    columns, faults = {}, []
    for what, names in _COLUMNS.items():
        at = [i for i, column in enumerate(header) if column in names]
        if len(at) > 1:
            faults.append(f"{len(at)} columns for {what}: {', '.join(header[i] for i in at)}; keep one")
        elif at:
            columns[what] = at[0]
        elif what in _REQUIRED:
            faults.append(f"no column {' or '.join(names)}")
    if "score" not in columns and "dmos" in header:
        faults.append("dmos may have either direction: name the column score once higher is better")
    if faults:
        reader.problems.add(file, 1, f"got the header {','.join(header)}: {'; '.join(faults)}.")
        return {}
    return columns


def _image(reader: Reader, text: str, row: Row) -> Path:
    """The image of a path relative to the root, written with either kind of slash."""
    path = _path(text)
    return reader.folder(path.parent.as_posix()).find(path.name, row)


def _path(text: str) -> PurePosixPath:
    return PurePosixPath(posixpath.normpath(text.replace("\\", "/")))


def _notes(header: tuple[str, ...]) -> tuple[str, ...]:
    known = {name for names in _COLUMNS.values() for name in names}
    unused = [column or "(no name)" for column in header if column not in known]
    direction = "Scores are taken as higher = better; negate the DMOS of a set where higher is worse."
    return (direction, f"Columns not used: {', '.join(unused)}.") if unused else (direction,)
