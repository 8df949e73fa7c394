"""A person watches: a bar with the time left on a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typing_extensions import Self

__all__ = ["Reporter"]

# Seconds between two lines where no terminal shows a bar.
QUIET = 30.0


class Reporter:
    """Progress of a training on stderr.

    Args:
        total: steps in all.
        done: steps done before (a resumed run).
        active: False in processes that must not talk.
        clock: seconds; for tests.
    """

    def __init__(self, total: int, done: int, *, active: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.active, self._clock = total, done, active, clock
        self._first, self._begun = done, clock()
        self._last_line = self._begun
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        """Show the bar, if a person is looking."""
        if self.active and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task("training", total=self.total, completed=self.done)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int, text: str) -> None:
        """One step is done; ``text`` says how it went."""
        self.done = step
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif self.active and self._clock() - self._last_line >= QUIET:
            self._last_line = self._clock()
            self.say(f"step {step}/{self.total}, {text}, {self.remaining()} left")

    def remaining(self) -> str:
        """Time left at the pace so far."""
        pace = (self._clock() - self._begun) / max(1, self.done - self._first)
        minutes, seconds = divmod(round(pace * (self.total - self.done)), 60)
        return f"{minutes} min {seconds:02d} s"

    def say(self, text: str) -> None:
        """A line of its own."""
        if self.active:
            (self._bar.console if self._bar is not None else self._console).print(text)
