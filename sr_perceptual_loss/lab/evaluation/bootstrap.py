"""Confidence intervals of a number that is computed from images, by resampling whole reference contents.

The versions of one reference are not independent: resampling single images would give intervals that are too narrow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sr_perceptual_loss.checks import as_int
from sr_perceptual_loss.lab.evaluation.correlation import NAN
from sr_perceptual_loss.lab.evaluation.optional import need

__all__ = ["CONFIDENCE", "Indices", "Interval", "cluster_interval", "resampling_unit"]

#: Confidence level of all intervals.
CONFIDENCE = 0.95

#: (low, high); NaN where it is not defined.
Interval = tuple[float, float]

Indices = NDArray[np.intp]


def resampling_unit(contents: Sequence[str]) -> str:
    """What :func:`cluster_interval` resamples: ``references``, or ``images`` where there are fewer than three."""
    return "references" if len(set(contents)) >= 3 else "images"


def cluster_interval(
    statistic: Callable[[Indices], float], contents: Sequence[str], resamples: int, seed: int
) -> Interval:
    """95 % percentile bootstrap interval of ``statistic`` under resampling of reference contents with replacement.

    With fewer than three contents single entries are resampled instead; such an interval does not extend to other
    contents.

    Args:
        statistic: indices of entries (with repetitions) -> the number; NaN where it is not defined.
        contents: reference content of each entry.
        resamples: number of draws; 0 for no interval.
        seed: of the draws.

    Returns:
        (low, high); both NaN without resamples, with fewer than two units to draw from, or where the statistic is
        undefined in more than half of the draws.

    Raises:
        InputError: a negative number.
        InstallError: scipy is missing.
    """
    as_int("bootstrap", resamples)
    as_int("seed", seed)
    members = [np.array([i], dtype=np.intp) for i in range(len(contents))]
    if resampling_unit(contents) == "references":
        names = np.asarray(contents, dtype=object)
        members = [np.flatnonzero(names == name) for name in sorted(set(contents))]
    if resamples == 0 or len(members) < 2:
        return NAN, NAN

    def of_units(units: NDArray[np.float64]) -> float:
        return statistic(np.concatenate([members[int(unit)] for unit in units]))

    with warnings.catch_warnings():
        # Where a draw is NaN, scipy warns of a method that is not used here.
        warnings.filterwarnings("ignore", message="The BCa confidence interval cannot be calculated")
        result = need("scipy.stats").bootstrap(
            (np.arange(len(members)),),
            of_units,
            n_resamples=resamples,
            batch=100,
            vectorized=False,
            method="percentile",
            random_state=np.random.default_rng(seed),
        )
    # scipy's own interval is NaN as soon as one draw is, which happens where few images are resampled.
    draws = np.asarray(result.bootstrap_distribution, dtype=np.float64)
    draws = draws[np.isfinite(draws)]
    if 2 * len(draws) < resamples:
        return NAN, NAN
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
