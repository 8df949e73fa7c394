"""Band-pass channels of a picture over a pyramid: what texture statistics are computed from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ORIENTED", "Bands", "blur", "gaussian", "halve", "pyramid"]

# Sobel filters along four directions, and the 3x3 less the 5x5 binomial mean. All are zero at the Nyquist frequency,
# where an up-sampling head can draw energy that belongs to no texture.
_A, _B = 1 / 8, 2 / 8
_DIRECTIONS = (
    ((-_A, 0, _A), (-_B, 0, _B), (-_A, 0, _A)),
    ((-_A, -_B, -_A), (0, 0, 0), (_A, _B, _A)),
    ((-_B, -_A, 0), (-_A, 0, _A), (0, _A, _B)),
    ((0, -_A, -_B), (_A, 0, -_A), (_B, _A, 0)),
)
_BINOMIAL = (0.25, 0.5, 0.25)
ORIENTED = len(_DIRECTIONS)
# Luma of BT.601 and two colour differences, red-cyan and blue-yellow, zero for grey.
_OPPONENT = ((0.299, 0.587, 0.114), (0.5, -0.5, 0.0), (-0.25, -0.25, 0.5))


@dataclass(frozen=True)
class Bands:
    """One level of the pyramid.

    Attributes:
        luma: (N, 5, h, w): four directions, and the isotropic band.
        colour: (N, 2, h, w): the isotropic band of the two colour differences.
        rest: (N, 1, h, w): luma less its 3x3 binomial mean, what lies above the bands.
        detail: (N, 3, h, w): luma and colour differences less their 5x5 binomial mean, bands and rest together.
    """

    luma: Tensor
    colour: Tensor
    rest: Tensor
    detail: Tensor


def gaussian(sigma: float, radius: int, like: Tensor) -> Tensor:
    """Normalised 1-D Gaussian of 2 * radius + 1 taps."""
    x = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-x.square() / (2 * sigma * sigma))
    return kernel / kernel.sum()


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Separable filter with mirrored borders; (N, C, H, W)."""
    n, channels, height, width = image.shape
    pad = len(kernel) // 2
    x = F.pad(image.reshape(n * channels, 1, height, width), (pad, pad, pad, pad), mode="reflect")
    x = F.conv2d(x, kernel.view(1, 1, -1, 1))
    x = F.conv2d(x, kernel.view(1, 1, 1, -1))
    return x.reshape(n, channels, *x.shape[-2:])


def halve(image: Tensor) -> Tensor:
    """The next level of a Gaussian pyramid: sigma 1, then every second pixel averaged over 2x2 (no phase shift)."""
    return F.avg_pool2d(blur(image, gaussian(1.0, 3, image)), 2, ceil_mode=True, count_include_pad=False)


def pyramid(image: Tensor, levels: int) -> list[Bands]:
    """Band-pass channels of ``levels`` octaves, finest first.

    Args:
        image: (N, 3, H, W) RGB in [0, 1].
        levels: number of octaves; the coarsest level must keep sides of 8 pixels or more.

    Returns:
        One :class:`Bands` per octave.
    """
    directions = image.new_tensor(_DIRECTIONS).unsqueeze(1)
    binomial = image.new_tensor(_BINOMIAL)
    current = torch.einsum("oc,nchw->nohw", image.new_tensor(_OPPONENT), image)
    found = []
    for level in range(levels):
        if level:
            current = halve(current)
        smooth = blur(current, binomial)
        smoother = blur(smooth, binomial)
        isotropic = smooth - smoother
        oriented = F.conv2d(F.pad(current[:, :1], (1, 1, 1, 1), mode="reflect"), directions)
        luma = torch.cat([oriented, isotropic[:, :1]], 1)
        found.append(Bands(luma, isotropic[:, 1:], current[:, :1] - smooth[:, :1], current - smoother))
    return found
