"""Artefacts in the spectrum of an image: high-frequency energy, and patterns of a fixed period and phase."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor

from sr_perceptual_loss.checks import check_pair
from sr_perceptual_loss.errors import InputError

__all__ = ["PERIODS", "high_frequency_energy", "high_frequency_ratio", "pattern_spectrum", "periodic_excess"]

#: Periods of the patterns that up-sampling layers make, in pixels; two x2 pixel shuffles can make 2 and 4.
PERIODS = (2, 3, 4, 8)
#: High frequencies start here, in cycles per pixel: half of the Nyquist frequency, where an LR image of x2 ends.
CUTOFF = 0.25
#: Energy of rounding to 8 bits (variance of a uniform error of one level). It keeps the ratio finite in flat images.
QUANTISATION = (1 / 255) ** 2 / 12


def _windowed(image: Tensor) -> Tensor:
    """Each channel minus its windowed mean, times a Hann window whose weights have mean 1. float32 or wider."""
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    rows, columns = (
        torch.hann_window(side + 2, periodic=False, dtype=image.dtype, device=image.device)[1:-1]
        for side in image.shape[-2:]
    )
    window = rows[:, None] * columns[None, :]
    window = window / window.mean()
    return window * (image - (window * image).mean((-2, -1), keepdim=True))


def high_frequency_energy(image: Tensor) -> Tensor:
    """Energy per pixel at spatial frequencies of at least 0.25 cycles per pixel, under a Hann window.

    Args:
        image: (N, C, H, W), any range.

    Returns:
        (N,) energies, mean over channels, in squared units of the image.
    """
    x = _windowed(image)
    power = torch.fft.fft2(x, norm="forward").abs().square()
    fy, fx = (torch.fft.fftfreq(side, device=x.device) for side in image.shape[-2:])
    high = fy[:, None].square() + fx[None, :].square() >= CUTOFF**2
    return (power * high).sum((-2, -1)).mean(1)


def high_frequency_ratio(sr: Tensor, hr: Tensor) -> Tensor:
    """(mean of E(sr) + q) / (mean of E(hr) + q) over the batch, E = :func:`high_frequency_energy`, q = 8-bit rounding.

    Args:
        sr: SR images, (N, 3, H, W) RGB in [0, 1].
        hr: reference images, same shape.

    Returns:
        0-d tensor > 0: below 1 if ``sr`` is blurrier than the reference, above 1 if it has more fine structure.

    Raises:
        InputError: images of different shape, or not RGB.
    """
    check_pair(sr, hr)
    sr_energy, hr_energy = (high_frequency_energy(image).mean() for image in (sr, hr))
    return (sr_energy + QUANTISATION) / (hr_energy + QUANTISATION)


def pattern_spectrum(image: Tensor, period: int) -> Tensor:
    """Fourier coefficients of the pattern of exactly this period with the same phase in all images of the batch.

    The images are folded modulo the period (as their Fourier transform does at the frequencies k/period) and averaged.
    Content has a different phase in each place and image, so it averages out. A pattern that is tied to the output grid
    of a network remains. Frequencies of shorter periods that divide this one are left out.

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
    exact = [[gcd(k, m, period) == 1 for m in range(period)] for k in range(period)]
    return torch.fft.fft2(folded, norm="forward") * torch.tensor(exact, device=x.device)


def periodic_excess(sr: Tensor, hr: Tensor, periods: Sequence[int] = PERIODS) -> dict[int, Tensor]:
    """sqrt(sum of max(0, |S(sr)| - |S(hr)|)^2), S = :func:`pattern_spectrum`: patterns in ``sr`` that ``hr`` lacks.

    Args:
        sr: SR images, (N, 3, H, W) RGB in [0, 1]. More and larger images show weaker patterns.
        hr: reference images, same shape.
        periods: in pixels, each >= 2.

    Returns:
        period -> 0-d tensor: root mean square of the pattern, mean over channels, in units of the image. 0 for periods
        that do not fit four times into the image.

    Raises:
        InputError: images of different shape, or not RGB; a period below 2.
    """
    check_pair(sr, hr)
    excess = {}
    for period in periods:
        if min(sr.shape[-2:]) < 4 * period or len(sr) == 0:
            excess[period] = sr.new_zeros(())
            continue
        more = (pattern_spectrum(sr, period).abs() - pattern_spectrum(hr, period).abs()).clamp(min=0)
        excess[period] = more.square().sum((-2, -1)).mean().sqrt()
    return excess
