"""Confidence intervals of a number that is computed from images, by resampling whole scenes.

Versions of one picture are judged alike, so images are no independent draws: resampling them one by one would give
intervals that are too narrow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_perceptual_loss.checks import as_float, as_int
from sr_perceptual_loss.lab.evaluation.optional import need

__all__ = ["FEWEST_SCENES", "Bootstrap", "Interval", "cluster_interval", "resampling_unit"]

#: (low, high); NaN where it cannot be had.
Interval = tuple[float, float]

#: With fewer scenes than this, images are resampled instead.
FEWEST_SCENES = 3


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        resamples: number of draws; 0 for no intervals.
        seed: of the draws.
        confidence: in [0.5, 1).
    """

    resamples: int = 1000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Check the numbers."""
        as_int("bootstrap", self.resamples)
        as_int("seed", self.seed)
        as_float("confidence", self.confidence, minimum=0.5, maximum=0.9999)


def resampling_unit(scenes: Sequence[str]) -> str:
    """What :func:`cluster_interval` draws for entries of these scenes: ``scenes`` or ``images``."""
    return "scenes" if len(set(scenes)) >= FEWEST_SCENES else "images"


def cluster_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    scenes: Sequence[str],
    options: Bootstrap,
) -> Interval:
    """Percentile bootstrap interval of ``statistic`` under resampling of scenes with replacement.

    With fewer than three scenes single entries are resampled instead (see :func:`resampling_unit`); such an interval
    says nothing about other scenes.

    Args:
        statistic: indices of entries (with repetitions) -> the number; NaN where it is not defined for them.
        scenes: scene of each entry.
        options: draws, seed and confidence.

    Returns:
        (low, high); both NaN without resamples, with fewer than two units to draw from, or where the statistic is
        undefined in more than half of the draws.

    Raises:
        InstallError: scipy is missing.
    """
    confidence = options.confidence
    members: list[NDArray[np.intp]]
    if resampling_unit(scenes) == "scenes":
        names = np.asarray(scenes, dtype=object)
        members = [np.flatnonzero(names == name) for name in sorted(set(scenes))]
    else:
        members = [np.array([i], dtype=np.intp) for i in range(len(scenes))]
    if options.resamples == 0 or len(members) < 2:
        return float("nan"), float("nan")

    def of_units(units: NDArray[np.float64]) -> float:
        return statistic(np.concatenate([members[int(unit)] for unit in units]))

    with warnings.catch_warnings():
        # Where a draw is NaN, scipy warns of a method that is not used here; such draws are dealt with below.
        warnings.filterwarnings("ignore", message="The BCa confidence interval cannot be calculated")
        result = need("scipy.stats").bootstrap(
            (np.arange(len(members)),),
            of_units,
            n_resamples=options.resamples,
            batch=100,
            vectorized=False,
            method="percentile",
            confidence_level=confidence,
            random_state=np.random.default_rng(options.seed),
        )
    # scipy's own interval is NaN as soon as one draw is, which happens where few images are resampled.
    draws = np.asarray(result.bootstrap_distribution, dtype=np.float64)
    draws = draws[np.isfinite(draws)]
    if 2 * len(draws) < options.resamples:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
