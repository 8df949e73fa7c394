"""Dots on the lattice of an up-sampling network, place by place; they need not have a peak in the spectrum."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sr_perceptual_loss.critics.texture_stats.bands import pyramid
from sr_perceptual_loss.ops.lattice import dot_strength

__all__ = ["PERIODS", "SMALLEST", "dot_maps", "dotted_share", "worst_places"]

#: Of the lattices: 3 of x3 networks, 4 of the others; dots of period 2 and 8 are uneven in cells of 4 pixels too.
PERIODS = (3, 4)
#: Smallest side of an image, in pixels: eight cells.
SMALLEST = 32
#: Strength from which dots are visible, in 8-bit levels: see docs/guard.md.
VISIBLE = 0.1


def dot_maps(sr: Tensor, hr: Tensor) -> dict[int, Tensor]:
    """:func:`~sr_perceptual_loss.ops.lattice.dot_strength` of luma, in 8-bit levels.

    Args:
        sr: SR images, (N, 3, H, W) RGB in [0, 1], sides of 32 pixels or more.
        hr: reference images, same shape.

    Returns:
        Period -> (N, ceil((H // period) / 2), ceil((W // period) / 2)); a value stands for two by two cells.
    """
    sr_detail, hr_detail = (pyramid(image, 1)[0].detail[:, :1] for image in (sr, hr))
    return {period: 255 * dot_strength(sr_detail, hr_detail, period).squeeze(1) for period in PERIODS}


def dotted_share(maps: Mapping[int, Tensor]) -> float:
    """Share of the area with visible dots, the largest over the periods.

    Up to 0.02 for networks without visible dots, 0.1 and more where everybody sees them.
    """
    return max(float((strength > VISIBLE).float().mean()) for strength in maps.values())


def worst_places(maps: Mapping[int, Tensor]) -> list[tuple[int, int, int, float]]:
    """Where the dots of each image are strongest: (number of the image, y, x, strength)."""
    places_of: dict[int, list[tuple[int, int, int, float]]] = {}
    for period, strength in maps.items():
        values, cells = strength.flatten(1).max(1)
        for image, (value, cell) in enumerate(zip(values.tolist(), cells.tolist(), strict=True)):
            y, x = (period * (2 * number + 1) for number in divmod(cell, strength.shape[-1]))
            places_of.setdefault(image, []).append((image, y, x, value))
    return [max(places, key=lambda place: place[3]) for places in places_of.values()]
