"""Peaks of a spectrum at the frequencies of up-sampling grids, whatever their phase."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.errors import InputError

__all__ = ["spectral_peaks"]

#: Side of the windows: 2, 3 and 4 divide it, so that their frequencies fall on whole bins.
WINDOW = 48
#: Bins next to a frequency, at this distance in both directions, say how much content to expect there.
_NEAR = (3, 4, 5)


def _power(image: Tensor) -> Tensor:
    """Mean periodogram of overlapping Hann windows, (WINDOW, WINDOW), over images and channels."""
    window = torch.hann_window(WINDOW, dtype=image.dtype, device=image.device)
    patches = F.unfold(image.flatten(0, 1).unsqueeze(1), WINDOW, stride=WINDOW // 2)
    patches = patches.transpose(1, 2).reshape(-1, WINDOW, WINDOW)
    patches = patches - patches.mean((1, 2), keepdim=True)
    return torch.fft.fft2(patches * (window[:, None] * window[None, :])).abs().square().mean(0)


def spectral_peaks(image: Tensor, periods: Sequence[int] = (2, 3, 4)) -> dict[int, Tensor]:
    """Max over directions of P(f) / mean of P around f, P = mean periodogram, f = 1 / period.

    Unlike :func:`pattern_spectrum` it also sees grids whose sign or phase changes from place to place, such as a dither
    in textured areas.

    Args:
        image: (N, C, H, W), sides >= 48.
        periods: divisors of 48, in pixels.

    Returns:
        period -> 0-d tensor; about 1 without a peak.

    Raises:
        InputError: images too small, or a period that does not divide 48.
    """
    if min(image.shape[-2:]) < WINDOW:
        raise InputError(f"spectral_peaks: got {image.shape[-2]}x{image.shape[-1]}, needs sides >= {WINDOW}.")
    if any(WINDOW % period for period in periods):
        raise InputError(f"periods: got {list(periods)}, expected divisors of {WINDOW}.")
    power = _power(image.to(torch.promote_types(image.dtype, torch.float32)))
    found = {}
    for period in periods:
        bin_ = WINDOW // period
        ratios = []
        for row, column in ((0, bin_), (bin_, 0), (bin_, bin_), (bin_, -bin_)):
            around = [power[(row + i) % WINDOW, (column + j) % WINDOW] for i, j in _neighbours(row, column)]
            ratios.append(power[row, column] / torch.stack(around).mean().clamp_min(1e-30))
        found[period] = torch.stack(ratios).amax()
    return found


def _neighbours(row: int, column: int) -> list[tuple[int, int]]:
    """Offsets along the axes that the frequency lies on, so that the level of 1/f content is the same."""
    if row == 0:
        return [(0, s * d) for d in _NEAR for s in (-1, 1)]
    if column == 0:
        return [(s * d, 0) for d in _NEAR for s in (-1, 1)]
    return [(s * d, 0) for d in _NEAR for s in (-1, 1)] + [(0, s * d) for d in _NEAR for s in (-1, 1)]
