"""Losses compared at the same PSNR cost: judges interpolated along the curve of each loss, with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeAlias

import numpy as np
from scipy.stats import bootstrap

from trials.judges import BETTER

__all__ = ["Curve", "at_cost", "markdown"]

#: Picture -> judge -> value.
Pictures: TypeAlias = Mapping[str, Mapping[str, float]]
#: Share or weight -> the pictures of each seed.
Curve: TypeAlias = dict[Hashable, list[Pictures]]
#: Loss -> judges that it contains.
OWN = {"texture_stats": ("texture_stats", "haarpsi"), "ssim": ("ssim_y",)}


def _means(seeds: list[Pictures], judges: tuple[str, ...], pictures: tuple[str, ...]) -> np.ndarray:
    """(pictures, judges), means over the seeds."""
    return np.array([[[s[p].get(j, np.nan) for j in judges] for p in pictures] for s in seeds]).mean(0)


def _interpolated(points: np.ndarray, cost: float) -> np.ndarray:
    """Judges at a cost, NaN where the curve does not reach it.

    Args:
        points: (rows, judges), the first column is the PSNR cost in dB.
        cost: in dB.
    """
    points = points[np.argsort(points[:, 0])]
    if not points[0, 0] <= cost <= points[-1, 0]:
        return np.full(points.shape[1], np.nan)
    return np.array([np.interp(cost, points[:, 0], column) for column in points.T])


def _labelled(curves: Mapping[tuple[str, float], Curve]) -> dict[str, list[list[Pictures]]]:
    """Label -> the rows of its curve, each with its seeds. The GAN alone has a curve over its weights."""
    labelled: dict[str, list[list[Pictures]]] = {}
    for (loss, gan), curve in sorted(curves.items()):
        if loss == "none":
            labelled.setdefault("GAN", []).extend(curve.values())
        else:
            start = curves.get(("none", gan), {})
            labelled[f"{loss} + GAN" if gan else loss] = [*start.values(), *curve.values()]
    return {label: rows for label, rows in labelled.items() if len(rows) > 1}


def at_cost(curves: Mapping[tuple[str, float], Curve], cost: float) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Loss -> judge -> (value at the cost, ends of its 95 % interval over the pictures).

    Args:
        curves: (loss, weight of the GAN) -> its rows; ("none", 0) is the control. A curve starts at the row ``none``
            with the same GAN.
        cost: fall of the mean PSNR-Y in dB against the control.
    """
    (control,) = curves[("none", 0.0)].values()
    pictures = tuple(control[0])
    judges = tuple(name for name in BETTER if any(name in values for values in control[0].values()))
    reference = _means(control, judges, pictures)
    found: dict[str, dict[str, tuple[float, float, float]]] = {
        "L1": {judge: (value, value, value) for judge, value in zip(judges, np.nanmean(reference, 0), strict=True)}
    }
    for label, rows in _labelled(curves).items():
        table = np.stack([_means(seeds, judges, pictures) for seeds in rows], 1)

        def judged(chosen: np.ndarray, table: np.ndarray = table) -> np.ndarray:
            points = np.nanmean(table[chosen], 0)
            points[:, 0] = np.nanmean(reference[chosen, 0]) - points[:, 0]
            return _interpolated(points, cost)

        values = judged(np.arange(len(pictures)))
        if np.isnan(values).all():
            found[label] = dict.fromkeys(judges, (np.nan, np.nan, np.nan))
            continue
        numbers = (np.arange(len(pictures)),)
        draws = bootstrap(numbers, judged, n_resamples=500, vectorized=False, method="percentile", rng=0)
        # Draws whose curve does not reach the cost are left out.
        low, high = np.nanpercentile(draws.bootstrap_distribution, (2.5, 97.5), axis=-1)
        found[label] = {j: (float(v), float(a), float(b)) for j, v, a, b in zip(judges, values, low, high, strict=True)}
    return found


def markdown(table: Mapping[str, Mapping[str, tuple[float, float, float]]], cost: float) -> str:
    """The table as Markdown; a judge that the loss contains is in brackets, an unreached cost is a dash."""
    judges = [name for name in table["L1"] if name != "psnr_y"]
    lines = [f"| at {cost:g} dB | " + " | ".join(judges) + " |", "|---" * (len(judges) + 1) + "|"]
    for label, row in table.items():
        loss = label.removesuffix(" + GAN")
        cells = []
        for name in judges:
            value, low, high = row[name]
            interval = "" if label == "L1" else f" [{low:.3f}, {high:.3f}]"
            text = "-" if np.isnan(value) else f"{value:.3f}{interval}"
            cells.append(f"({text})" if name in OWN.get(loss, (loss,)) else text)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
