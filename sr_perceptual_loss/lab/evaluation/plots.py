"""Plots of the report, as PNG bytes. Figures are made without pyplot, so no global state of matplotlib is touched."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from sr_perceptual_loss.lab.evaluation.logistic import LogisticFit
from sr_perceptual_loss.lab.evaluation.optional import need

__all__ = ["scatter_png", "scene_histogram_png"]

#: Types of distortion with a colour and a line in the legend of their own; the rest share grey.
MOST_COLOURS = 20


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure = need("matplotlib.figure").Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    need("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _literal(text: str) -> str:
    """Text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def scatter_png(
    predictions: Sequence[float],
    scores: Sequence[float],
    distortions: Sequence[str],
    fit: LogisticFit | None = None,
    *,
    x_label: str = "critic score",
    y_label: str = "opinion score",
) -> bytes:
    """Opinion against critic score, one dot per image, coloured by distortion.

    Args:
        predictions: critic scores, (n,).
        scores: opinion scores, (n,).
        distortions: type of distortion of each image; empty text for none.
        fit: curve to draw.
        x_label: below.
        y_label: at the left.

    Returns:
        A PNG file.
    """
    figure, axes = _figure(8.5, 5)
    x, y, kinds = np.asarray(predictions), np.asarray(scores), np.asarray(distortions, dtype=object)
    names, counts = np.unique(kinds.astype(str), return_counts=True)
    frequent = sorted(names[np.argsort(-counts, kind="stable")][:MOST_COLOURS])
    colours = need("matplotlib").colormaps["tab20" if len(frequent) > 10 else "tab10"]
    rest = ~np.isin(kinds.astype(str), frequent)
    if rest.any():
        axes.scatter(x[rest], y[rest], s=9, color="0.7", linewidths=0, label=f"{len(names) - len(frequent)} others")
    for number, name in enumerate(frequent):
        mask = kinds == name
        label = _literal(name) or "not named"
        axes.scatter(x[mask], y[mask], s=9, alpha=0.7, color=colours(number), linewidths=0, label=label)
    if fit is not None and not fit.reason:
        line = np.linspace(x.min(), x.max(), 200)
        axes.plot(line, fit(line), color="black", linewidth=1.2, label="logistic fit")
    axes.set_xlabel(_literal(x_label))
    axes.set_ylabel(_literal(y_label))
    if len(names) > 1 or fit is not None:
        figure.legend(loc="outside right upper", fontsize=7, markerscale=2, frameon=False)
    return _png(figure)


def scene_histogram_png(values: Sequence[float]) -> bytes:
    """How many scenes have which Spearman correlation.

    Args:
        values: one per scene, in [-1, 1].

    Returns:
        A PNG file.
    """
    figure, axes = _figure(6, 3)
    axes.hist(np.clip(values, -1, 1), bins=np.linspace(-1, 1, 41), color="#3b6ea5")
    mean = float(np.mean(values))
    axes.axvline(mean, color="black", linewidth=1, label=f"mean {mean:.3f}")
    axes.set_xlabel("Spearman inside the scene")
    axes.set_ylabel("scenes")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return _png(figure)
