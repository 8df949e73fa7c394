"""Gradient magnitude similarity (throw-away)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.base import Critic, CriticCard, SizeRule, TargetFeatures
from sr_perceptual_loss.critics.registry import register_critic


def gradient_magnitude(image: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H-2, W-2)."""
    luma = image.mean(1, keepdim=True)
    prewitt = image.new_tensor([[1, 0, -1]] * 3) / 3
    kernels = torch.stack([prewitt, prewitt.t()])[:, None]
    return (F.conv2d(luma, kernels).square().sum(1, keepdim=True) + 1e-8).sqrt()


@register_critic
class GMS(Critic):
    """Mean gradient magnitude similarity."""

    card = CriticCard("gms", "Xue et al. 2014", SizeRule(minimum=16), (0.0, 1.0), relative=False, symmetric=True, needs_weights=False)

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return (gradient_magnitude(hr),)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        a, (b,) = gradient_magnitude(sr), target
        return ((2 * a * b + 0.0026) / (a * a + b * b + 0.0026)).mean((1, 2, 3))
