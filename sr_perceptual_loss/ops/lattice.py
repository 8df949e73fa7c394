"""Patterns tied to the pixel lattice of an up-sampling network, detected by comparing the phases of its period.

Natural texture is independent of the cells of the lattice: within a neighbourhood every phase of a period has the same
mean (zero without the low frequencies) and the same energy. An SR network that is rewarded for texture breaks both
rules, because a pattern at a fixed phase is the simplest texture to make: a grid has means that differ between phases,
and dots whose sign or strength follows the content have energies that differ. The
dots may have no peak in the spectrum.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.errors import InputError

__all__ = ["dot_strength", "gaussian_means", "grid_share", "lattice_contrast", "lattice_excess"]

#: Sigma of the neighbourhoods, in cells. A larger one detects fainter patterns.
CELLS = 4.0
#: Root mean square of the detail, in units of [0, 1], below which patterns count less: four 8-bit steps.
INVISIBLE = 0.015
#: Longer rows are smoothed in blocks, whose windows are cut at 7 sigma: means change by less than 1e-11.
WIDE = 1024


def _smoothing(length: int, sigma: float, step: int, like: Tensor) -> Tensor:
    """Matrix (ceil(length / step), length) of Gaussian means; rows are normalised, so windows are cut at the border."""
    samples = torch.arange(length, dtype=like.dtype, device=like.device)
    distances = samples[: -(-length // step), None] * step + (step - 1) / 2 - samples
    return torch.softmax(distances.square() * (-0.5 / (sigma * sigma)), 1)


def gaussian_means(image: Tensor, sigma: float, step: int) -> Tensor:
    """Means in Gaussian windows at every ``step``-th pixel.

    Two products with small matrices take a fifth of the time of separable depthwise convolutions on a CPU.

    Args:
        image: (..., H, W).
        sigma: standard deviation of the windows, in pixels.
        step: distance between the windows, in pixels.

    Returns:
        (..., ceil(H / step), ceil(W / step)).
    """
    height, width = image.shape[-2:]
    down = _smoothing(height, sigma, step, image)
    if width > WIDE:
        return down @ _row_means(image, sigma, step)
    across = down if width == height else _smoothing(width, sigma, step, image)
    return down @ (image @ across.t())


def _row_means(image: Tensor, sigma: float, step: int) -> Tensor:
    """Means along wide rows, block by block: the time grows with the width and not with its square."""
    width = image.shape[-1]
    count, reach = -(-width // step), math.ceil(7 * sigma / step) + 1
    parts = []
    for start in range(0, count, 2 * reach):
        first, end = max(0, start - reach), min(count, start + 2 * reach)
        part = image[..., first * step : (end + reach) * step]
        weights = _smoothing(part.shape[-1], sigma, step, image)[start - first : end - first]
        parts.append(part @ weights.t())
    return torch.cat(parts, -1)


def _phases(image: Tensor, period: int) -> Tensor:
    """One small image per phase: (N, C, H, W) -> (N, C, period^2, H // period, W // period)."""
    if min(image.shape[-2:]) < 2 * period:
        raise InputError(f"lattice: got {image.shape[-2]}x{image.shape[-1]}, needs two cells of {period} pixels.")
    height, width = (side // period * period for side in image.shape[-2:])
    return F.pixel_unshuffle(image[..., :height, :width], period).unflatten(1, (image.shape[1], period * period))


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
    phases = _phases(detail, period)
    means = gaussian_means(phases, CELLS, 1)
    energy = gaussian_means(phases.square().mean(2), CELLS, 1)
    return (means - means.mean(2, keepdim=True)).square().mean(2) / (energy + INVISIBLE**2)


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
    energies = gaussian_means(_phases(detail, period).square(), CELLS, 2)
    mean = energies.mean(2, keepdim=True)
    # The constant keeps the gradient of the root finite where all phases agree.
    spread = ((energies - mean).square().mean(2) + (1e-3 * INVISIBLE**2) ** 2).sqrt()
    return spread / (mean.squeeze(2) + INVISIBLE**2)


def _uneven(squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of squared phases: (energy of each phase - mean) / mean; the variance that chance alone gives it; the mean."""
    energies = gaussian_means(squares, CELLS, 2)
    mean = energies.mean(2, keepdim=True)
    # Chance: the variance of the energy over cells, times the sum of the squared weights of a window.
    spread = gaussian_means(squares.square().mean(2), CELLS, 2) - energies.square().mean(2)
    rows, columns = (_smoothing(side, CELLS, 2, squares).square().sum(1) for side in squares.shape[-2:])
    unit = mean + INVISIBLE**2
    chance = spread * torch.outer(rows, columns) / unit.squeeze(2).square()
    return (energies - mean) / unit, chance, mean.squeeze(2)


def lattice_excess(detail: Tensor, period: int) -> Tensor:
    """sqrt(max(0, v - c) + 1e-4): how uneven the phases are beyond chance.

    v: variance over phases of the local mean square, in units of its squared mean. c: the variance that independent
    cells have by chance, which is larger where the texture is coarse or sparse.

    Args:
        detail: high-pass image, (N, C, H, W).
        period: of the lattice, in pixels.

    Returns:
        (N, C, ceil((H // period) / 2), ceil((W // period) / 2)), >= 0.01.

    Raises:
        InputError: fewer than two cells.
    """
    uneven, chance, _ = _uneven(_phases(detail, period).square())
    # The constant keeps the gradient of the root finite where chance explains everything.
    return ((uneven.square().mean(2) - chance).clamp(min=0) + 1e-4).sqrt()


def dot_strength(sr_detail: Tensor, hr_detail: Tensor, period: int) -> Tensor:
    """max(0, v(sr) - max(v(hr), s) - c) * r: dots on the lattice that chance and the reference do not explain.

    v: variance over phases of the local mean square, in units of its squared mean. s: the part of v(sr) that has the
    phases of the reference, such as an edge along the lattice. c: the variance that independent cells have by chance.
    r: local root mean square of ``sr_detail``.

    Args:
        sr_detail: high-pass SR image, (N, C, H, W).
        hr_detail: the same of the reference.
        period: of the lattice, in pixels.

    Returns:
        (N, C, ceil((H // period) / 2), ceil((W // period) / 2)), >= 0, in units of the image.

    Raises:
        InputError: fewer than two cells.
    """
    (sr, chance, energy), (hr, _, _) = (_uneven(_phases(detail, period).square()) for detail in (sr_detail, hr_detail))
    natural = hr.square().mean(2)
    same = (sr * hr).mean(2).clamp(min=0).square() / (natural + 1e-6)
    return (sr.square().mean(2) - torch.maximum(natural, same) - chance).clamp(min=0) * energy.sqrt()
