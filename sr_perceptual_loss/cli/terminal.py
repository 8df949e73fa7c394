"""Talk on stderr; stdout belongs to data."""

from __future__ import annotations

from rich.console import Console

__all__ = ["say", "stderr"]


def stderr() -> Console:
    """A console on stderr; made at each use, since tests and job scripts exchange the stream."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """One sentence to the person at the terminal."""
    stderr().print(text)
