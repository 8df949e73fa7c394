"""Band-pass channels of an image on a pyramid, from which the texture statistics are computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.ops.lattice import gaussian_means

__all__ = ["ORIENTED", "Bands", "pyramid"]

# Sobel filters along four directions.
_A, _B = 1 / 8, 2 / 8
_DIRECTIONS = (
    ((-_A, 0, _A), (-_B, 0, _B), (-_A, 0, _A)),
    ((-_A, -_B, -_A), (0, 0, 0), (_A, _B, _A)),
    ((-_B, -_A, 0), (-_A, 0, _A), (0, _A, _B)),
    ((0, -_A, -_B), (_A, 0, -_A), (_B, _A, 0)),
)
ORIENTED = len(_DIRECTIONS)
# Sigma in pixels of the Gaussian means from which the next octave takes every second pixel.
_HALVING = 1.1
# Luma of BT.601 and two colour differences, red-cyan and blue-yellow, zero for grey.
_OPPONENT = ((0.299, 0.587, 0.114), (0.5, -0.5, 0.0), (-0.25, -0.25, 0.5))


@dataclass(frozen=True)
class Bands:
    """One level of the pyramid.

    Attributes:
        luma: (N, 6, h, w): four directions, the isotropic band (the 3x3 minus the 5x5 binomial mean), and a higher one.
            All are zero at the Nyquist frequency, where a network can add energy that belongs to no texture.
        colour: (N, 2, h, w): the isotropic band of the two colour differences.
        detail: (N, 3, h, w): luma and colour differences minus their 5x5 binomial mean.
    """

    luma: Tensor
    colour: Tensor
    detail: Tensor


def _filters(image: Tensor) -> Tensor:
    """All bands as one 5x5 filter of the RGB image each, (11, 3, 5, 5): luma, colour, detail of :class:`Bands`."""
    # float64 on the CPU, whatever the default device is.
    delta, row, oriented, colours = (
        torch.tensor(values, dtype=torch.float64, device="cpu")
        for values in (((0,) * 5,) * 5, (0.25, 0.5, 0.25), _DIRECTIONS, _OPPONENT)
    )
    delta[2, 2] = 1
    binomial = torch.outer(row, row)[None, None]
    smooth = F.conv2d(delta[None, None], binomial, padding=1)
    smoother = F.conv2d(smooth, binomial, padding=1)
    # The mean of each 2x2 neighbourhood removes the Nyquist frequency and little else.
    high = F.conv2d(delta - smooth, torch.full_like(delta[None, None, :2, :2], 0.25), padding=1)[..., :5, :5]
    isotropic, detail = (smooth - smoother)[0], (delta - smoother)[0]
    filters = torch.cat(
        [F.pad(oriented, (1, 1, 1, 1)), isotropic, high[0], isotropic, isotropic, detail, detail, detail]
    )
    colours = colours[[0] * (ORIENTED + 2) + [1, 2, 0, 1, 2]]
    return (filters[:, None] * colours[:, :, None, None]).to(image)


def pyramid(image: Tensor, levels: int) -> list[Bands]:
    """Band-pass channels of ``levels`` octaves, finest first.

    Args:
        image: (N, 3, H, W) RGB in [0, 1].
        levels: number of octaves; the coarsest level must keep sides of 8 pixels or more.

    Returns:
        One :class:`Bands` per octave.
    """
    filters = _filters(image)
    result = []
    for level in range(levels):
        if level:
            image = gaussian_means(image, _HALVING, 2)
        bands = F.conv2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), filters)
        result.append(Bands(*bands.split((ORIENTED + 2, 2, 3), 1)))
    return result
