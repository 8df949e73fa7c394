"""Peaks of the spectrum at the frequencies of up-sampling grids, independent of their phase."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.errors import InputError

__all__ = ["spectral_peaks"]

#: Side of the windows. It is a multiple of the periods 2, 3 and 4, so their frequencies fall on whole bins.
WINDOW = 48
#: Bins at these distances from a frequency estimate the energy that image content alone would have there.
OFFSETS = (-3, 3, -4, 4, -5, 5)


def spectral_peaks(image: Tensor, periods: Sequence[int] = (2, 3, 4)) -> dict[int, Tensor]:
    """Max over directions of P(f) / mean of P around f, P = mean periodogram, f = 1 / period.

    Unlike :func:`~sr_perceptual_loss.monitor.spectrum.pattern_spectrum` it also sees grids whose sign or phase changes
    from place to place, such as a dither in textured areas.

    Args:
        image: (N, C, H, W), sides >= 48.
        periods: divisors of 48, in pixels.

    Returns:
        period -> 0-d tensor; about 1 without a peak.

    Raises:
        InputError: the images are too small, or a period does not divide 48.
    """
    if min(image.shape[-2:]) < WINDOW:
        raise InputError(f"spectral_peaks: got {image.shape[-2]}x{image.shape[-1]}, needs sides >= {WINDOW}.")
    if any(WINDOW % period for period in periods):
        raise InputError(f"periods: got {list(periods)}, expected divisors of {WINDOW}.")
    power = _periodogram(image.to(torch.promote_types(image.dtype, torch.float32)))
    peaks = {}
    for period in periods:
        f = WINDOW // period
        directions = ((0, f), (f, 0), (f, f), (f, -f))
        peaks[period] = torch.stack([_peak(power, row, column) for row, column in directions]).amax()
    return peaks


def _periodogram(image: Tensor) -> Tensor:
    """Mean power of overlapping Hann windows over places, images and channels, (WINDOW, WINDOW)."""
    window = torch.hann_window(WINDOW, dtype=image.dtype, device=image.device)
    patches = F.unfold(image.flatten(0, 1).unsqueeze(1), WINDOW, stride=WINDOW // 2)
    patches = patches.transpose(1, 2).reshape(-1, WINDOW, WINDOW)
    patches = patches - patches.mean((1, 2), keepdim=True)
    return torch.fft.fft2(patches * (window[:, None] * window[None, :])).abs().square().mean(0)


def _peak(power: Tensor, row: int, column: int) -> Tensor:
    """Power of one bin over the mean of its neighbours along the same axes, where 1/f content has the same level."""
    near = [(d, 0) for d in OFFSETS if row] + [(0, d) for d in OFFSETS if column]
    around = torch.stack([power[(row + i) % WINDOW, (column + j) % WINDOW] for i, j in near])
    return power[row, column] / around.mean().clamp_min(1e-30)
