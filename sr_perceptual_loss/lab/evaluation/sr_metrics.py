"""PSNR and SSIM of whole images, in the convention that SR papers and BasicSR use.

Images are rounded to 8 bits, ``border`` pixels are cut from each side, and everything is computed on the CPU in
float64. Luma is BT.601 in studio range, not rounded; full-range luma would give 20 log10(255 / 219) = 1.322 dB less,
and RGB gives other values again: report a number together with its convention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_int, check_choice
from sr_perceptual_loss.critics.whole_image import PIXELS_AT_ONCE, strips
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops.ssim import ssim_checked

__all__ = ["CHANNELS", "eight_bit", "luma", "psnr", "ssim_8bit"]

CHANNELS = ("y", "rgb")
SSIM_WINDOW = 11


def eight_bit(image: Tensor) -> Tensor:
    """round(255 clamp(image, 0, 1)), what a PNG would hold, as float64 on the CPU; uint8 keeps its values."""
    pixels = image.detach().cpu().double()
    return pixels if image.dtype == torch.uint8 else pixels.clamp_(0, 1).mul_(255).round_()


def luma(image: Tensor) -> Tensor:
    """Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255, not rounded: (3, H, W) in [0, 255] -> (1, H, W) in [16, 235].

    Source: ITU-R BT.601, studio range.
    """
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    return 16 + (image * weights).sum(0, keepdim=True) / 255


def psnr(sr: Tensor, hr: Tensor, *, border: int = 0, channel: str = "y") -> float:
    """10 log10(255^2 / mean squared error) in dB; infinity for equal images, as in BasicSR.

    Args:
        sr: SR (distorted) image, (3, H, W) RGB in [0, 1], which is rounded to 8 bits here; or uint8.
        hr: reference image, same shape.
        border: pixels left out on each side; the scale, by convention.
        channel: ``y`` (BT.601 luma, studio range) or ``rgb`` (one mean over the three channels).

    Raises:
        InputError: shapes that differ, no image, or a border that leaves nothing.
    """
    total, count = 0.0, 0
    for x, y in _strips(sr, hr, border, channel, window=1):
        total += float((x - y).square().sum())
        count += x.numel()
    error = total / count
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim_8bit(sr: Tensor, hr: Tensor, *, border: int = 0, channel: str = "y") -> float:
    """SSIM with an 11x11 Gaussian window (1.5 pixels), valid positions, range 255; for RGB the mean over channels.

    Arguments are those of :func:`psnr`. The value is in [-1, 1]; 1 for equal images.

    Raises:
        InputError: shapes that differ, no image, or less than 11x11 pixels inside the border.
    """
    total, count = 0.0, 0
    for x, y in _strips(sr, hr, border, channel, window=SSIM_WINDOW):
        rows = x.shape[1] - SSIM_WINDOW + 1
        total += rows * float(ssim_checked(x[None] / 255, y[None] / 255, window=SSIM_WINDOW))
        count += rows
    return total / count


def _strips(sr: Tensor, hr: Tensor, border: int, channel: str, window: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Both images on the 0..255 scale, cut and converted, in strips that overlap by ``window - 1`` rows."""
    check_choice("channel", channel, CHANNELS)
    border = as_int("border", border)
    if sr.dim() != 3 or len(sr) != 3 or sr.shape != hr.shape:
        raise InputError(f"got shapes {tuple(sr.shape)} and {tuple(hr.shape)}, expected two equal ones (3, H, W).")
    height, width = (side - 2 * border for side in sr.shape[1:])
    if min(height, width) < window:
        raise InputError(
            f"border: got {border} pixels on each side of a {sr.shape[2]}x{sr.shape[1]} image (width x height); at "
            f"least {window}x{window} pixels must be left. Use a smaller border or larger images."
        )
    sr, hr = (image[:, border : border + height, border : border + width] for image in (sr, hr))
    for top, bottom in strips(height - window + 1, PIXELS_AT_ONCE // 2 // width, window):
        x, y = (eight_bit(image[:, top : bottom + window - 1]) for image in (sr, hr))
        yield (luma(x), luma(y)) if channel == "y" else (x, y)
