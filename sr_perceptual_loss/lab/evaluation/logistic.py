"""The logistic curve from critic scores to opinion scores, before Pearson's correlation and RMSE."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sr_perceptual_loss.lab.evaluation.coefficients import NAN, Floats, checked_pair, plcc, srcc, varies
from sr_perceptual_loss.lab.evaluation.optional import need

__all__ = ["LogisticFit", "logistic_fit"]


@dataclass(frozen=True)
class LogisticFit:
    """A rising four-parameter curve from predictions to the scale of the opinion scores.

    Attributes:
        low: value on the far left.
        high: value on the far right, above ``low``.
        middle: prediction at which the curve is half way.
        width: its slope is (high - low) / (4 width) there.
        reason: why there is no curve; empty if there is one.
    """

    low: float = NAN
    high: float = NAN
    middle: float = NAN
    width: float = NAN
    reason: str = ""

    def __call__(self, predictions: ArrayLike) -> Floats:
        """Value of the curve, low + (high - low) / (1 + exp(-(x - middle) / width)); NaN without a curve."""
        x = np.asarray(predictions, dtype=np.float64)
        if self.reason:
            return np.full(x.shape, NAN)
        curve = need("scipy.special").expit((x - self.middle) / self.width)
        return np.asarray(self.low + (self.high - self.low) * curve)


def logistic_fit(predictions: ArrayLike, scores: ArrayLike) -> LogisticFit:
    """Least-squares fit of the four-parameter logistic curve of the VQEG.

    The curve may only rise: a fit that may also fall would turn a critic that ranks the wrong way round into a good
    one.

    Args:
        predictions: critic scores, (n,).
        scores: opinion scores, (n,).

    Returns:
        The curve, or one with a ``reason`` and NaN everywhere: fewer than five images, constant values, a critic that
        does not rank the right way at all, or a fit that does not converge.

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
        # In standard units, where one set of start values and bounds suits every critic and every opinion scale.
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
