"""KADID-10k types 11-15: additive, colour-component, impulse and multiplicative noise, and noise that was removed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.training.distortions.colour_spaces import rgb_to_ycbcr, ycbcr_to_rgb
from sr_perceptual_loss.training.distortions.draws import Draws

__all__ = [
    "add_white_noise",
    "add_white_noise_ycbcr",
    "dct_denoised",
    "denoise",
    "impulse_noise",
    "multiplicative_noise",
]


def add_white_noise(image: Tensor, variance: float, draws: Draws) -> Tensor:
    """Add normal noise of this variance, clip."""
    return (image + math.sqrt(variance) * draws.normal(image.shape[1:])).clamp(0, 1)


def add_white_noise_ycbcr(image: Tensor, variance: float, draws: Draws) -> Tensor:
    """Add normal noise of this variance to Y, Cb and Cr, clip."""
    noisy = rgb_to_ycbcr(image) + math.sqrt(variance) * draws.normal(image.shape[1:])
    return ycbcr_to_rgb(noisy.clamp(0, 1))


def impulse_noise(image: Tensor, density: float, draws: Draws) -> Tensor:
    """Set this share of the values to 0 or 1, each channel for itself."""
    chance = draws.uniform(image.shape[1:])
    salted = torch.where(chance < density, torch.ones_like(image), image)
    return torch.where(chance < density / 2, torch.zeros_like(image), salted)


def multiplicative_noise(image: Tensor, variance: float, draws: Draws) -> Tensor:
    """Multiply by 1 + n, n uniform with mean 0 and this variance (MATLAB's speckle), clip."""
    return (image * (1 + math.sqrt(12 * variance) * (draws.uniform(image.shape[1:]) - 0.5))).clamp(0, 1)


def denoise(image: Tensor, variance: float, draws: Draws) -> Tensor:
    """Add normal noise of this variance, clip, then denoise each channel for itself.

    The generator uses MATLAB's pre-trained DnCNN, which has no free copy. DCT thresholding at the noise that was left
    by the clipping stands in for it: it leaves short streaks of independent colour as DnCNN does. Small windows come
    closer to the one real picture at hand than larger ones in all that was compared.
    """
    noisy = add_white_noise(image, variance, draws)
    return dct_denoised(noisy, (noisy - image).std((1, 2, 3))).clamp(0, 1)


def dct_denoised(image: Tensor, sigma: Tensor, *, size: int = 4, step: int = 1, factor: float = 2.7) -> Tensor:
    """Mean over overlapping windows of their DCT with the coefficients below factor * sigma set to 0.

    Args:
        image: (N, C, H, W); channels are treated alike and apart.
        sigma: (N,) standard deviation of the noise.
        size: side of the windows, a multiple of ``step``.
        step: distance of the windows.
        factor: threshold in units of sigma.

    Returns:
        (N, C, H, W), not clipped.

    Source: G. Yu, G. Sapiro, "DCT image denoising: a simple and effective image denoising algorithm", IPOL 2011.
    """
    height, width = image.shape[-2:]
    k = torch.arange(size, dtype=torch.float64)
    line = torch.cos(math.pi * (k[None, :] + 0.5) * k[:, None] / size) * math.sqrt(2 / size)
    line[0] /= math.sqrt(2)
    basis = torch.einsum("ax,by->abxy", line, line).reshape(size**2, 1, size, size).to(image)
    padded = F.pad(image, (size,) * 4, mode="replicate")
    results = []
    # One channel at a time: the coefficients take many times its memory.
    for channel in padded.split(1, 1):
        coefficients = F.conv2d(channel, basis, stride=step)
        keep = coefficients.abs() > factor * sigma[:, None, None, None]
        keep[:, 0] = True
        total = F.conv_transpose2d(coefficients * keep, basis, stride=step)
        results.append(total[..., size : size + height, size : size + width] / (size // step) ** 2)
    return torch.cat(results, 1)
