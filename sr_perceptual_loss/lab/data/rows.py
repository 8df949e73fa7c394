"""Rows of label files with their line numbers; what cannot be read goes into the report."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from sr_perceptual_loss.lab.data.labels import Problems

__all__ = ["Row", "read_csv", "read_lines", "split_rows"]


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
    """Line numbers and lines that are not blank; a byte order mark and CRLF are taken off.

    Args:
        file: a text file in UTF-8.
        problems: where a file that is missing, empty or no text is noted.

    Returns:
        (line number from 1, stripped line); empty if something was noted.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        problems.add(file, None, f"label file not found; {_holds(file.parent)}.")
        return []
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a name with a zero in it
        problems.add(file, None, f"no readable text file ({error}).")
        return []
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        problems.add(file, None, "the file is empty; expected one row per image.")
    return lines


def split_rows(file: Path, problems: Problems, *, separator: str | None, form: str) -> list[Row]:
    """Rows of a file without a header.

    Args:
        file: label file.
        problems: where faults are noted.
        separator: between the columns; None for any white space.
        form: one row as it should be, such as ``name,score``; its parts are counted.

    Returns:
        The rows that have as many columns as ``form``.
    """
    expected = len(form.split(separator))
    rows = []
    for line, text in read_lines(file, problems):
        cells = tuple(cell.strip() for cell in text.split(separator))
        if len(cells) == expected:
            rows.append(Row(file, line, cells))
        else:
            problems.add(file, line, f"got {len(cells)} column(s): '{text[:80]}', expected {expected}: {form}.")
    return rows


def read_csv(file: Path, problems: Problems) -> tuple[tuple[str, ...], list[Row]]:
    """Header (lower case) and rows of a comma-separated file.

    Args:
        file: label file whose first line names the columns.
        problems: where faults are noted.

    Returns:
        The header and the rows that have as many columns as it; both empty if the file could not be read.
    """
    lines = read_lines(file, problems)
    if not lines:
        return (), []
    # Label files hold no quoted line breaks, so each line is parsed alone and its number is exact.
    parsed = []
    for line, text in lines:
        try:
            parsed.append((line, tuple(cell.strip() for cell in next(csv.reader([text])))))
        except csv.Error as error:
            problems.add(file, line, f"no comma-separated row ({error}).")
    if not parsed or parsed[0][0] != lines[0][0]:
        return (), []
    header = tuple(cell.lower() for cell in parsed[0][1])
    rows = []
    for line, cells in parsed[1:]:
        if len(cells) == len(header):
            rows.append(Row(file, line, cells))
        else:
            problems.add(file, line, f"got {len(cells)} column(s), the header has {len(header)}: {','.join(header)}.")
    if len(lines) == 1:
        problems.add(file, None, "the file has a header and no rows.")
    return header, rows


def _holds(folder: Path) -> str:
    """What is in a folder, for messages."""
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    names = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(names[:10]) or "nothing"
    return f"{folder} holds {shown}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")
