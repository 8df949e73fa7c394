"""Kernels and filtering with repeated edges, the rule of the KADID-10k generator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["disk_kernel", "filter_image", "gaussian_blur", "gaussian_line", "line_kernels"]

# Disk and line are integrated over this many points a side of each pixel.
_FINE = 16


def gaussian_line(sigma: float) -> Tensor:
    """Normalised Gaussian of 2 ceil(2 sigma) + 1 taps, float64 (the size that MATLAB's imgaussfilt takes)."""
    reach = math.ceil(2 * sigma)
    x = torch.arange(-reach, reach + 1, dtype=torch.float64)
    line = torch.exp(-(x**2) / (2 * sigma**2))
    return line / line.sum()


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of (N, C, H, W), edges repeated."""
    line = gaussian_line(sigma)
    return filter_image(filter_image(image, line[None, :]), line[:, None])


def disk_kernel(radius: float) -> Tensor:
    """Disk of this radius with anti-aliased border, summing to 1, float64."""
    reach = math.ceil(radius)
    cells = 2 * reach + 1
    x = (torch.arange(cells * _FINE, dtype=torch.float64) + 0.5) / _FINE - reach - 0.5
    inside = (x[:, None] ** 2 + x[None, :] ** 2 <= radius**2).double()
    kernel = inside.reshape(cells, _FINE, cells, _FINE).mean((1, 3))
    return kernel / kernel.sum()


def line_kernels(length: float, angles: Tensor) -> Tensor:
    """Line segments of this length in pixels through the centre, one for each angle.

    A pixel weighs 1 minus its distance from the segment, at least 0; a length of 1 is the identity.

    Args:
        length: in pixels, at least 1.
        angles: (N,) in radians, counter-clockwise from the x axis.

    Returns:
        (N, K, K) kernels that sum to 1, float64.
    """
    half = (length - 1) / 2
    reach = math.ceil(half)
    x = torch.arange(-reach, reach + 1, dtype=torch.float64, device=angles.device)
    cos, sin = angles.double().cos()[:, None, None], angles.double().sin()[:, None, None]
    along = x[None, None, :] * cos - x[None, :, None] * sin
    across = x[None, None, :] * sin + x[None, :, None] * cos
    beyond = (along.abs() - half).clamp(min=0)
    kernels = (1 - (beyond**2 + across**2).sqrt()).clamp(min=0)
    return kernels / kernels.sum((1, 2), keepdim=True)


def filter_image(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlate each channel with a kernel of odd sides; edges are repeated.

    Args:
        image: (N, C, H, W).
        kernel: (K, L), or (N, K, L) for one kernel per image.

    Returns:
        (N, C, H, W).
    """
    n, channels, height, width = image.shape
    rows, columns = kernel.shape[-2:]
    padded = F.pad(image, (columns // 2, columns // 2, rows // 2, rows // 2), mode="replicate")
    weight = kernel.to(image).expand(n, rows, columns) if kernel.dim() == 3 else kernel.to(image)[None]
    if weight.shape[0] == 1:
        flat = padded.reshape(n * channels, 1, *padded.shape[-2:])
        return F.conv2d(flat, weight[:, None]).reshape(n, channels, height, width)
    flat = padded.reshape(1, n * channels, *padded.shape[-2:])
    weight = weight.repeat_interleave(channels, 0)[:, None]
    return F.conv2d(flat, weight, groups=n * channels).reshape(n, channels, height, width)
