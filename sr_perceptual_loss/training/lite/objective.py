"""Losses on label differences, and what is done to all versions of a group alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_perceptual_loss.critics.rqi_lite import RQILite
from sr_perceptual_loss.training.lite.settings import AttackConfig, LiteObjectiveConfig

__all__ = ["PairScores", "augmented", "gradient_l1", "pair_loss"]

# Label differences below it say nothing about the order.
_DECIDED = 0.05


class PairScores(nn.Module):
    """Scores of pairs of a set of images; each image passes the stem once.

    Args:
        critic: the network.
        dtype: of matrix products and convolutions, or None for the parameters' own.
    """

    def __init__(self, critic: RQILite, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.critic, self.dtype = critic, dtype

    def forward(self, images: Tensor, pairs: Tensor) -> Tensor:
        """(K, 3, H, W) in [0, 1] and (P, 2) numbers of images -> (P,) scores."""
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            features = self.critic.features(images)
            first, second = (tuple(x.index_select(0, pairs[:, side]) for x in features) for side in (0, 1))
            return self.critic.compare(first, second).float()


def pair_loss(scores: Tensor, labels: Tensor, same: Tensor, config: LiteObjectiveConfig) -> dict[str, Tensor]:
    """Huber on the difference, logistic on its sign, and once more on levels of one type.

    Args:
        scores: (P,) of the critic.
        labels: (P,) differences of labels.
        same: (P,) whether both images are levels of one type.
        config: weights.

    Returns:
        name -> 0-d tensor, weighted; their sum is the loss.
    """
    found = {"huber": F.huber_loss(scores, labels, delta=config.delta) / config.delta}
    order = F.softplus(-labels.sign() * scores / config.temperature) * (labels.abs() > _DECIDED)
    found["ranking"] = config.ranking * order.mean()
    found["levels"] = config.levels * (order * same).sum() / same.sum().clamp(min=1)
    return found


def augmented(groups: Tensor, config: AttackConfig, generator: torch.Generator) -> Tensor:
    """All versions of a group shifted, resized and made noisy alike; the labels stay.

    Args:
        groups: (G, M, 3, S, S).
        config: strengths.
        generator: on the CPU.

    Returns:
        (G, M, 3, S', S'), S' >= 64.
    """
    side = groups.shape[-1]
    # All are drawn in every case, so that switching one off leaves the others as they are.
    left, top, part = torch.rand(3, generator=generator).tolist()
    strengths = config.noise * torch.rand(len(groups), generator=generator)
    images = groups
    lost = min(config.shift, side - 64)
    if lost > 0:
        y, x = int(top * (lost + 1)), int(left * (lost + 1))
        images = images[..., y : y + side - lost, x : x + side - lost]
    if config.rescale < 1:
        target = max(64, round(images.shape[-1] * (config.rescale + part * (1 - config.rescale))))
        flat = F.interpolate(
            images.flatten(0, 1), size=(target, target), mode="bicubic", antialias=True, align_corners=False
        )
        images = flat.unflatten(0, groups.shape[:2])
    if config.noise > 0:
        shape = (len(images), 1, *images.shape[2:])
        noise = torch.randn(shape, generator=generator) * strengths.view(-1, 1, 1, 1, 1)
        images = images + noise.to(images)
    return images


def gradient_l1(model: PairScores, images: Tensor, references: Tensor, step: float = 1 / 255) -> Tensor:
    """Mean l1 norm of d f / d image, by a central difference along the sign of the gradient.

    A change of every pixel by +-h moves f by h |gradient|_1 to first order, and this needs no second derivative of the
    attention.

    Args:
        model: the scores.
        images: (N, 3, H, W) judged.
        references: same shape.
        step: h.

    Returns:
        0-d tensor: how much f rises per unit of change of all pixels.
    """
    count = len(images)
    pairs = torch.arange(2 * count, device=images.device).view(2, count).t()
    own = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model(torch.cat([own, references]), pairs).sum(), own)
    move = step * gradient.sign()
    up, down = (model(torch.cat([images + sign * move, references]), pairs) for sign in (1, -1))
    return (up - down).mean() / (2 * step)
