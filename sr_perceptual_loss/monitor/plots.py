"""Figures for people: where an image loses quality, and the terms of a loss over a run (extra ``plot``).

Figures are made without pyplot, so matplotlib's global state stays untouched; notebooks show them after
``%matplotlib inline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sr_perceptual_loss.critics.maps import display_limit
from sr_perceptual_loss.errors import InputError, InstallError

try:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ModuleNotFoundError as error:
    raise InstallError("matplotlib is missing: pip install 'sr_perceptual_loss[plot]'") from error

__all__ = ["plot_map", "plot_terms"]

#: Colour of the frames: seen on dark and on bright places, and not in the map's colours.
FRAME = "#00d5ff"


def plot_map(
    sr: Tensor, hr: Tensor, lost: Tensor, boxes: Sequence[tuple[int, int, float]], side: int, title: str, label: str
) -> Figure:
    """SR, HR, the map over the SR image, and the worst places enlarged.

    Args:
        sr: SR (distorted) image, (3, H, W) RGB in [0, 1].
        hr: reference image, same shape.
        lost: (H, W), from :meth:`~sr_perceptual_loss.Critic.score_map`. Colours end at its 99.5th percentile.
        boxes: up to three, from :func:`~sr_perceptual_loss.critics.maps.worst_boxes`.
        side: side of the boxes in pixels.
        title: title of the figure.
        label: label of the colour bar.

    Returns:
        The figure, 12 inches wide.
    """
    height, width = lost.shape
    heights = [min(3.7 * height / width, 12), *[2.0] * bool(boxes)]
    figure = Figure(figsize=(12, sum(heights) + 0.7), dpi=150, layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(len(heights), 6, height_ratios=heights)
    large = [figure.add_subplot(grid[0, 2 * k : 2 * k + 2]) for k in range(3)]
    pixels, reference = (image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy() for image in (sr, hr))
    lost = lost.detach().float().cpu()
    large[2].imshow(pixels.mean(2), cmap="gray", vmin=0, vmax=1)
    shade = large[2].imshow(lost.numpy(), cmap="inferno", vmin=0, vmax=display_limit(lost), alpha=0.75)
    figure.colorbar(shade, ax=large[2], extend="max", label=label, fraction=0.046)
    for axes, image, name in zip(large, (pixels, reference, None), ("SR", "HR", "where quality is lost"), strict=True):
        if image is not None:
            axes.imshow(image)
        axes.set_title(name)
        for number, (y, x, _) in enumerate(boxes, 1):
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), side, side, fill=False, edgecolor=FRAME))
            axes.text(x + 0.05 * side, y + 0.05 * side, str(number), color=FRAME, va="top", weight="bold")
    small: list[Any] = []
    for number, (y, x, share) in enumerate(boxes):
        for column, (image, name) in enumerate(((pixels, "SR"), (reference, "HR"))):
            small.append(figure.add_subplot(grid[1, 2 * number + column]))
            small[-1].imshow(image[y : y + side, x : x + side], interpolation="nearest")
            words = f"{number + 1}: {name}, {share:.0%} of the map" if column == 0 else f"{number + 1}: {name}"
            small[-1].set_title(words, fontsize="small")
    for axes in (*large, *small):
        axes.set_axis_off()
    return figure


def plot_terms(records: Sequence[Mapping[str, Tensor | float]], iterations: Sequence[int] | None = None) -> Figure:
    """One panel per term of a loss, over the iterations.

    Args:
        records: ``loss.terms`` after each step, for example from ``records.append(loss.terms)``; every call of a loss
            makes a new mapping.
        iterations: iteration of each record; 0, 1, ... by default.

    Returns:
        The figure, 7 inches wide.

    Raises:
        InputError: no records, or another number of iterations.
    """
    steps = range(len(records)) if iterations is None else iterations
    if not records or len(steps) != len(records):
        raise InputError(f"plot_terms: got {len(records)} records and {len(steps)} iterations, expected as many.")
    names = list(dict.fromkeys(name for record in records for name in record))
    figure = Figure(figsize=(7, 1.6 * len(names) + 0.6), layout="constrained")
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        known = [(step, float(record[name])) for step, record in zip(steps, records, strict=True) if name in record]
        axes.plot(*zip(*known, strict=True), linewidth=1, marker="." if len(known) < 50 else None)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("iteration")
    return figure
