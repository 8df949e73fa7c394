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


def _binomial(image: Tensor) -> Tensor:
    """3x3 binomial mean with mirrored borders."""
    row = image.new_tensor((0.25, 0.5, 0.25))
    kernel = torch.outer(row, row).expand(image.shape[1], 1, 3, 3).contiguous()
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), kernel, groups=image.shape[1])


def pyramid(image: Tensor, levels: int) -> list[Bands]:
    """Band-pass channels of ``levels`` octaves, finest first.

    Args:
        image: (N, 3, H, W) RGB in [0, 1].
        levels: number of octaves; the coarsest level must keep sides of 8 pixels or more.

    Returns:
        One :class:`Bands` per octave.
    """
    directions = image.new_tensor(_DIRECTIONS).unsqueeze(1)
    current = torch.einsum("oc,nchw->nohw", image.new_tensor(_OPPONENT), image)
    result = []
    for level in range(levels):
        if level:
            current = gaussian_means(current, _HALVING, 2)
        smooth = _binomial(current)
        smoother = _binomial(smooth)
        isotropic = smooth - smoother
        oriented = F.conv2d(F.pad(current[:, :1], (1, 1, 1, 1), mode="reflect"), directions)
        # The mean of each 2x2 neighbourhood removes the Nyquist frequency and little else.
        high = F.avg_pool2d(F.pad(current[:, :1] - smooth[:, :1], (0, 1, 0, 1), mode="reflect"), 2, stride=1)
        luma = torch.cat([oriented, isotropic[:, :1], high], 1)
        result.append(Bands(luma, isotropic[:, 1:], current - smoother))
    return result
