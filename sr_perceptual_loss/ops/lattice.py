"""Patterns tied to the pixel lattice of an up-sampling network, detected by comparing the phases of its period.

Natural texture is independent of the cells of the lattice: within a neighbourhood every phase of a period has the same
mean (zero without the low frequencies) and the same energy. An SR network that is rewarded for texture breaks both
rules, because a pattern at a fixed phase is the simplest texture to make: a grid has means that differ between phases,
and dots whose sign or strength follows the content have energies that differ. The
dots may have no peak in the spectrum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.errors import InputError

__all__ = ["gaussian_means", "grid_share", "lattice_contrast"]

#: Sigma of the neighbourhoods, in cells. A larger one detects fainter patterns.
CELLS = 4.0
#: Root mean square of the detail, in units of [0, 1], below which patterns count less: four 8-bit steps.
INVISIBLE = 0.015


def _smoothing(length: int, sigma: float, step: int, like: Tensor) -> Tensor:
    """Matrix (ceil(length / step), length) of Gaussian means; rows are normalised, so windows are cut at the border."""
    samples = torch.arange(length, dtype=like.dtype, device=like.device)
    centres = torch.arange(-(-length // step), dtype=like.dtype, device=like.device) * step + (step - 1) / 2
    weights = torch.exp(-(samples - centres[:, None]).square() / (2 * sigma * sigma))
    return weights / weights.sum(1, keepdim=True)


def gaussian_means(image: Tensor, sigma: float, step: int) -> Tensor:
    """Means in Gaussian windows at every ``step``-th pixel.

    Two products with small matrices take a fifth of the time of separable depthwise convolutions on a CPU.

    Args:
        image: (N, C, H, W).
        sigma: standard deviation of the windows, in pixels.
        step: distance between the windows, in pixels.

    Returns:
        (N, C, ceil(H / step), ceil(W / step)).
    """
    down, across = (_smoothing(side, sigma, step, image) for side in image.shape[-2:])
    return down @ (image @ across.t())


def _phases(image: Tensor, period: int, step: int) -> Tensor:
    """Local means of each phase: (N, C, H, W) -> (N, C, period^2, h, w); ``step`` as in :func:`gaussian_means`."""
    if min(image.shape[-2:]) < 2 * period:
        raise InputError(f"lattice: got {image.shape[-2]}x{image.shape[-1]}, needs two cells of {period} pixels.")
    height, width = (side // period * period for side in image.shape[-2:])
    means = gaussian_means(F.pixel_unshuffle(image[..., :height, :width], period), CELLS, step)
    return means.unflatten(1, (image.shape[1], period * period))


def grid_share(detail: Tensor, period: int) -> Tensor:
    """Variance over phases of the local mean / local mean square: the share of a fixed pattern in the energy.

    Args:
        detail: high-pass image, (N, C, H, W).
        period: of the lattice, in pixels.

    Returns:
        (N, C, H // period, W // period) in [0, 1]; below 0.01 in photographs, near 1 for a pure grid.

    Raises:
        InputError: fewer than two cells.
    """
    means = _phases(detail, period, 1)
    pattern = (means - means.mean(2, keepdim=True)).square().mean(2)
    energy = gaussian_means(F.avg_pool2d(detail.square(), period), CELLS, 1)
    return pattern / (energy + INVISIBLE**2)


def lattice_contrast(detail: Tensor, period: int) -> Tensor:
    """Standard deviation over phases of the local mean square, in units of its mean over phases.

    Args:
        detail: high-pass image, (N, C, H, W).
        period: of the lattice, in pixels.

    Returns:
        (N, C, ceil((H // period) / 2), ceil((W // period) / 2)), >= 0; about 0.12 in luma of photographs,
        sqrt(period^2 - 1) for dots at one phase.

    Raises:
        InputError: fewer than two cells.
    """
    energies = _phases(detail.square(), period, 2)
    mean = energies.mean(2, keepdim=True)
    # The constant keeps the gradient of the root finite where all phases agree.
    spread = ((energies - mean).square().mean(2) + (1e-3 * INVISIBLE**2) ** 2).sqrt()
    return spread / (mean.squeeze(2) + INVISIBLE**2)
