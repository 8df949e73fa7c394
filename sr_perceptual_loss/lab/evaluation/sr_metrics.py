"""PSNR and SSIM of whole images, in the convention that SR papers and BasicSR use.

Images are rounded to 8 bits, ``border`` pixels are cut from each side, and everything is computed on the CPU in
float64. Luma is BT.601 in studio range, not rounded; full-range luma would give 20 log10(255 / 219) = 1.322 dB less,
and RGB gives other values again: report a number together with its convention.
"""

from __future__ import annotations

import math

from torch import Tensor

from sr_perceptual_loss.checks import as_int, check_choice, check_pair
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops.ssim import ssim

__all__ = ["CHANNELS", "eight_bit", "luma", "psnr", "ssim_8bit"]

CHANNELS = ("y", "rgb")
SSIM_WINDOW = 11


def eight_bit(image: Tensor) -> Tensor:
    """round(255 clamp(image, 0, 1)): what a PNG would hold, as float64 on the CPU.

    Args:
        image: any shape, RGB in [0, 1].

    Returns:
        Same shape, whole numbers in [0, 255].
    """
    return (image.detach().cpu().double().clamp(0, 1) * 255).round()


def luma(image: Tensor) -> Tensor:
    """Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255, not rounded.

    Args:
        image: (3, H, W) RGB in [0, 255], float64.

    Returns:
        (1, H, W) in [16, 235].

    Source: ITU-R BT.601, studio range.
    """
    weights = image.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    return 16 + (image * weights).sum(0, keepdim=True) / 255


def psnr(sr: Tensor, hr: Tensor, *, border: int = 0, channel: str = "y") -> float:
    """10 log10(255^2 / mean squared error) in dB.

    Args:
        sr: SR (distorted) image, (3, H, W) RGB in [0, 1]; rounded to 8 bits here.
        hr: reference image, same shape.
        border: pixels left out on each side; the scale, by convention.
        channel: ``y`` (BT.601 luma, studio range) or ``rgb`` (one mean over the three channels).

    Returns:
        The value; infinity for equal images, as in BasicSR.

    Raises:
        InputError: shapes that differ, no image, or a border that leaves nothing.
    """
    x, y = _prepare(sr, hr, border, channel, smallest=1)
    error = float((x - y).square().mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim_8bit(sr: Tensor, hr: Tensor, *, border: int = 0, channel: str = "y") -> float:
    """SSIM with an 11x11 Gaussian window (1.5 pixels), valid positions, range 255; for RGB the mean over channels.

    Args:
        sr: SR (distorted) image, (3, H, W) RGB in [0, 1]; rounded to 8 bits here.
        hr: reference image, same shape.
        border: pixels left out on each side; the scale, by convention.
        channel: ``y`` (BT.601 luma, studio range) or ``rgb``.

    Returns:
        The value, in [-1, 1]; 1 for equal images.

    Raises:
        InputError: shapes that differ, no image, or less than 11x11 pixels inside the border.
    """
    x, y = _prepare(sr, hr, border, channel, smallest=SSIM_WINDOW)
    # The function below takes RGB; three equal channels have the SSIM of one.
    x, y = (image.expand(3, -1, -1)[None] / 255 for image in (x, y))
    return float(ssim(x, y, window=SSIM_WINDOW))


def _prepare(sr: Tensor, hr: Tensor, border: int, channel: str, smallest: int) -> tuple[Tensor, Tensor]:
    """Both images on the 0..255 scale, cut and converted."""
    check_choice("channel", channel, CHANNELS)
    border = as_int("border", border)
    if sr.dim() != 3 or hr.dim() != 3:
        raise InputError(f"got shapes {tuple(sr.shape)} and {tuple(hr.shape)}, expected two images (3, H, W).")
    check_pair(sr[None], hr[None])
    height, width = sr.shape[1:]
    if min(height, width) - 2 * border < smallest:
        raise InputError(
            f"border: got {border} pixels on each side of a {width}x{height} image (width x height); at least "
            f"{smallest}x{smallest} pixels must be left. Use a smaller border or larger images."
        )
    inside = [eight_bit(image[:, border : height - border, border : width - border]) for image in (sr, hr)]
    x, y = (luma(image) for image in inside) if channel == "y" else inside
    return x, y
