"""Conversions between RGB and the spaces in which the distortions work. All maps are (N, 3, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gray", "hsv_scaled_saturation", "lab_to_rgb", "rgb_to_lab", "rgb_to_ycbcr", "ycbcr_to_rgb"]

# IEC 61966-2-1 (sRGB), white D65.
_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)
_KNEE = 6 / 29
# ITU-R BT.601 with the studio range 16..235 (luma) and 16..240 (chroma), divided by 255.
_TO_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
_YCBCR_OFFSET = (16.0, 128.0, 128.0)


def _mix(image: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", matrix.to(image), image)


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[None, :, None, None]


def gray(image: Tensor) -> Tensor:
    """BT.601 luma of RGB, (N, 1, H, W)."""
    return (image * _column((0.2989, 0.5870, 0.1140), image)).sum(1, keepdim=True)


def rgb_to_lab(image: Tensor) -> Tensor:
    """CIE L*a*b* (L in 0..100) of sRGB in [0, 1]."""
    linear = torch.where(image <= 0.04045, image / 12.92, ((image.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    xyz = _mix(linear, torch.tensor(_TO_XYZ)) / _column(_WHITE, image)
    f = torch.where(xyz > _KNEE**3, xyz.clamp(min=1e-12) ** (1 / 3), xyz / (3 * _KNEE**2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """SRGB of CIE L*a*b*, clipped to [0, 1] where the colour lies outside."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack((y + a / 500, y, y - b / 200), 1)
    xyz = torch.where(f > _KNEE, f**3, 3 * _KNEE**2 * (f - 4 / 29)) * _column(_WHITE, lab)
    inverse = torch.linalg.inv(torch.tensor(_TO_XYZ, dtype=torch.float64))
    linear = _mix(xyz, inverse).clamp(0, 1)
    encoded = 1.055 * linear.clamp(min=1e-12) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, encoded).clamp(0, 1)


def rgb_to_ycbcr(image: Tensor) -> Tensor:
    """Studio-range BT.601 YCbCr divided by 255."""
    return _mix(image, torch.tensor(_TO_YCBCR) / 255) + _column(_YCBCR_OFFSET, image) / 255


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """Inverse of :func:`rgb_to_ycbcr`, clipped to [0, 1]."""
    inverse = torch.linalg.inv(torch.tensor(_TO_YCBCR, dtype=torch.float64) / 255)
    return _mix(ycbcr - _column(_YCBCR_OFFSET, ycbcr) / 255, inverse).clamp(0, 1)


def hsv_scaled_saturation(image: Tensor, factor: float) -> Tensor:
    """RGB after its HSV saturation was multiplied by ``factor``.

    HSV's value V = max(R, G, B) and its hue stay; then each channel is V - factor (V - channel), which needs no angles.
    A negative factor reflects the channels about V; what leaves the range is clipped.
    """
    value = image.amax(1, keepdim=True)
    return (value - factor * (value - image)).clamp(0, 1)
