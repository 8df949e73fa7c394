"""The linear map between the opinion scores of a data set and [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from torch import Tensor

from sr_perceptual_loss.checks import as_float
from sr_perceptual_loss.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ScoreScale"]

V = TypeVar("V", float, np.ndarray, Tensor)


@dataclass(frozen=True)
class ScoreScale:
    """``unit = (score - low) / (high - low)``.

    A critic is trained on unit scores, so its checkpoint stores the scale. Take ``low`` and ``high`` from the training
    scores (:meth:`from_scores`) and use the same scale for validation, or take a documented range:
    ``ScoreScale(*label_set.score_range)``.

    Args:
        low: score that becomes 0.
        high: score that becomes 1.

    Raises:
        InputError: not finite, or ``low`` is not below ``high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", as_float("low", self.low))
        object.__setattr__(self, "high", as_float("high", self.high))
        if self.low >= self.high:
            raise InputError(
                f"score scale: got low {self.low:g} and high {self.high:g}, expected low < high; a critic cannot be "
                "trained on scores that are all equal."
            )

    @classmethod
    def from_scores(cls, scores: Iterable[float]) -> Self:
        """The scale from the lowest to the highest of the training scores.

        Raises:
            InputError: no scores, a value that is not finite, or all equal.
        """
        values = [as_float("score", score) for score in scores]
        if not values:
            raise InputError("score scale: got no scores, expected those of the training images.")
        return cls(min(values), max(values))

    def to_unit(self, score: V) -> V:
        """Unit score; outside [0, 1] for scores beyond the ends (nothing is clamped)."""
        return (score - self.low) / (self.high - self.low)
