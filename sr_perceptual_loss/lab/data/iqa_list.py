"""Label lists in the form of the IQA-Dataset project: one CSV per data set, known by its header."""

from __future__ import annotations

from pathlib import Path

from sr_perceptual_loss.lab.data.labels import Problems
from sr_perceptual_loss.lab.data.reader import base_name
from sr_perceptual_loss.lab.data.rows import Row, read_csv

__all__ = ["HEADER", "is_iqa_list", "read_iqa_list"]

#: First line of every list.
HEADER = ("dis_img_path", "dis_type", "ref_img_path", "score")


def is_iqa_list(file: Path) -> bool:
    """Whether a file starts with the header of such a list; False if it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig") as stream:
            first = stream.readline(200)
    except (OSError, UnicodeDecodeError):
        return False
    return tuple(cell.strip().lower() for cell in first.split(",")) == HEADER


def read_iqa_list(file: Path, problems: Problems) -> list[Row]:
    """Rows with the cells (judged image, reference, score).

    Folders in the list are dropped, since published copies of a set differ in them, and so is its type of distortion,
    since two types of TID2013 share one name there: readers take it from the file name.

    Args:
        file: the list.
        problems: where faults are noted.

    Returns:
        The rows, with file names only.
    """
    _, rows = read_csv(file, problems)
    return [Row(r.file, r.line, (base_name(r.cells[0]), base_name(r.cells[2]), r.cells[3])) for r in rows]
