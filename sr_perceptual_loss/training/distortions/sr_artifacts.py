"""SR families 112-119: periodic patterns, seams, invented texture and warped detail, the marks of learned SR."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.training.distortions.colour_spaces import gray
from sr_perceptual_loss.training.distortions.draws import Draws
from sr_perceptual_loss.training.distortions.filters import gaussian_blur
from sr_perceptual_loss.training.distortions.spatial import displaced
from sr_perceptual_loss.training.distortions.sr_upscaling import over_smoothed

__all__ = [
    "checkerboard_2",
    "checkerboard_4",
    "hallucinated_texture",
    "high_frequency_noise",
    "low_passed",
    "seams",
    "warped_detail",
    "waves",
]


def _tiled(pattern: Tensor, image: Tensor) -> Tensor:
    """Repeat (N, C, p, p) over the picture."""
    height, width = image.shape[-2:]
    down, right = -(-height // pattern.shape[-2]), -(-width // pattern.shape[-1])
    return pattern.repeat(1, 1, down, right)[..., :height, :width]


def _checkerboard(image: Tensor, amplitude: float, draws: Draws, period: int) -> Tensor:
    """A pattern that repeats each ``period`` pixels, random within, mean 0 and unit power in each channel."""
    pattern = draws.normal((3, period, period))
    pattern = pattern - pattern.mean((2, 3), keepdim=True)
    pattern = pattern / pattern.pow(2).mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
    return image + amplitude * _tiled(pattern, image)


def checkerboard_2(image: Tensor, amplitude: float, draws: Draws) -> Tensor:
    """Add a random pattern of period 2, as a sub-pixel head leaves it; the amplitude is its RMS."""
    return _checkerboard(image, amplitude, draws, 2)


def checkerboard_4(image: Tensor, amplitude: float, draws: Draws) -> Tensor:
    """Add a random pattern of period 4, as two sub-pixel heads leave it; the amplitude is its RMS."""
    return _checkerboard(image, amplitude, draws, 4)


def seams(image: Tensor, amplitude: float, draws: Draws) -> Tensor:
    """Windows of 8, 16 or 32 pixels with slightly different brightness, RMS ``amplitude``: visible borders."""
    height, width = image.shape[-2:]
    sides = [(8, 16, 32)[int(3 * chance)] for chance in draws.uniform(()).tolist()]
    offsets = draws.normal((1, -(-height // 8), -(-width // 8)))
    parts = []
    for offset, side in zip(offsets, sides, strict=True):
        rows, columns = -(-height // side), -(-width // side)
        blocks = offset[:, :rows, :columns].repeat_interleave(side, 1).repeat_interleave(side, 2)
        parts.append(blocks[:, :height, :width])
    return image + amplitude * torch.stack(parts)


def waves(image: Tensor, amplitude: float, draws: Draws) -> Tensor:
    """Add a sinusoid of random direction, colour and a period of 3 to 12 pixels, as attacks on critics draw it."""
    height, width = image.shape[-2:]
    chance = draws.uniform((3,))
    angle, period, phase = math.pi * chance[:, 0], 3 * 4 ** chance[:, 1], 2 * math.pi * chance[:, 2]
    colour = F.normalize(draws.normal((3,)), dim=1) * math.sqrt(3)
    y = torch.arange(height, device=image.device, dtype=image.dtype)[None, :, None]
    x = torch.arange(width, device=image.device, dtype=image.dtype)[None, None, :]
    along = x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None]
    wave = torch.sin(2 * math.pi * along / period[:, None, None] + phase[:, None, None])
    return image + math.sqrt(2) * amplitude * colour[:, :, None, None] * wave[:, None]


def high_frequency_noise(image: Tensor, amplitude: float, draws: Draws) -> Tensor:
    """Add normal noise without its low frequencies, RMS ``amplitude``."""
    noise = draws.normal(image.shape[1:])
    noise = noise - gaussian_blur(noise, 1)
    return image + amplitude * noise / noise.pow(2).mean((1, 2, 3), keepdim=True).sqrt()


def low_passed(image: Tensor, cutoff: float, draws: Draws) -> Tensor:
    """Remove all frequencies above this share of Nyquist at once, which leaves rings beside edges."""
    height, width = image.shape[-2:]
    # Mirrored to twice the size, so that opposite edges do not ring into each other.
    mirrored = torch.cat((image, image.flip(-1)), -1)
    mirrored = torch.cat((mirrored, mirrored.flip(-2)), -2)
    spectrum = torch.fft.rfft2(mirrored)
    fy = torch.fft.fftfreq(2 * height, device=image.device)[:, None]
    fx = torch.fft.rfftfreq(2 * width, device=image.device)[None, :]
    keep = (fx**2 + fy**2).sqrt() <= 0.5 * cutoff
    return torch.fft.irfft2(spectrum * keep, s=(2 * height, 2 * width))[..., :height, :width]


def hallucinated_texture(image: Tensor, gain: float, draws: Draws) -> Tensor:
    """Over-smoothed picture plus invented texture: band-passed noise with ``gain`` times the energy that was lost."""
    smooth = over_smoothed(image, 3, draws)
    lost = gray(image - smooth)
    strength = gaussian_blur(lost**2, 4).clamp(min=0).sqrt()
    noise = draws.normal((1, *image.shape[-2:]))
    band = gaussian_blur(noise, 0.7) - gaussian_blur(noise, 2)
    band = band / band.pow(2).mean((1, 2, 3), keepdim=True).sqrt()
    return smooth + gain * strength * band


def warped_detail(image: Tensor, pixels: float, draws: Draws) -> Tensor:
    """Move the fine detail (above sigma 2) by a smooth random field with this RMS in pixels; the rest stays."""
    low = gaussian_blur(image, 2)
    field = gaussian_blur(draws.normal((2, *image.shape[-2:])), 6)
    field = field / field.pow(2).mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
    return low + displaced(image - low, pixels * field)
