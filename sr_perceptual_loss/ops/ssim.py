"""Per-image SSIM by pytorch-msssim, in float32 or wider even inside autocast."""

from __future__ import annotations

import pytorch_msssim
import torch
from torch import Tensor

from sr_perceptual_loss.checks import check_pair
from sr_perceptual_loss.errors import InputError

__all__ = ["ssim", "ssim_checked"]


def _gaussian(size: int, sigma: float, like: Tensor) -> Tensor:
    """1-D window, (C, 1, 1, size), computed in float64: the float32 window of the library changes scores by 1e-6."""
    x = torch.arange(size, dtype=torch.float64, device="cpu") - size // 2
    window = torch.exp(-(x**2) / (2 * sigma**2))
    return (window / window.sum()).to(like).expand(like.shape[1], 1, 1, size).contiguous()


def ssim(sr: Tensor, hr: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """SSIM = mean of (2 m_x m_y + c1)(2 s_xy + c2) / ((m_x^2 + m_y^2 + c1)(s_x^2 + s_y^2 + c2)), per image.

    Gaussian window, valid positions only, data range 1, K = (0.01, 0.03), mean over positions and the RGB channels; the
    map is not clamped.

    Args:
        sr: SR (distorted) image, (N, 3, H, W) RGB in [0, 1], sides >= ``window``.
        hr: reference image, same shape.
        window: side of the Gaussian window, odd, >= 3.
        sigma: standard deviation of the window, in pixels.

    Returns:
        (N,) scores in [-1, 1]; 1 for equal images. float32, or float64 for float64 input.

    Raises:
        InputError: images of different shape, not RGB, or smaller than the window.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity",
    IEEE TIP 13 (2004), equation (13).
    """
    check_pair(sr, hr)
    return ssim_checked(sr, hr, window=window, sigma=sigma)


def ssim_checked(sr: Tensor, hr: Tensor, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """:func:`ssim` for callers that have validated the pair, and any number of channels; only the window is checked."""
    if window < 3 or window % 2 == 0:
        raise InputError(f"window: got {window}, expected an odd number >= 3.")
    if min(sr.shape[-2:]) < window:
        raise InputError(f"ssim: got {sr.shape[2]}x{sr.shape[3]}, needs sides >= {window} (the window).")
    if len(sr) == 0:
        return sr.sum((1, 2, 3))
    with torch.autocast(device_type=sr.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(sr.dtype, hr.dtype), torch.float32)
        x, y = sr.to(dtype), hr.to(dtype)
        return pytorch_msssim.ssim(x, y, data_range=1.0, size_average=False, win=_gaussian(window, sigma, x))
