"""What a picture's spectrum says about artefacts: high-frequency energy and patterns of a fixed period and phase."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor

from sr_perceptual_loss.checks import check_pair
from sr_perceptual_loss.errors import InputError

__all__ = ["high_frequency_energy", "high_frequency_ratio", "pattern_spectrum", "periodic_excess"]

# Energy of rounding to 8 bits (a uniform error of one level, variance 1/12), all of it counted as high-frequency: below
# this a flat patch has no texture to compare with.
QUANTISATION = (1 / 255) ** 2 / 12


def _windowed(image: Tensor) -> Tensor:
    """Hann window over both sides of each channel less its windowed mean; weights of mean 1. float32 or wider."""
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    height, width = image.shape[-2:]
    rows = torch.hann_window(height + 2, periodic=False, dtype=image.dtype, device=image.device)[1:-1]
    columns = torch.hann_window(width + 2, periodic=False, dtype=image.dtype, device=image.device)[1:-1]
    window = rows[:, None] * columns[None, :]
    window = window / window.mean()
    return window * (image - (window * image).mean((-2, -1), keepdim=True))


def high_frequency_energy(image: Tensor, *, cutoff: float = 0.25) -> Tensor:
    """Energy per pixel at spatial frequencies of at least ``cutoff`` cycles per pixel, under a Hann window.

    Args:
        image: (N, C, H, W), any range.
        cutoff: radial frequency in (0, 0.5]; 0.25 is half of the Nyquist frequency, what x2 and higher SR must invent.

    Returns:
        (N,) energies, mean over channels, in squared units of the image.

    Raises:
        InputError: ``cutoff`` out of range.
    """
    if not 0 < cutoff <= 0.5:
        raise InputError(f"cutoff: got {cutoff}, expected a frequency in (0, 0.5] cycles per pixel.")
    height, width = image.shape[-2:]
    x = _windowed(image)
    power = torch.fft.fft2(x, norm="forward").abs().square()
    fy = torch.fft.fftfreq(height, device=x.device)[:, None]
    fx = torch.fft.fftfreq(width, device=x.device)[None, :]
    return (power * (fy.square() + fx.square() >= cutoff**2)).sum((-2, -1)).mean(1)


def high_frequency_ratio(sr: Tensor, hr: Tensor, *, cutoff: float = 0.25) -> Tensor:
    """(sum of E(sr) + q) / (sum of E(hr) + q) over the batch, E = :func:`high_frequency_energy`, q = 8-bit rounding.

    Args:
        sr: judged images, (N, 3, H, W) RGB in [0, 1].
        hr: reference images, same shape.
        cutoff: as in :func:`high_frequency_energy`.

    Returns:
        0-d tensor > 0: below 1 is blurrier than the reference, above 1 has more fine structure than it.

    Raises:
        InputError: images of different shape, or not RGB.
    """
    check_pair(sr, hr)
    energies = [high_frequency_energy(image, cutoff=cutoff).mean() for image in (sr, hr)]
    return (energies[0] + QUANTISATION) / (energies[1] + QUANTISATION)


def pattern_spectrum(image: Tensor, period: int) -> Tensor:
    """Fourier coefficients of what repeats with exactly this period at the same phase in all images of the batch.

    The pictures are folded modulo the period (which is what their Fourier transform does at the frequencies k/period)
    and averaged: content has another phase in each place and picture and averages out, while a pattern that a network
    draws relative to its own output grid stays. Frequencies that belong to a shorter period dividing this one are left
    out.

    Args:
        image: (N, C, H, W), sides >= ``period``.
        period: in pixels, >= 2.

    Returns:
        (C, period, period) complex coefficients; the sum of their squared magnitudes is the mean square of the pattern.

    Raises:
        InputError: period below 2, or larger than the image.
    """
    height, width = image.shape[-2:]
    if not 2 <= period <= min(height, width):
        raise InputError(f"period: got {period}, expected 2..{min(height, width)} for {height}x{width} images.")
    rows, columns = height // period, width // period
    x = _windowed(image[..., : rows * period, : columns * period])
    folded = x.reshape(*x.shape[:2], rows, period, columns, period).mean((0, 2, 4))
    own = [[gcd(gcd(k, m), period) == 1 for m in range(period)] for k in range(period)]
    return torch.fft.fft2(folded, norm="forward") * torch.tensor(own, device=x.device)


def periodic_excess(sr: Tensor, hr: Tensor, periods: Sequence[int] = (2, 3, 4, 8)) -> dict[int, Tensor]:
    """sqrt(sum of max(0, |S(sr)| - |S(hr)|)^2), S = :func:`pattern_spectrum`: patterns in ``sr`` that ``hr`` lacks.

    Args:
        sr: judged images, (N, 3, H, W) RGB in [0, 1]; more images and larger ones make the floor lower.
        hr: reference images, same shape.
        periods: in pixels; x4 pixel shuffle can draw 2 and 4 with its biases alone.

    Returns:
        period -> 0-d tensor: root mean square of the pattern, mean over channels, in units of the image. 0 for periods
        that do not fit four times into the image.

    Raises:
        InputError: images of different shape, or not RGB.
    """
    check_pair(sr, hr)
    found = {}
    for period in periods:
        if min(sr.shape[-2:]) < 4 * period or len(sr) == 0:
            found[period] = sr.new_zeros(())
            continue
        excess = (pattern_spectrum(sr, period).abs() - pattern_spectrum(hr, period).abs()).clamp(min=0)
        found[period] = excess.square().sum((-2, -1)).mean().sqrt()
    return found
