"""SR families 101-111: what up-scaling, back-projection, and conventional restoration leave behind."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss._checks import InputError
from sr_perceptual_loss.training.distortions.codecs import compress_jpeg
from sr_perceptual_loss.training.distortions.draws import Draws
from sr_perceptual_loss.training.distortions.filters import gaussian_blur

__all__ = [
    "aliased",
    "back_projected",
    "network_output",
    "over_sharpened",
    "over_smoothed",
    "resampled",
    "second_order_degraded",
    "smoothed_edges_kept",
    "stairs",
    "upscaled",
    "upscaled_jpeg",
]

_REACH = {"bilinear": 1, "bicubic": 2, "lanczos": 3}
# Smallest side of a low-resolution picture.
_SMALLEST = 4


def _weight(kernel: str, x: Tensor) -> Tensor:
    """Value of an interpolation kernel; bicubic with a = -1/2 as MATLAB's, Lanczos with 3 lobes."""
    x = x.abs()
    if kernel == "bilinear":
        return (1 - x).clamp(min=0)
    if kernel == "bicubic":
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))
    return torch.where(x < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))


def resampled(image: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """Resize (N, C, H, W) with MATLAB's rule: the kernel is widened when the picture shrinks, edges are mirrored.

    Args:
        image: (N, C, H, W).
        size: (height, width) of the result.
        kernel: "nearest", "bilinear", "bicubic" or "lanczos".

    Returns:
        (N, C, *size), not clipped.
    """
    if kernel == "nearest":
        return F.interpolate(image, size=size, mode="nearest-exact")
    rows, columns = (_matrix(n, m, kernel).to(image) for n, m in zip(image.shape[-2:], size, strict=True))
    return rows @ image @ columns.T


def _matrix(length: int, target: int, kernel: str) -> Tensor:
    widening = max(1.0, length / target)
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * length / target - 0.5
    reach = math.ceil(_REACH[kernel] * widening) + 1
    places = centres.floor()[:, None] + torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = _weight(kernel, (places - centres[:, None]) / widening)
    weights = weights / weights.sum(1, keepdim=True)
    wrapped = places.long() % (2 * length)
    indices = torch.where(wrapped < length, wrapped, 2 * length - 1 - wrapped)
    return torch.zeros(target, length, dtype=torch.float64).scatter_add_(1, indices, weights)


def _low_size(image: Tensor, scale: float) -> tuple[int, int]:
    height, width = (max(_SMALLEST, round(side / scale)) for side in image.shape[-2:])
    return height, width


def _full_size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _reduced(image: Tensor, scale: float) -> Tensor:
    return resampled(image, _low_size(image, scale), "bicubic").clamp(0, 1)


def upscaled(kernel: str) -> Callable[[Tensor, float, Draws], Tensor]:
    """Distortion whose parameter is the scale: bicubic reduction, then enlargement with this kernel."""

    def apply(image: Tensor, scale: float, draws: Draws) -> Tensor:
        return resampled(_reduced(image, scale), _full_size(image), kernel)

    return apply


def aliased(image: Tensor, scale: float, draws: Draws) -> Tensor:
    """Reduction without a filter (nearest neighbour), then bicubic enlargement."""
    return resampled(resampled(image, _low_size(image, scale), "nearest"), _full_size(image), "bicubic")


def stairs(image: Tensor, scale: float, draws: Draws) -> Tensor:
    """Enlargement by nearest neighbour, slightly blurred: softened steps along edges."""
    return gaussian_blur(upscaled("nearest")(image, scale, draws), 0.2 * scale)


def back_projected(image: Tensor, rounds: float, draws: Draws) -> Tensor:
    """Iterative back-projection at scale 4 that believes in more blur than there was: rings grow with the rounds."""
    low = _reduced(image, 4)
    size = _full_size(image)
    result = resampled(low, size, "bicubic")
    for _ in range(int(rounds)):
        seen = resampled(gaussian_blur(result, 2), _low_size(image, 4), "bicubic")
        result = result + resampled(low - seen, size, "bicubic")
    return result


def over_sharpened(image: Tensor, amount: float, draws: Draws) -> Tensor:
    """Bicubic enlargement by 2, then an unsharp mask of sigma 1.5 on all channels."""
    soft = upscaled("bicubic")(image, 2, draws)
    return soft + amount * (soft - gaussian_blur(soft, 1.5))


def smoothed_edges_kept(image: Tensor, sigma_value: float, *, reach: int = 3) -> Tensor:
    """Bilateral filter: a mean over (2 reach + 1)^2 neighbours, weighted by nearness in place and colour."""
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    height, width = image.shape[-2:]
    total, weights = torch.zeros_like(image), torch.zeros_like(image[:, :1])
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            other = padded[..., dy : dy + height, dx : dx + width]
            place = ((dy - reach) ** 2 + (dx - reach) ** 2) / (2 * (reach / 1.5) ** 2)
            weight = torch.exp(-place - ((other - image) ** 2).mean(1, keepdim=True) / (2 * sigma_value**2))
            total, weights = total + weight * other, weights + weight
    return total / weights


def over_smoothed(image: Tensor, scale: float, draws: Draws) -> Tensor:
    """The look of networks trained for PSNR: bicubic enlargement, bilateral filter, mild sharpening."""
    smooth = smoothed_edges_kept(upscaled("bicubic")(image, scale, draws), 0.03 * scale)
    return smooth + 0.5 * (smooth - gaussian_blur(smooth, 1.5))


def second_order_degraded(image: Tensor, strength: float, draws: Draws) -> Tensor:
    """Blur, reduction, noise and JPEG, twice, then bicubic enlargement to the full size.

    Args:
        image: (N, 3, H, W).
        strength: 1 is mild; scales blur, noise and reduction, lowers the JPEG quality.
        draws: for the noise.

    Source: the order of steps is that of X. Wang et al., "Real-ESRGAN", ICCVW 2021; the parameters are ours.
    """
    current = image
    for factor in (1.0, 0.5):
        current = gaussian_blur(current, 0.3 + 0.5 * strength * factor)
        current = _reduced(current, 1 + 0.5 * strength * factor)
        current = (current + 0.008 * strength * factor * draws.normal(current.shape[1:])).clamp(0, 1)
        current = compress_jpeg(current, max(15, 95 - 14 * strength * factor), draws)
    return resampled(current, _full_size(image), "bicubic")


def upscaled_jpeg(image: Tensor, quality: float, draws: Draws) -> Tensor:
    """Bicubic reduction by 2, JPEG of this quality, bicubic enlargement: artefacts of 16 pixels."""
    return resampled(compress_jpeg(_reduced(image, 2), quality, draws), _full_size(image), "bicubic")


def network_output(image: Tensor, network: Callable[[Tensor], Tensor], scale: int) -> Tensor:
    """Output of a real SR network for the bicubically reduced picture.

    Args:
        image: (N, 3, H, W) RGB in [0, 1]; rows and columns beyond a multiple of ``scale`` are repeated first.
        network: (N, 3, h, w) in [0, 1] -> (N, 3, scale h, scale w) in about [0, 1]; called without gradients.
        scale: of the network.

    Returns:
        (N, 3, H, W) in [0, 1].

    Raises:
        InputError: the network's output has another shape.
    """
    height, width = image.shape[-2:]
    with torch.no_grad():
        even = F.pad(image, (0, -width % scale, 0, -height % scale), mode="replicate")
        low = resampled(even, (even.shape[-2] // scale, even.shape[-1] // scale), "bicubic").clamp(0, 1)
        result = network(low)
    if result.shape != even.shape:
        raise InputError(
            f"network: got {tuple(result.shape)} for an input of {tuple(low.shape)}, expected {tuple(even.shape)}; "
            f"give the scale of the network (got {scale})."
        )
    return result[..., :height, :width].detach().clamp(0, 1)
