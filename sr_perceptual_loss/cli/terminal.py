"""Messages and progress on stderr, tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import typer

__all__ = ["log", "print_table", "track"]

T = TypeVar("T")


def log(text: str) -> None:
    """A line on stderr."""
    typer.echo(text, err=True)


def track(items: Sequence[T], label: str) -> Iterator[T]:
    """The items one by one, with a progress bar if stderr is a terminal."""
    if len(items) < 2 or not sys.stderr.isatty():
        yield from items
        return
    with typer.progressbar(items, label=label, file=sys.stderr) as bar:
        yield from bar


def print_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A formatted table on stdout; needs rich, of the extra ``lab``."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
