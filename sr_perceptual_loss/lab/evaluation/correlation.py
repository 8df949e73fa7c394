"""Statistics: correlation of predicted with opinion scores, the logistic fit, and bootstrap intervals.

A correlation that is not defined (constant values, fewer than two images) is NaN, never 0. Intervals resample whole
reference contents: the versions of one reference are not independent, so resampling single images would give intervals
that are too narrow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from sr_perceptual_loss.checks import as_int
from sr_perceptual_loss.errors import InputError

__all__ = [
    "LogisticFit",
    "cluster_draws",
    "interval",
    "krcc",
    "logistic_fit",
    "plcc",
    "resampling_unit",
    "rmse",
    "srcc",
]

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
#: (low, high); NaN where it is not defined.
Interval = tuple[float, float]
NAN = float("nan")
#: Confidence level of all intervals.
CONFIDENCE = 0.95


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
    x, y = checked_pair(predictions, scores)
    return float(stats.spearmanr(x, y).statistic) if varies(x, y) else NAN


def plcc(predictions: ArrayLike, scores: ArrayLike) -> float:
    """Pearson's linear correlation of the raw values (no fit). NaN where one side is constant."""
    x, y = checked_pair(predictions, scores)
    return float(stats.pearsonr(x, y).statistic) if varies(x, y) else NAN


def krcc(predictions: ArrayLike, scores: ArrayLike) -> float:
    """Kendall's tau-b, which corrects for ties. NaN where one side is constant."""
    x, y = checked_pair(predictions, scores)
    return float(stats.kendalltau(x, y).statistic) if varies(x, y) else NAN


def rmse(predictions: ArrayLike, scores: ArrayLike) -> float:
    """sqrt(mean((predictions - scores)^2)); for raw critic scores only meaningful after :func:`logistic_fit`."""
    x, y = checked_pair(predictions, scores)
    return float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else NAN


@dataclass(frozen=True)
class LogisticFit:
    """A rising four-parameter curve from predictions to the scale of the opinion scores."""

    low: float = NAN  # limit for low predictions
    high: float = NAN  # limit for high predictions, above ``low``
    middle: float = NAN  # prediction at which the curve is half way
    width: float = NAN  # the slope there is (high - low) / (4 width)
    reason: str = ""  # why there is no curve; empty if there is one

    def __call__(self, predictions: ArrayLike) -> Floats:
        """The curve low + (high - low) / (1 + exp(-(x - middle) / width)), same shape; NaN without one."""
        x = np.asarray(predictions, dtype=np.float64)
        if self.reason:
            return np.full(x.shape, NAN)
        curve = special.expit((x - self.middle) / self.width)
        return np.asarray(self.low + (self.high - self.low) * curve)


def logistic_fit(predictions: ArrayLike, scores: ArrayLike) -> LogisticFit:
    """Least-squares fit of the four-parameter logistic curve of the VQEG, from critic to opinion scores, (n,) each.

    The curve can only rise: a falling fit would hide that a critic ranks images the wrong way round.

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

    def curve(z: Floats, low: float, rise: float, middle: float, width: float) -> Floats:
        return np.asarray(low + rise * special.expit((z - middle) / width))

    try:
        # In standard units the same start values and bounds suit every critic and every opinion scale.
        (low, rise, middle, width), _ = optimize.curve_fit(
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


def indices_by_content(contents: Sequence[str]) -> dict[str, Indices]:
    """Reference content -> indices of its entries, in the order of the names."""
    names = np.asarray(contents, dtype=object)
    return {name: np.flatnonzero(names == name) for name in sorted(set(contents))}


def resampling_unit(contents: Sequence[str]) -> str:
    """What :func:`cluster_draws` resamples: ``references``, or ``images`` where there are fewer than three."""
    return "references" if len(set(contents)) >= 3 else "images"


def cluster_draws(statistic: Callable[[Indices], float], contents: Sequence[str], resamples: int, seed: int) -> Floats:
    """Bootstrap values of ``statistic`` under resampling of reference contents with replacement.

    With fewer than three contents single entries are resampled instead; their spread does not extend to other contents.
    The draws depend on ``contents``, ``resamples`` and ``seed`` alone, so that the values of two critics are pairs.

    Args:
        statistic: indices of entries (with repetitions) -> the number; NaN where it is not defined.
        contents: reference content of each entry.
        resamples: number of draws, that is of values in the result; 0 for none. Fewer than two units give none.
        seed: of the draws.

    Raises:
        InputError: a negative number.
    """
    as_int("bootstrap", resamples)
    as_int("seed", seed)
    members = [np.array([i], dtype=np.intp) for i in range(len(contents))]
    if resampling_unit(contents) == "references":
        members = list(indices_by_content(contents).values())
    if resamples == 0 or len(members) < 2:
        return np.empty(0)

    def of_units(units: NDArray[np.float64]) -> float:
        return statistic(np.concatenate([members[int(unit)] for unit in units]))

    with warnings.catch_warnings():
        # Where a draw is NaN, scipy warns of a method that is not used here.
        warnings.filterwarnings("ignore", message="The BCa confidence interval cannot be calculated")
        result = stats.bootstrap(
            (np.arange(len(members)),),
            of_units,
            n_resamples=resamples,
            batch=100,
            vectorized=False,
            method="percentile",
            random_state=np.random.default_rng(seed),
        )
    return np.asarray(result.bootstrap_distribution, dtype=np.float64)


def interval(draws: Floats) -> Interval:
    """95 % percentile interval of bootstrap values; both ends NaN where there are none, or more than half are NaN."""
    # scipy's own interval is NaN as soon as one draw is, which happens where few images are resampled.
    finite = draws[np.isfinite(draws)]
    if len(finite) == 0 or 2 * len(finite) < len(draws):
        return NAN, NAN
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
