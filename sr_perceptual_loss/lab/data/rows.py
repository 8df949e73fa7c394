"""Rows of label files with their line numbers, and the report of everything that is wrong with them.

Tables are read as spreadsheets write them: separated by commas, semicolons or tabs (the first line tells, or a line
``sep=;`` before it), in UTF-8 or UTF-16, with decimal commas, empty columns at the end and empty rows.
"""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sr_perceptual_loss.errors import InputError

__all__ = ["IQA_LIST", "Problems", "Row", "base_name", "is_iqa_list", "read_lines", "read_rows"]

#: Header of the label lists of the IQA-Dataset project: one CSV per data set.
IQA_LIST = ("dis_img_path", "dis_type", "ref_img_path", "score")

#: A number with a decimal comma.
_DECIMAL_COMMA = re.compile(r"[+-]?[\d.]+,\d+(?:[eE][+-]?\d+)?")
#: Without and with decimal commas: a number whose commas or points separate thousands, or may do so.
_THOUSANDS = (
    re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?"),
    re.compile(r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d*)?"),
)


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
        """Note one problem of a file, or of a line of it (from 1)."""
        entry = f"{file}{'' if line is None else f', line {line}'}: {what}"
        if entry not in self._lines:
            self._lines.append(entry)

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
    """One row of a label file."""

    file: Path  # the label file
    line: int  # line number, from 1
    cells: tuple[str, ...]  # its columns, without blanks around them
    decimal_comma: bool = False  # whether numbers of this file have a comma where others have a point

    def number(self, cell: str) -> float | None:
        """The number in a cell, NaN if it is none, None if its commas or points may separate thousands."""
        if _THOUSANDS[self.decimal_comma].fullmatch(cell):
            return None
        try:
            # Python reads 1_5 as 15.
            return float(cell.replace("_", "?").replace(",", "." if self.decimal_comma else ","))
        except ValueError:
            return math.nan


def read_lines(file: Path, problems: Problems) -> list[tuple[int, str]]:
    """Line numbers from 1 and stripped lines that are not blank; accents are composed (NFC).

    The file is in UTF-8, or in UTF-16 with a byte order mark. One that is missing, empty or no text is a problem.
    """
    try:
        text = _text(file)
    except FileNotFoundError:
        problems.add(file, None, "label file not found.")
        return []
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a null character in the name
        problems.add(file, None, f"not a readable text file, expected UTF-8 or UTF-16 ({error}).")
        return []
    # Tabs at the ends are empty cells.
    lines = [
        (number, line.strip(" \r\n")) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1) if line.strip()
    ]
    if not lines:
        problems.add(file, None, "the file is empty; expected one row per image.")
    return lines


def _text(file: Path) -> str:
    data = file.read_bytes()
    if data.startswith(b"PK\x03\x04"):
        raise ValueError("it is a workbook or an archive; save the sheet as CSV")
    if data.count(0) > len(data) // 4 and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it looks like UTF-16 without a byte order mark, or binary")
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return unicodedata.normalize("NFC", data.decode(encoding)).lstrip("\ufeff")  # some programs write a second mark


def read_rows(
    file: Path, problems: Problems, columns: Sequence[str] = (), separator: str | None = ","
) -> tuple[tuple[str, ...], list[Row]]:
    """Names of the columns, and the rows that have as many columns.

    Args:
        file: label file.
        problems: gets what cannot be read; of all rows with a wrong number of columns the first.
        columns: names of the columns; empty if the first line of the file is a header.
        separator: ``,`` for a table of a spreadsheet (see above; cells may be quoted), another text, or None for any
            white space.

    Returns:
        The columns (a header in lower case) and the rows; both empty if there is no header where one is expected.
    """
    lines = read_lines(file, problems)
    if separator == "," and lines:
        separator = _separator(lines)
    table = separator is not None and separator in ",;\t"
    names = tuple(columns)
    rows: list[Row] = []
    wrong: list[Row] = []
    # Label files have no quoted line breaks, so each line is parsed alone and its number is exact.
    for line, text in lines:
        try:
            cells = _cells(text, separator) if table else tuple(cell.strip() for cell in text.split(separator))
        except csv.Error as error:
            problems.add(file, line, f"not a row of a table ({error}).")
            continue
        if not names:
            names = tuple(cell.lower() for cell in cells)
            if len(names) == 1:
                expected = "columns between commas, semicolons or tabs, or between the marks of a first line sep=|"
                problems.add(file, line, f"got one column '{text[:80]}', expected {expected}.")
                return (), []
        elif not table or any(cells):
            if table:  # spreadsheets add empty cells, or leave them out
                cells = (*cells, *("" for name in names[len(cells) :] if not name))
                cells = (*cells[: len(names)], *(cell for cell in cells[len(names) :] if cell))
            (rows if len(cells) == len(names) else wrong).append(Row(file, line, cells))
    if wrong:
        more = f"; {len(wrong) - 1} more row(s) have a wrong number" if len(wrong) > 1 else ""
        shown, form = ((separator or " ").join(cells) for cells in (wrong[0].cells, names))
        problem = f"got {len(wrong[0].cells)} column(s): '{shown[:80]}', expected {len(names)}: {form}{more}."
        problems.add(file, wrong[0].line, problem)
    if len(lines) == 1 and not columns:
        problems.add(file, None, "the file has a header but no rows.")
    return names, _with_decimal_commas(rows, separator)


def _separator(lines: list[tuple[int, str]]) -> str:
    """Of a table, from its first line; a line such as ``sep=;`` is removed."""
    declared = re.fullmatch(r'"?sep=(.)"?', lines[0][1], re.IGNORECASE)
    if declared and len(lines) > 1:
        del lines[0]
        return declared[1]
    return max(",;\t", key=re.sub(r'"[^"]*"', "", lines[0][1]).count)  # the most frequent one outside of quotes


def _cells(line: str, separator: str | None) -> tuple[str, ...]:
    cells, *rest = csv.reader([line, ""], delimiter=separator or ",", skipinitialspace=True)
    if not rest:
        raise csv.Error("a quote is not closed in its line")
    return tuple(cell.strip() for cell in cells)


def _with_decimal_commas(rows: list[Row], separator: str | None) -> list[Row]:
    """The rows, marked if the file has decimal commas: ``1,520`` alone does not tell, semicolons or ``1,5`` do."""
    numbers = [cell for row in rows for cell in row.cells if _DECIMAL_COMMA.fullmatch(cell)]
    decimal = numbers and (separator == ";" or not all(_THOUSANDS[False].fullmatch(cell) for cell in numbers))
    return [replace(row, decimal_comma=True) for row in rows] if decimal else rows


def is_iqa_list(file: Path) -> bool:
    """Whether a file starts with the header ``IQA_LIST``; False if it cannot be read."""
    header, _ = read_rows(file, Problems(""))
    return header == IQA_LIST


def base_name(path: str) -> str:
    """File name of a path that is written with either kind of slash."""
    return path.replace("\\", "/").rpartition("/")[2]
