"""Universal periodic patterns: what a network can draw with the biases of its up-sampling head, on any picture."""

from __future__ import annotations

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_float, as_int
from sr_perceptual_loss.critics.base import Critic

__all__ = ["PERIODS", "attack_tile", "draw_tile", "with_pattern"]

#: In pixels.
PERIODS = (2, 3, 4, 8)


def draw_tile(period: int, generator: torch.Generator) -> Tensor:
    """A random tile, in colour or in luminance alone.

    Args:
        period: side of the tile, >= 2.
        generator: on the CPU.

    Returns:
        (1, 3, period, period), mean 0 in each channel, RMS 1.
    """
    period = as_int("period", period, minimum=2)
    tile = torch.randn(1, 3, period, period, generator=generator)
    gray = float(torch.rand((), generator=generator)) < 0.5
    if gray:
        tile = tile[:, :1].expand(-1, 3, -1, -1)
    return _normal(tile)


def with_pattern(images: Tensor, tile: Tensor, amplitude: float) -> Tensor:
    """Images plus amplitude times the repeated tile, clamped to [0, 1].

    Args:
        images: (N, 3, H, W) in [0, 1].
        tile: (1, 3, period, period), RMS 1.
        amplitude: RMS of what is added.

    Returns:
        (N, 3, H, W).
    """
    return (images + amplitude * _repeated(tile, images)).clamp(0, 1)


def attack_tile(
    critic: Critic, sr: Tensor, hr: Tensor, tile: Tensor, *, amplitude: float, steps: int, rate: float = 0.3
) -> Tensor:
    """Change a tile so that, put on all pictures of a batch, it raises the mean of score(sr, hr).

    Args:
        critic: with or without trainable parameters; they get no gradient.
        sr: pictures to draw on, (N, 3, H, W) in [0, 1].
        hr: references, same shape.
        tile: where to start, (1, 3, period, period), RMS 1.
        amplitude: RMS of the pattern on the pictures.
        steps: of ascent by the sign of the gradient.
        rate: change of the tile per step.

    Returns:
        The tile, detached, mean 0 in each channel, RMS 1.
    """
    as_float("amplitude", amplitude, minimum=0)
    target = tuple(t.detach() for t in critic.encode_target(hr))
    tile = tile.detach().to(sr)
    with torch.enable_grad():
        for _ in range(as_int("steps", steps, minimum=0)):
            own = tile.clone().requires_grad_()
            score = critic.score(with_pattern(sr, own, amplitude), hr, target_features=target).mean()
            (gradient,) = torch.autograd.grad(score, own)
            tile = _normal(tile + rate * gradient.sign())
    return tile


def _normal(tile: Tensor) -> Tensor:
    tile = tile - tile.mean((2, 3), keepdim=True)
    return tile / tile.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)


def _repeated(tile: Tensor, images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    period = tile.shape[-1]
    whole = tile.to(images).repeat(1, 1, -(-height // period), -(-width // period))
    return whole[..., :height, :width]
