"""Messages and progress on stderr, data and tables on stdout; both may be the same terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import typer

__all__ = ["echo", "log", "one_line", "print_table", "track"]

T = TypeVar("T")

#: Width that the last column of a table has at least, if its texts are that long.
PROSE = 20


def log(text: str) -> None:
    """A message on stderr; it may hold names of files."""
    _status("")
    typer.echo("\n".join(map(one_line, text.split("\n"))), err=True)


def echo(text: str) -> None:
    """A line on stdout."""
    _status("")
    typer.echo(text)


def one_line(text: str) -> str:
    """The text with everything but printable characters escaped, so that a name breaks no line and no terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _status(text: str) -> None:
    """Replace the line of progress at the bottom of the terminal; whatever is printed removes it first."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        # A text as wide as the terminal would begin a new line. ESC [K clears the rest of the line.
        sys.stderr.write(f"\r{text[: max(1, shutil.get_terminal_size().columns - 1)]}\x1b[K\r")
        sys.stderr.flush()


def track(items: Sequence[T], label: str) -> Iterator[T]:
    """The items one by one, with a line of progress if stderr is a terminal."""
    start = time.monotonic()
    try:
        for done, item in enumerate(items):
            left = (time.monotonic() - start) / done * (len(items) - done) if done else 0
            _status(f"{label} {done + 1} of {len(items)}" + (f", about {left / 60:.0f} min left" * (left > 60)))
            yield item
    finally:
        _status("")


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout: aligned columns on a terminal, else tabs between the columns.

    A table that is too wide for the terminal is cut between columns; the rest follows with the first column repeated.
    Only the last column may have several lines.
    """
    lines = [heads, *rows]
    if not sys.stdout.isatty():
        for line in lines:
            echo("\t".join(line))
        return
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    screen = shutil.get_terminal_size().columns
    groups, used = [[0]], widths[0]
    for column in range(1, len(heads)):
        needed = 2 + (min(widths[column], PROSE) if column == len(heads) - 1 else widths[column])
        if used + needed > screen and len(groups[-1]) > 1:
            groups.append([0])
            used = widths[0]
        groups[-1].append(column)
        used += needed
    for *aligned, last in groups:
        indent = sum(widths[column] + 2 for column in aligned)
        wrapper = textwrap.TextWrapper(max(screen, indent + PROSE), subsequent_indent=" " * indent)
        for line in lines:
            cells = [*(f"{line[column]:<{widths[column]}}" for column in aligned), line[last]]
            echo(wrapper.fill("  ".join(cells).rstrip()))
