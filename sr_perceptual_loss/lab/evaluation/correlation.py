"""Correlation of predicted scores with opinion scores, and the logistic fit before Pearson's correlation and RMSE.

A correlation that is not defined (constant values, fewer than two images) is NaN, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.optional import need

__all__ = ["NAN", "Floats", "LogisticFit", "checked_pair", "krcc", "logistic_fit", "plcc", "rmse", "srcc", "varies"]

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
            f"predictions and scores: got shapes {x.shape} and {y.shape}, expected two lists of the same length."
        )
    for name, values in (("predictions", x), ("scores", y)):
        if not np.isfinite(values).all():
            index = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(f"{name}: entry {index} is {values[index]}; leave out images without a score.")
    return x, y


def varies(*arrays: Floats) -> bool:
    """Whether a correlation is defined: two or more entries, and no array is constant."""
    # Values that differ only by rounding count as constant: their correlation would be noise.
    return all(len(a) >= 2 and bool(np.ptp(a) > 1e-12 * np.abs(a).max()) for a in arrays)


def srcc(predictions: ArrayLike, scores: ArrayLike) -> float:
    """Spearman's rank correlation; ties get their mean rank. NaN where one side is constant."""
    return _coefficient("spearmanr", predictions, scores)


def plcc(predictions: ArrayLike, scores: ArrayLike) -> float:
    """Pearson's linear correlation of the raw values (no fit). NaN where one side is constant."""
    return _coefficient("pearsonr", predictions, scores)


def krcc(predictions: ArrayLike, scores: ArrayLike) -> float:
    """Kendall's tau-b, which corrects for ties. NaN where one side is constant."""
    return _coefficient("kendalltau", predictions, scores)


def _coefficient(name: str, predictions: ArrayLike, scores: ArrayLike) -> float:
    x, y = checked_pair(predictions, scores)
    return float(getattr(need("scipy.stats"), name)(x, y).statistic) if varies(x, y) else NAN


def rmse(predictions: ArrayLike, scores: ArrayLike) -> float:
    """sqrt(mean((predictions - scores)^2)); for raw critic scores only meaningful after :func:`logistic_fit`."""
    x, y = checked_pair(predictions, scores)
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else NAN


@dataclass(frozen=True)
class LogisticFit:
    """A rising four-parameter curve from predictions to the scale of the opinion scores.

    Attributes:
        low: limit for low predictions.
        high: limit for high predictions, above ``low``.
        middle: prediction at which the curve is half way.
        width: the slope there is (high - low) / (4 width).
        reason: why there is no curve; empty if there is one.
    """

    low: float = NAN
    high: float = NAN
    middle: float = NAN
    width: float = NAN
    reason: str = ""

    def __call__(self, predictions: ArrayLike) -> Floats:
        """low + (high - low) / (1 + exp(-(x - middle) / width)), same shape; NaN without a curve."""
        x = np.asarray(predictions, dtype=np.float64)
        if self.reason:
            return np.full(x.shape, NAN)
        curve = need("scipy.special").expit((x - self.middle) / self.width)
        return np.asarray(self.low + (self.high - self.low) * curve)


def logistic_fit(predictions: ArrayLike, scores: ArrayLike) -> LogisticFit:
    """Least-squares fit of the four-parameter logistic curve of the VQEG.

    The curve can only rise: a falling fit would hide that a critic ranks images the wrong way round.

    Args:
        predictions: critic scores, (n,).
        scores: opinion scores, (n,).

    Returns:
        The curve, or one with a ``reason`` and NaN everywhere: fewer than five images, constant values, a critic that
        ranks the wrong way round, or a fit that does not converge.

    Source: VQEG, FR-TV phase II, 2003; ITU-R BT.500.
    """
    x, y = checked_pair(predictions, scores)
    if len(x) < 5:
        return LogisticFit(reason=f"four parameters need at least 5 images, got {len(x)}")
    if not varies(x, y):
        return LogisticFit(reason="constant predictions or scores")
    if not plcc(x, y) > 0 and not srcc(x, y) > 0:
        return LogisticFit(reason="predictions fall where opinions rise, so no rising curve fits")
    centre, spread, bottom, height = float(np.median(x)), float(np.std(x)), float(y.min()), float(np.ptp(y))
    expit = need("scipy.special").expit

    def curve(z: Floats, low: float, rise: float, middle: float, width: float) -> Floats:
        return np.asarray(low + rise * expit((z - middle) / width))

    try:
        # In standard units the same start values and bounds suit every critic and every opinion scale.
        (low, rise, middle, width), _ = need("scipy.optimize").curve_fit(
            curve,
            (x - centre) / spread,
            (y - bottom) / height,
            p0=(0.0, 1.0, 0.0, 0.5),
            bounds=((-10.0, 0.0, -20.0, 1e-3), (10.0, 20.0, 20.0, 20.0)),
            max_nfev=5000,
        )
    except RuntimeError as error:
        return LogisticFit(reason=f"the fit does not converge ({str(error).splitlines()[0]})")
    fit = LogisticFit(
        low=bottom + height * float(low),
        high=bottom + height * float(low + rise),
        middle=centre + spread * float(middle),
        width=spread * float(width),
    )
    return fit if np.ptp(fit(x)) > 1e-9 * height else LogisticFit(reason="the best rising curve is a constant")
