"""Plots of the report, as PNG bytes. Figures are made without pyplot, so matplotlib's global state stays untouched."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from sr_perceptual_loss.lab.evaluation.correlation import LogisticFit

__all__ = ["scatter_png", "srcc_histogram_png"]

#: Types of distortion that get their own colour and legend entry; the rest are grey.
MOST_COLOURS = 20


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
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
    fit: LogisticFit | None,
    *,
    x_label: str,
    y_label: str,
) -> bytes:
    """Opinion against critic score, one dot per image, coloured by distortion, with the fitted curve: a PNG file.

    ``predictions``, ``scores`` and ``distortions`` (empty texts for none) have one entry per image.
    """
    import matplotlib

    figure, axes = _figure(8.5, 5)
    x, y, kinds = np.asarray(predictions), np.asarray(scores), np.asarray(distortions, dtype=str)
    names, counts = np.unique(kinds, return_counts=True)
    frequent = sorted(names[np.argsort(-counts, kind="stable")][:MOST_COLOURS])
    colours = matplotlib.colormaps["tab20" if len(frequent) > 10 else "tab10"]
    rest = ~np.isin(kinds, frequent)
    if rest.any():
        axes.scatter(x[rest], y[rest], s=9, color="0.7", linewidths=0, label=f"{len(names) - len(frequent)} others")
    for number, name in enumerate(frequent):
        mask = kinds == name
        label = _literal(name) or "unnamed"
        axes.scatter(x[mask], y[mask], s=9, alpha=0.7, color=colours(number), linewidths=0, label=label)
    if fit is not None and not fit.reason:
        line = np.linspace(x.min(), x.max(), 200)
        axes.plot(line, fit(line), color="black", linewidth=1.2, label="logistic fit")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if len(names) > 1 or fit is not None:
        figure.legend(loc="outside right upper", fontsize=7, markerscale=2, frameon=False)
    return _png(figure)


def srcc_histogram_png(values: Sequence[float]) -> bytes:
    """How many references have which Spearman correlation: a PNG file."""
    figure, axes = _figure(6, 3)
    axes.hist(np.clip(values, -1, 1), bins=np.linspace(-1, 1, 41), color="#3b6ea5")
    mean = float(np.mean(values))
    axes.axvline(mean, color="black", linewidth=1, label=f"mean {mean:.3f}")
    axes.set_xlabel("Spearman per reference")
    axes.set_ylabel("references")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return _png(figure)
