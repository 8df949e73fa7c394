"""RQI on TOPIQ-FR with weights that never change again; made by ``RQITopiq.inference_form()``.

All maps are (N, H, W, C), where a 1x1 convolution is a matrix product that keeps nothing for the gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sr_perceptual_loss.critics.base import Critic, TargetFeatures, normalise
from sr_perceptual_loss.critics.rqi_topiq.network import (
    DISTANCE_EPS,
    IMAGENET,
    LEVELS,
    CrossLayer,
    PyramidResNet,
    RQITopiq,
)
from sr_perceptual_loss.ops.fold import folded, frozen_copy
from sr_perceptual_loss.ops.gated_pool import feature_distance, gated_pool
from sr_perceptual_loss.ops.winograd import with_winograd

__all__ = ["ChannelsLastResNet", "RQITopiqInference"]


def _convolve(conv: nn.Module, maps: Tensor) -> Tensor:
    """A convolution of (N, H, W, C)."""
    if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1):
        down, right = conv.stride
        maps = maps if (down, right) == (1, 1) else maps[:, ::down, ::right]
        return F.linear(maps, conv.weight.flatten(1), conv.bias)
    result: Tensor = conv(maps.permute(0, 3, 1, 2))
    return result.permute(0, 2, 3, 1)


class ResidualBlock(nn.Module):
    """A folded residual block of timm, of either kind, on (N, H, W, C).

    Args:
        block: ``BasicBlock`` or ``Bottleneck`` without batch norms; its convolutions are kept.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        named = dict(block.named_children())
        self.convs = nn.ModuleList(named[name] for name in ("conv1", "conv2", "conv3") if name in named)
        shortcut = named.get("downsample")
        self.shortcut = None if shortcut is None else next(m for m in shortcut.modules() if isinstance(m, nn.Conv2d))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H', W', C')."""
        *first, last = self.convs
        x = maps
        for conv in first:
            x = F.relu(_convolve(conv, x))
        shortcut = maps if self.shortcut is None else _convolve(self.shortcut, maps)
        return F.relu(_convolve(last, x) + shortcut)


class ChannelsLastResNet(nn.Module):
    """A :class:`PyramidResNet` whose batch norms are folded into the convolutions.

    Args:
        network: not modified.
    """

    def __init__(self, network: PyramidResNet) -> None:
        super().__init__()
        copied = folded(network)
        first = network.conv1
        self.stem = folded(nn.Sequential(*(first if isinstance(first, nn.Sequential) else [first]), network.bn1))
        self.maxpool = copied.maxpool
        stages = (copied.layer1, copied.layer2, copied.layer3, copied.layer4)
        self.stages = nn.ModuleList(nn.Sequential(*(ResidualBlock(block) for block in stage)) for stage in stages)

    def forward(self, image: Tensor) -> TargetFeatures:
        """(N, 3, H, W) -> five maps (N, H / 2^(i+1), W / 2^(i+1), C_i)."""
        stem = F.relu(self.stem(image.contiguous(memory_format=torch.channels_last)))
        levels = [stem.permute(0, 2, 3, 1).contiguous()]
        x = self.maxpool(stem).permute(0, 2, 3, 1)
        for stage in self.stages:
            x = stage(x).contiguous()
            levels.append(x)
        return tuple(levels)


class RQITopiqInference(RQITopiq):
    """The same scores and gradients to ``sr`` as the critic that it is made from; cannot be trained.

    Args:
        critic: shares its unchanged tensors; not modified.
    """

    def __init__(self, critic: RQITopiq) -> None:
        super(RQITopiq, self).__init__(config=critic.config, input_size=critic.input_size)
        self.kernels, self.autocast_dtype = critic.kernels, critic.autocast_dtype
        self.semantic_model: Any = ChannelsLastResNet(critic.semantic_model)
        for name in ("weight_pool", "dim_reduce", "sa_attn_blks", "attn_blks", "attn_pool", "score_linear"):
            setattr(self, name, frozen_copy(getattr(critic, name)))
        for part in self.attn_blks.modules():
            if isinstance(part, CrossLayer):
                part.self_attn = nn.Identity()  # type: ignore[assignment]
        self.h_emb = nn.Parameter(critic.h_emb.detach(), requires_grad=False)
        self.w_emb = nn.Parameter(critic.w_emb.detach(), requires_grad=False)
        with_winograd(self)
        self.to(memory_format=torch.channels_last).eval()

    def inference_form(self) -> Critic:
        """This critic itself."""
        return self

    def features(self, image: Tensor) -> TargetFeatures:
        """Five levels of the backbone, (N, H / 2^(i+1), W / 2^(i+1), C_i)."""
        levels: TargetFeatures = self.semantic_model(normalise(image, *IMAGENET))
        return levels

    def compare_features(self, judged: TargetFeatures, reference: TargetFeatures) -> Tensor:
        """Scores (N,) from :meth:`features` of both images."""
        rows, columns = judged[-1].shape[1:3]
        return self._from_levels(judged, reference, (rows, columns))

    def _level_tokens(
        self, level: int, judged: Tensor, reference: Tensor, position: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """(N, h, w, C) of both images to (rows * columns, N, dim)."""
        distance = feature_distance(judged, reference, DISTANCE_EPS)
        gate = self._after_first(self.weight_pool[level], distance)[..., 0]
        if level < LEVELS - 1:
            maps = gated_pool(judged, reference, distance, gate, grid)
        else:
            maps = torch.cat([part * gate[..., None] for part in (judged, reference, distance)], dim=3)
        embedded = self._after_first(self.dim_reduce[level], maps) + position.permute(0, 2, 3, 1)
        tokens: Tensor = self.sa_attn_blks[level](rearrange(embedded, "n h w c -> (h w) n c"))
        return tokens

    @staticmethod
    def _after_first(parts: nn.Module, maps: Tensor) -> Tensor:
        """A Sequential that starts with a convolution, on (N, H, W, C)."""
        first, *others = parts.children()
        x = _convolve(first, maps).permute(0, 3, 1, 2)
        for part in others:
            x = part(x)
        return x.permute(0, 2, 3, 1)
