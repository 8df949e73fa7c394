"""Rows as tables: ratios inside one cell, exponents over cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from speed.measuring import power
from speed.running import Row

__all__ = ["Grid", "exponent_grid", "markdown", "memory_grid", "ratios", "rich_table", "time_grid"]

#: Title, column heads, rows of cells as text.
Grid = tuple[str, list[str], list[list[str]]]

_MB = 1e6


def ratios(row: Row, rows: Sequence[Row]) -> dict[str, float]:
    """A row against the reference form and LPIPS-VGG of the same cell.

    Args:
        row: the row.
        rows: all rows; those of other cells are not looked at.

    Returns:
        ``faster`` (time of the reference / time), ``kept``, ``recorded`` and ``peak`` (bytes / bytes of the reference),
        ``lpips`` (time / time of LPIPS-VGG); only what the cell allows.
    """
    cell = {(other.name, other.form): other for other in rows if other.place == row.place}
    base, lpips = cell.get((row.name, "reference")), cell.get(("lpips_vgg", "rival"))
    found = {}
    if base is not None:
        found["faster"] = base.median / row.median
        if base.kept:
            found["kept"] = row.kept / base.kept
        if base.recorded:
            found["recorded"] = row.recorded / base.recorded
        if base.peak and row.peak is not None:
            found["peak"] = row.peak / base.peak
    if lpips is not None:
        found["lpips"] = row.median / lpips.median
    return found


def time_grid(rows: Sequence[Row]) -> Grid:
    """Medians with what they are against the reference form and LPIPS-VGG of the same cell, cell by cell."""
    heads = ["side", "batch", "what", "ms", "spread", "x faster", "of LPIPS", "gradient cosine"]
    lines = []
    for row in sorted(rows, key=lambda row: row.place):
        found = ratios(row, rows)
        spread = (max(row.seconds) - min(row.seconds)) / row.median
        numbers = [f"{1000 * row.median:.0f}", f"{100 * spread:.0f} %", _number(found.get("faster"), "{:.2f}")]
        numbers += [_number(found.get("lpips"), "{:.2f}"), _number(row.cosine, "{:.5f}")]
        lines.append([str(row.side), str(row.batch), _title(row), *numbers])
    return "Time: forward and backward to sr", heads, lines


def memory_grid(rows: Sequence[Row]) -> Grid:
    """Bytes that autograd keeps and records, and peak memory, with what they are of the reference form's."""
    heads = ["side", "batch", "what", "kept MB", "of ref.", "recorded MB", "of ref.", "peak MB", "of ref."]
    lines = []
    for row in sorted(rows, key=lambda row: row.place):
        found = ratios(row, rows)
        numbers = [f"{row.kept / _MB:.1f}", _number(found.get("kept"), "{:.2f}")]
        numbers += [f"{row.recorded / _MB:.1f}", _number(found.get("recorded"), "{:.2f}")]
        numbers += [_number(None if row.peak is None else row.peak / _MB, "{:.0f}")]
        lines.append([str(row.side), str(row.batch), _title(row), *numbers, _number(found.get("peak"), "{:.2f}")])
    return "Memory of forward and backward to sr", heads, lines


def _title(row: Row) -> str:
    return row.name if row.form == "rival" else f"{row.name} {row.form}"


def exponent_grid(rows: Sequence[Row]) -> Grid:
    """P of time = c * side^p (at the smallest batch) and of time = c * batch^p (at the side with most batches)."""
    lines = []
    for name, form, title in dict.fromkeys((row.name, row.form, _title(row)) for row in rows):
        own = [row for row in rows if (row.name, row.form) == (name, form)]
        by_side = _most(own, lambda row: row.batch)
        by_batch = _most(own, lambda row: row.side)
        side = power({row.side: row.median for row in by_side})
        batch = power({row.batch: row.median for row in by_batch})
        if side is None and batch is None:
            continue
        sides = ", ".join(str(row.side) for row in by_side) if side is not None else "-"
        batches = ", ".join(str(row.batch) for row in by_batch) if batch is not None else "-"
        lines.append([title, _number(side, "{:.2f}"), sides, _number(batch, "{:.2f}"), batches])
    return "Exponents of time", ["what", "in side", "sides", "in batch", "batches"], lines


def _most(rows: Sequence[Row], group: Callable[[Row], int]) -> list[Row]:
    """The largest group of rows; the one with the smallest key among equals."""
    groups: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.place):
        groups.setdefault(group(row), []).append(row)
    return max((groups[key] for key in sorted(groups)), key=len)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def rich_table(grid: Grid) -> Table:
    """For a terminal."""
    title, heads, lines = grid
    table = Table(title=title)
    for number, head in enumerate(heads):
        options: dict[str, Any] = {} if head == "what" else {"justify": "right"}
        table.add_column(head, no_wrap=True, **options) if number else table.add_column(head, **options)
    for line in lines:
        table.add_row(*line)
    return table


def markdown(grid: Grid) -> str:
    """For a document."""
    _, heads, lines = grid
    rule = ["---" if head == "what" else "---:" for head in heads]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *lines))
