"""Agreement of predicted with human scores: overall, and as the mean over scenes, with intervals.

Scores of a critic that judges against a reference compare inside one scene; RQI's published SRCC is a mean over scenes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.bootstrap import (
    FEWEST_SCENES,
    Bootstrap,
    Interval,
    cluster_interval,
    resampling_unit,
)
from sr_perceptual_loss.lab.evaluation.coefficients import NAN, Floats, checked_pair, krcc, plcc, rmse, srcc, varies
from sr_perceptual_loss.lab.evaluation.logistic import LogisticFit, logistic_fit

__all__ = ["Agreement", "LogisticFit", "correlate", "krcc", "logistic_fit", "plcc", "rmse", "srcc"]


@dataclass(frozen=True)
class Agreement:
    """How well predictions agree with opinions. ``*_mean``: mean over scenes of the value inside each scene.

    Attributes:
        n: images.
        scenes: scenes among them.
        scenes_used: scenes behind ``*_mean``.
        skipped: scenes that have no correlation, counted by reason.
        srcc: Spearman over all images; None where scenes do not compare.
        plcc_raw: Pearson without a fit; None likewise.
        plcc_fitted: Pearson after the logistic fit; None likewise.
        krcc: Kendall's tau-b; None likewise.
        rmse: in units of the opinions, after the fit; None likewise.
        srcc_mean: mean over scenes of Spearman.
        plcc_mean: mean over scenes of Pearson, no fit.
        krcc_mean: mean over scenes of tau-b.
        intervals: name of a number -> (low, high).
        confidence: of the intervals.
        resampled: what the bootstrap drew: ``scenes``, or ``images`` where there are fewer than three scenes.
        fit: the curve behind ``plcc_fitted`` and ``rmse``.
        scene_srcc: scene -> Spearman inside it.
        notes: what a reader must know, one sentence each.
    """

    n: int
    scenes: int
    scenes_used: int
    skipped: Mapping[str, int]
    srcc: float | None
    plcc_raw: float | None
    plcc_fitted: float | None
    krcc: float | None
    rmse: float | None
    srcc_mean: float
    plcc_mean: float
    krcc_mean: float
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    confidence: float = 0.95
    resampled: str = "scenes"
    fit: LogisticFit | None = None
    scene_srcc: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def correlate(
    predictions: Sequence[float],
    scores: Sequence[float],
    scenes: Sequence[str],
    *,
    comparable_across_scenes: bool = True,
    bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Agreement:
    """All correlations of predictions with opinion scores, with bootstrap intervals.

    Args:
        predictions: critic scores, (n,).
        scores: opinion scores, (n,), higher is better.
        scenes: scene of each image, (n,).
        comparable_across_scenes: False leaves the numbers over all images out (None).
        bootstrap: resamples; 0 for no intervals.
        seed: of the bootstrap.
        confidence: of the intervals.

    Returns:
        See :class:`Agreement`. The fitted curve is not fitted anew in each resample: intervals of ``plcc_fitted`` and
        ``rmse`` hold for the curve as it is.

    Raises:
        InputError: lengths that differ, no images, or values that are not finite.
        InstallError: scipy is missing.
    """
    x, y = checked_pair(predictions, scores)
    if len(x) == 0 or len(scenes) != len(x):
        raise InputError(
            f"got {len(x)} predictions and {len(scenes)} scenes, expected at least one image and a scene each."
        )
    options = Bootstrap(bootstrap, seed, confidence)
    fit = logistic_fit(x, y) if comparable_across_scenes else None
    values: dict[str, Any] = dict.fromkeys(("srcc", "plcc_raw", "plcc_fitted", "krcc", "rmse"))
    intervals: dict[str, Interval] = {}
    for name, statistic in _overall(x, y, fit).items():
        values[name] = statistic(np.arange(len(x)))
        intervals[name] = cluster_interval(statistic, scenes, options)
    per_scene, skipped = _per_scene(x, y, scenes)
    for name, function in (("srcc_mean", srcc), ("plcc_mean", plcc), ("krcc_mean", krcc)):
        values[name], intervals[name] = _mean_over_scenes(function, x, y, scenes, per_scene, options)
    return Agreement(
        n=len(x),
        scenes=len(set(scenes)),
        scenes_used=len(per_scene),
        skipped=skipped,
        **values,
        intervals=intervals,
        confidence=confidence,
        resampled=resampling_unit(scenes),
        fit=fit,
        scene_srcc={name: srcc(x[index], y[index]) for name, index in per_scene.items()},
        notes=tuple(_notes(fit, skipped, len(set(scenes)), options)),
    )


def _notes(fit: LogisticFit | None, skipped: Mapping[str, int], scenes: int, options: Bootstrap) -> Iterator[str]:
    """What a reader of the numbers must know."""
    if fit is None:
        yield "Opinion scores of different scenes do not compare in this set: no numbers over all images."
    elif fit.reason:
        yield f"No PLCC after a fit and no RMSE: {fit.reason}."
    if skipped:
        yield "Scenes without a correlation: " + ", ".join(f"{n} ({why})" for why, n in skipped.items()) + "."
    if options.resamples and scenes < FEWEST_SCENES:
        yield f"Only {scenes} scene(s): intervals come from resampled images and say nothing about other scenes."


def _overall(x: Floats, y: Floats, fit: LogisticFit | None) -> dict[str, Callable[[NDArray[np.intp]], float]]:
    """Name -> the number over the images of these indices; none where scenes do not compare."""
    if fit is None:
        return {}
    statistics: dict[str, Callable[[NDArray[np.intp]], float]] = {
        "srcc": lambda i: srcc(x[i], y[i]),
        "plcc_raw": lambda i: plcc(x[i], y[i]),
        "krcc": lambda i: krcc(x[i], y[i]),
    }
    if fit.reason:
        return statistics | {"plcc_fitted": lambda i: NAN, "rmse": lambda i: NAN}
    fitted = fit(x)
    return statistics | {"plcc_fitted": lambda i: plcc(fitted[i], y[i]), "rmse": lambda i: rmse(fitted[i], y[i])}


def _per_scene(x: Floats, y: Floats, scenes: Sequence[str]) -> tuple[dict[str, NDArray[np.intp]], dict[str, int]]:
    """Indices of each scene that has a correlation, and how many have none, by reason."""
    names = np.asarray(scenes, dtype=object)
    used: dict[str, NDArray[np.intp]] = {}
    skipped: dict[str, int] = {}
    for name in sorted(set(scenes)):
        index = np.flatnonzero(names == name)
        if varies(x[index], y[index]):
            used[name] = index
            continue
        why = "one image only" if len(index) < 2 else "equal opinions" if not varies(y[index]) else "equal predictions"
        skipped[why] = skipped.get(why, 0) + 1
    return used, skipped


def _mean_over_scenes(
    function: Callable[[ArrayLike, ArrayLike], float],
    x: Floats,
    y: Floats,
    scenes: Sequence[str],
    per_scene: Mapping[str, NDArray[np.intp]],
    options: Bootstrap,
) -> tuple[float, Interval]:
    """Mean of the values inside the scenes, and its interval."""
    if not per_scene:
        return NAN, (NAN, NAN)
    values = np.array([function(x[index], y[index]) for index in per_scene.values()])
    mean = float(values.mean())
    if resampling_unit(scenes) == "scenes":
        # A resampled scene has the value that it had, so it is computed once.
        return mean, cluster_interval(lambda i: float(values[i].mean()), list(per_scene), options)
    names = np.asarray(scenes, dtype=object)

    def of_images(drawn: NDArray[np.intp]) -> float:
        found = [function(x[i], y[i]) for i in (drawn[names[drawn] == name] for name in per_scene)]
        found = [value for value in found if not math.isnan(value)]
        return float(np.mean(found)) if found else NAN

    return mean, cluster_interval(of_images, scenes, options)
