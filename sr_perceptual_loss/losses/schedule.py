"""Schedule: when a loss acts and how strongly, as a pure function of the global iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from sr_perceptual_loss.checks import as_int, check_known_keys
from sr_perceptual_loss.errors import InputError

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """factor(i) = clip((i - start) / ramp, 0, 1), and 0 from ``end`` on and where i is no multiple of ``every``.

    It does not count calls, so gradient accumulation, closures and skipped GAN steps cannot shift it. A resumed run
    continues exactly, because the iteration is passed in by ``loss.step(iteration)``.

    Attributes:
        start: first iteration at which the loss may act.
        ramp: number of iterations of linear growth after ``start``; 0 means none. With a ramp the factor is still 0 at
            ``start`` and 1 from ``start + ramp`` on.
        end: first iteration at which the loss is off again; None means never.
        every: the loss acts only in iterations that are multiples of it; its weight is not increased in return.
    """

    start: int = 0
    ramp: int = 0
    end: int | None = None
    every: int = 1

    def __post_init__(self) -> None:
        """Convert numbers that YAML delivers as text, and validate."""
        object.__setattr__(self, "start", as_int("schedule.start", self.start))
        object.__setattr__(self, "ramp", as_int("schedule.ramp", self.ramp))
        object.__setattr__(self, "every", as_int("schedule.every", self.every, minimum=1))
        if self.end is not None:
            object.__setattr__(self, "end", as_int("schedule.end", self.end))
            if self.end <= self.start:
                raise InputError(
                    f"schedule: end {self.end} is not after start {self.start}, so the loss would never act. Both are "
                    "global iterations, not lengths."
                )
            # With a ramp the factor is still 0 at the start.
            first = -(-(self.start + (self.ramp > 0)) // self.every) * self.every
            if first >= self.end:
                raise InputError(
                    f"schedule: no multiple of every ({self.every}) is between start {self.start} and end {self.end}, "
                    "so the loss would never act."
                )

    @classmethod
    def from_config(cls, value: Schedule | Mapping[str, object] | None) -> Schedule:
        """A schedule from the value of a YAML key: a schedule, a mapping of its fields, or None (always on).

        Raises:
            InputError: unknown key or wrong value.
        """
        if value is None:
            return cls()
        if isinstance(value, Schedule):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"schedule: got {value!r}, expected a mapping such as {{start: 5000, ramp: 2000}}.")
        check_known_keys("schedule", value, [f.name for f in fields(cls)])
        return cls(**value)  # type: ignore[arg-type]

    @property
    def constant(self) -> bool:
        """True if the factor is 1 in every iteration, so that the iteration need not be known."""
        return self.start == self.ramp == 0 and self.end is None and self.every == 1

    def ramp_factor(self, iteration: int) -> float:
        """The ramp alone, in [0, 1]: ``factor`` without the effect of ``every`` and ``end``."""
        if iteration < self.start:
            return 0.0
        return 1.0 if self.ramp == 0 else min(1.0, (iteration - self.start) / self.ramp)

    def factor(self, iteration: int) -> float:
        """The factor on the weight.

        Args:
            iteration: global iteration, >= 0.

        Returns:
            A number in [0, 1]; 0 means that the loss need not be computed.
        """
        if iteration % self.every or (self.end is not None and iteration >= self.end):
            return 0.0
        return self.ramp_factor(iteration)
