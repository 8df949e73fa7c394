"""KADID-10k types 19-21, 23 and 24: displaced pixels, patches and blocks, large pixels, over-sharpening."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.training.distortions.colour_spaces import lab_to_rgb, rgb_to_lab
from sr_perceptual_loss.training.distortions.draws import Draws
from sr_perceptual_loss.training.distortions.filters import gaussian_blur

__all__ = ["colour_blocks", "displaced", "jitter", "misplaced_patches", "pixelate", "scaled_count", "sharpen"]

# Counts are published for whole KADID-10k pictures.
_PUBLISHED_AREA = 512 * 384
_PATCH = 16
_BLOCK = 32


def scaled_count(count: float, image: Tensor) -> int:
    """A count published for 512 x 384 pixels, in proportion to the area of this picture; at least 1."""
    return max(1, round(count * image.shape[-1] * image.shape[-2] / _PUBLISHED_AREA))


def displaced(image: Tensor, offsets: Tensor) -> Tensor:
    """Bilinear look-up at the own place plus an offset in pixels; edges repeated.

    Args:
        image: (N, C, H, W).
        offsets: (N, 2, H, W), rows then columns.
    """
    height, width = image.shape[-2:]
    rows = torch.arange(height, device=image.device, dtype=image.dtype)[:, None] + offsets[:, 0]
    columns = torch.arange(width, device=image.device, dtype=image.dtype)[None, :] + offsets[:, 1]
    grid = torch.stack((columns * 2 / max(width - 1, 1) - 1, rows * 2 / max(height - 1, 1) - 1), -1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def jitter(image: Tensor, amount: float, draws: Draws) -> Tensor:
    """Move each pixel by a normal offset of this standard deviation in pixels, five times."""
    for _ in range(5):
        image = displaced(image, amount * draws.normal((2, *image.shape[-2:])))
    return image


def misplaced_patches(image: Tensor, count: float, draws: Draws) -> Tensor:
    """Copy patches of 16 x 16 pixels onto a place at most 8 pixels away; the count scales with the area."""
    number = scaled_count(count, image)
    height, width = image.shape[-2:]
    chance = draws.uniform((number, 4)).tolist()
    result = image.clone()
    for one, places in zip(result, chance, strict=True):
        for a, b, c, d in places:
            top, left = _PATCH + round(a * (height - 3 * _PATCH)), _PATCH + round(b * (width - 3 * _PATCH))
            to_top, to_left = top + round((c - 0.5) * _PATCH), left + round((d - 0.5) * _PATCH)
            patch = one[:, top : top + _PATCH, left : left + _PATCH].clone()
            one[:, to_top : to_top + _PATCH, to_left : to_left + _PATCH] = patch
    return result


def pixelate(image: Tensor, strength: float, draws: Draws) -> Tensor:
    """Reduce by the factor .95 - strength^.6 and enlarge again, nearest neighbour both times."""
    height, width = image.shape[-2:]
    factor = 0.95 - strength**0.6
    small = F.interpolate(image, size=(-int(-height * factor // 1), -int(-width * factor // 1)), mode="nearest-exact")
    return F.interpolate(small, size=(height, width), mode="nearest-exact")


def colour_blocks(image: Tensor, count: float, draws: Draws) -> Tensor:
    """Paste blocks of 32 x 32 pixels of a random colour; the count scales with the area."""
    number = scaled_count(count, image)
    height, width = image.shape[-2:]
    chance = draws.uniform((number, 5))
    result = image.clone()
    for one, places in zip(result, chance, strict=True):
        for place in places:
            top, left = int(place[0] * (height - _BLOCK + 1)), int(place[1] * (width - _BLOCK + 1))
            one[:, top : top + _BLOCK, left : left + _BLOCK] = place[2:, None, None]
    return result


def sharpen(image: Tensor, amount: float, draws: Draws) -> Tensor:
    """Unsharp masking of L with sigma 3: L + amount (L - blurred L)."""
    lab = rgb_to_lab(image)
    lab[:, :1] = lab[:, :1] + amount * (lab[:, :1] - gaussian_blur(lab[:, :1], 3))
    return lab_to_rgb(lab)
