"""Correlation of predicted with human scores, one number at a time; scipy computes.

What is not defined (constant values, fewer than two images) is NaN, never 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.optional import need

__all__ = ["NAN", "Floats", "checked_pair", "krcc", "plcc", "rmse", "srcc", "varies"]

Floats = NDArray[np.float64]
NAN = float("nan")


def checked_pair(predictions: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Both as one-dimensional float64.

    Raises:
        InputError: lengths that differ, or a value that is not finite.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (predictions, scores))
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(
            f"predictions and scores: got shapes {x.shape} and {y.shape}, expected two lists of one length."
        )
    for name, values in (("predictions", x), ("scores", y)):
        if not np.isfinite(values).all():
            where = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(f"{name}: entry {where} is {values[where]}; leave out what has no score.")
    return x, y


def varies(*arrays: Floats) -> bool:
    """Whether a correlation is defined: two or more entries, and none of the arrays constant."""
    # What differs by rounding only is constant: its correlation would be noise.
    return all(len(a) >= 2 and bool(np.ptp(a) > 1e-12 * np.abs(a).max()) for a in arrays)


def srcc(predictions: ArrayLike, scores: ArrayLike) -> float:
    """Spearman's rank correlation; ties get their mean rank. NaN where one side is constant."""
    x, y = checked_pair(predictions, scores)
    return float(need("scipy.stats").spearmanr(x, y).statistic) if varies(x, y) else NAN


def plcc(predictions: ArrayLike, scores: ArrayLike) -> float:
    """Pearson's linear correlation of the raw values (no fit). NaN where one side is constant."""
    x, y = checked_pair(predictions, scores)
    return float(need("scipy.stats").pearsonr(x, y).statistic) if varies(x, y) else NAN


def krcc(predictions: ArrayLike, scores: ArrayLike) -> float:
    """Kendall's tau-b, which corrects for ties. NaN where one side is constant."""
    x, y = checked_pair(predictions, scores)
    return float(need("scipy.stats").kendalltau(x, y).statistic) if varies(x, y) else NAN


def rmse(predictions: ArrayLike, scores: ArrayLike) -> float:
    """sqrt(mean((predictions - scores)^2)); for raw critic scores only meaningful after :func:`logistic_fit`."""
    x, y = checked_pair(predictions, scores)
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else NAN
