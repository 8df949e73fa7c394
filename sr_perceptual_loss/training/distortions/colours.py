"""KADID-10k types 4, 5, 7 and 8: diffusion, shift and saturation of colour."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.training.distortions.colour_spaces import gray, hsv_scaled_saturation, lab_to_rgb, rgb_to_lab
from sr_perceptual_loss.training.distortions.draws import Draws
from sr_perceptual_loss.training.distortions.filters import gaussian_blur

__all__ = ["diffuse_colour", "saturate_hsv", "saturate_lab", "shift_colour"]


def diffuse_colour(image: Tensor, amount: float, draws: Draws) -> Tensor:
    """Blur a and b of Lab by sigma = 1.5 amount + 2 and multiply them by the amount; L stays."""
    lab = rgb_to_lab(image)
    lab[:, 1:] = gaussian_blur(lab[:, 1:], 1.5 * amount + 2) * amount
    return lab_to_rgb(lab)


def shift_colour(image: Tensor, amount: float, draws: Draws) -> Tensor:
    """Move the green channel by ``amount`` pixels, down and to the right, where the picture has structure.

    The blend map is the gradient magnitude of the luma, blurred by sigma 4, without its lowest tenth and its outer
    percentiles, stretched to [0, 1].
    """
    direction = draws.uniform((2,)) + 1e-6
    steps = (direction / direction.norm(dim=1, keepdim=True) * amount).round().long()
    green = image[:, 1:2]
    moved = torch.cat([_moved(one[None], int(dy), int(dx)) for one, (dy, dx) in zip(green, steps, strict=True)])
    blend = _structure(image)
    return torch.cat((image[:, :1], blend * moved + (1 - blend) * green, image[:, 2:]), 1)


def _moved(channel: Tensor, dy: int, dx: int) -> Tensor:
    height, width = channel.shape[-2:]
    return F.pad(channel, (dx, 0, dy, 0), mode="replicate")[..., :height, :width]


def _structure(image: Tensor) -> Tensor:
    luma = gray(image)
    dy = F.pad(luma, (0, 0, 1, 1), mode="replicate").diff(dim=2)
    dx = F.pad(luma, (1, 1, 0, 0), mode="replicate").diff(dim=3)
    steepness = ((dy[:, :, 1:] + dy[:, :, :-1]) ** 2 + (dx[..., 1:] + dx[..., :-1]) ** 2).sqrt() / 2
    kept = _stretched(gaussian_blur(steepness, 4)).clamp(0.1, 1)
    flat = kept.flatten(1).double()
    # torch.quantile refuses more than 16 million values; a sort does not.
    ordered = flat.sort(1).values
    last = ordered.shape[1] - 1
    low, high = (ordered[:, round(share * last)].to(image)[:, None, None, None] for share in (0.01, 0.99))
    return _stretched(torch.minimum(torch.maximum(kept, low), high))


def _stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-6)


def saturate_hsv(image: Tensor, factor: float, draws: Draws) -> Tensor:
    """Multiply the saturation of HSV."""
    return hsv_scaled_saturation(image, factor)


def saturate_lab(image: Tensor, factor: float, draws: Draws) -> Tensor:
    """Multiply a and b of Lab."""
    lab = rgb_to_lab(image)
    lab[:, 1:] = lab[:, 1:] * factor
    return lab_to_rgb(lab)
