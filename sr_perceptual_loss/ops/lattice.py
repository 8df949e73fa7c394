"""Patterns tied to the pixel lattice of an up-sampling head, found by comparing the phases of its period.

Natural texture does not know where the cells of a network lie: within a neighbourhood every phase of a period has the
same mean (none, once the low frequencies are gone) and the same energy. An SR network that is paid for texture breaks
both rules, because a pattern at a fixed phase is the cheapest texture to draw: a grid has means that differ between
phases, and dots whose sign or strength follows the content have energies that differ. The second kind need not show as
a peak in a spectrum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.errors import InputError

__all__ = ["gaussian_means", "grid_share", "lattice_contrast", "smoothing"]

#: Sigma of the neighbourhoods, in cells. The larger, the fainter the pattern that stands out from chance.
CELLS = 4.0
#: Root mean square of the detail, in units of [0, 1], below which patterns count less and less: four 8-bit steps.
INVISIBLE = 0.015


def smoothing(length: int, sigma: float, step: int, like: Tensor) -> Tensor:
    """Gaussian means of ``length`` samples at every ``step``-th place, as a matrix (ceil(length / step), length).

    Rows are normalised, so windows are cut off at the border.
    """
    samples = torch.arange(length, dtype=like.dtype, device=like.device)
    centres = torch.arange(-(-length // step), dtype=like.dtype, device=like.device) * step + (step - 1) / 2
    weights = torch.exp(-(samples - centres[:, None]).square() / (2 * sigma * sigma))
    return weights / weights.sum(1, keepdim=True)


def gaussian_means(image: Tensor, sigma: float, step: int) -> Tensor:
    """Means in Gaussian windows at every ``step``-th pixel.

    Two products with small matrices: on a CPU a fifth of the time of separable convolutions of single channels.

    Args:
        image: (N, C, H, W).
        sigma: of the windows, in pixels.
        step: distance of the places, in pixels.

    Returns:
        (N, C, ceil(H / step), ceil(W / step)).
    """
    down, across = (smoothing(side, sigma, step, image) for side in image.shape[-2:])
    return down @ (image @ across.t())


def _whole_cells(detail: Tensor, period: int) -> Tensor:
    if min(detail.shape[-2:]) < 2 * period:
        raise InputError(f"lattice: got {detail.shape[-2]}x{detail.shape[-1]}, needs two cells of {period} pixels.")
    height, width = (side // period * period for side in detail.shape[-2:])
    return detail[..., :height, :width]


def grid_share(detail: Tensor, period: int) -> Tensor:
    """Variance over phases of the local mean / local mean square: the share of a fixed pattern in the energy.

    Args:
        detail: high-pass image, (N, C, H, W).
        period: of the lattice, in pixels.

    Returns:
        (N, C, H // period, W // period) in [0, 1]; below 0.01 in photographs, near 1 for nothing but a grid.

    Raises:
        InputError: fewer than two cells.
    """
    cells = _whole_cells(detail, period)
    means = gaussian_means(F.pixel_unshuffle(cells, period), CELLS, 1)
    means = means.unflatten(1, (cells.shape[1], period * period))
    pattern = (means - means.mean(2, keepdim=True)).square().mean(2)
    energy = gaussian_means(F.avg_pool2d(cells.square(), period), CELLS, 1)
    return pattern / (energy + INVISIBLE**2)


def lattice_contrast(detail: Tensor, period: int) -> Tensor:
    """Standard deviation over phases of the local mean square, in units of its mean over phases.

    Args:
        detail: high-pass image, (N, C, H, W).
        period: of the lattice, in pixels.

    Returns:
        (N, C, ceil(H / period / 2), ceil(W / period / 2)), >= 0; about 0.12 in luma of photographs,
        sqrt(period^2 - 1) for dots at one phase.

    Raises:
        InputError: fewer than two cells.
    """
    cells = _whole_cells(detail, period)
    energies = gaussian_means(F.pixel_unshuffle(cells.square(), period), CELLS, 2)
    energies = energies.unflatten(1, (cells.shape[1], period * period))
    mean = energies.mean(2, keepdim=True)
    # The constant keeps the root's slope finite where all phases agree.
    spread = ((energies - mean).square().mean(2) + (1e-3 * INVISIBLE**2) ** 2).sqrt()
    return spread / (mean.squeeze(2) + INVISIBLE**2)
