"""Ascent on pixels: how far a critic's score rises when an image is changed for its sake alone."""

from __future__ import annotations

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_float, as_int
from sr_perceptual_loss.critics.base import Critic

__all__ = ["pixel_attack"]


def pixel_attack(critic: Critic, sr: Tensor, hr: Tensor, *, steps: int, rate: float) -> Tensor:
    """Adam on the pixels of ``sr`` to raise score(sr, hr), within [0, 1].

    Args:
        critic: with or without trainable parameters; they get no gradient.
        sr: where to start, (N, 3, H, W) RGB in [0, 1].
        hr: reference images, same shape.
        steps: of Adam, >= 0.
        rate: its learning rate, about the change of a pixel per step.

    Returns:
        The attacked images, detached, same shape, in [0, 1].
    """
    image = sr.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([image], lr=as_float("rate", rate, minimum=0))
    target = critic.encode_target(hr)
    target = tuple(t.detach() for t in target)
    with torch.enable_grad():
        for _ in range(as_int("steps", steps, minimum=0)):
            score = critic.score(image, hr, target_features=target)
            (image.grad,) = torch.autograd.grad(-score.sum(), image)
            optimiser.step()
            with torch.no_grad():
                image.clamp_(0, 1)
    return image.detach()
