"""KADID-10k types 1-3: Gaussian, lens and motion blur."""

from __future__ import annotations

import math

from torch import Tensor

from sr_perceptual_loss.training.distortions.draws import Draws
from sr_perceptual_loss.training.distortions.filters import disk_kernel, filter_image, gaussian_blur, line_kernels

__all__ = ["blur_gaussian", "blur_lens", "blur_motion"]


def blur_gaussian(image: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Gaussian blur of this standard deviation in pixels."""
    return gaussian_blur(image, sigma)


def blur_lens(image: Tensor, radius: float, draws: Draws) -> Tensor:
    """Blur by a disk of this radius in pixels."""
    return filter_image(image, disk_kernel(radius))


def blur_motion(image: Tensor, length: float, draws: Draws) -> Tensor:
    """Blur along a line of this length in pixels; direction at random for each image."""
    return filter_image(image, line_kernels(length, math.pi * draws.uniform(())))
