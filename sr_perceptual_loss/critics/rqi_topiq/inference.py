"""RQI on TOPIQ-FR with fixed weights, made by ``RQITopiq.inference_form()``.

Batch norms are folded, unused parts are absent, and gated maps are pooled without being made. All maps are
(N, H, W, C), where a 1x1 convolution is a matrix product that keeps nothing for the gradient.

Source of the gated pooling: Chen et al., TOPIQ, arXiv 2308.03060, gated local pooling.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sr_perceptual_loss.critics.base import IMAGENET, InferenceForm, TargetFeatures, normalise
from sr_perceptual_loss.critics.rqi_topiq.network import DISTANCE_EPS, LEVELS, CrossLayer, PyramidResNet, RQITopiq
from sr_perceptual_loss.ops.fold import folded, frozen_copy, frozen_parameter
from sr_perceptual_loss.ops.winograd import with_winograd

__all__ = ["RQITopiqInference", "feature_distance", "gated_pool"]


def feature_distance(sr: Tensor, hr: Tensor, eps: float) -> Tensor:
    """sqrt((sr - hr)^2 + eps) of features; it keeps no further tensor for the gradient, and none reaches ``hr``."""
    result: Tensor = _Distance.apply(sr, hr, eps)
    return result


def gated_pool(sr: Tensor, hr: Tensor, distance: Tensor, gate: Tensor, grid: tuple[int, int]) -> Tensor:
    """Adaptive average pooling of the gated maps, concatenated in channels; no gradient reaches ``hr``.

    Pooling is a product with a matrix of averages along each axis, A_h (g * x) A_w^T, and the gate is multiplied into
    A_w, so that no gated map is ever made.

    Args:
        sr: (N, H, W, C).
        hr: same shape.
        distance: same shape.
        gate: (N, H, W).
        grid: rows and columns of the result.

    Returns:
        (N, rows, columns, 3C).
    """
    with torch.autocast(sr.device.type, enabled=False):
        result: Tensor = _GatedPool.apply(sr, hr, distance, gate.to(sr.dtype), grid)
    return result


def _averages(outputs: int, inputs: int, like: Tensor) -> Tensor:
    """(outputs, inputs): row i averages over floor(i * inputs / outputs) ... ceil((i + 1) * inputs / outputs) - 1."""
    row = torch.arange(outputs, device=like.device)[:, None]
    column = torch.arange(inputs, device=like.device)
    start, stop = row * inputs // outputs, -((row + 1) * inputs // -outputs)
    return ((column >= start) & (column < stop)).to(like.dtype) / (stop - start)


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sr: Tensor, hr: Tensor, eps: float) -> Tensor:
        distance = (sr - hr).square_().add_(eps).sqrt_()
        ctx.save_for_backward(sr, hr, distance)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        sr, hr, distance = ctx.saved_tensors
        return (sr - hr).mul_(gradient).div_(distance), None, None


class _GatedPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sr: Tensor, hr: Tensor, distance: Tensor, gate: Tensor, grid: tuple[int, int]) -> Tensor:
        n, height, width, channels = sr.shape
        ctx.save_for_backward(sr, hr, distance, gate)
        ctx.grid = grid
        along_rows = _averages(grid[0], height, sr)
        gated = _averages(grid[1], width, sr) * gate.reshape(n * height, 1, width)
        pooled = []
        for part in (sr, hr, distance):
            rows = gated @ part.reshape(n * height, width, channels)
            pooled.append((along_rows @ rows.reshape(n, height, -1)).view(n, *grid, channels))
        return torch.cat(pooled, dim=3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        *parts, gate = ctx.saved_tensors
        n, height, width, channels = parts[0].shape
        with torch.autocast(gate.device.type, enabled=False):
            along_rows = _averages(ctx.grid[0], height, gate).mT
            averages = _averages(ctx.grid[1], width, gate)
            gated = (averages * gate.reshape(n * height, 1, width)).mT
            to_gate, to_rows = torch.zeros_like(averages.mT), []
            for part, share in zip(parts, gradient.split(channels, dim=3), strict=True):
                rows = (along_rows @ share.reshape(n, ctx.grid[0], -1)).view(n * height, ctx.grid[1], channels)
                to_gate = to_gate + part.reshape(n * height, width, channels) @ rows.mT
                to_rows.append(rows)
            to_sr, to_distance = ((gated @ to_rows[i]).view(parts[i].shape) for i in (0, 2))
            return to_sr, None, to_distance, (to_gate * averages.mT).sum(-1).view(gate.shape), None


def _convolve(conv: nn.Module, maps: Tensor) -> Tensor:
    """A convolution of (N, H, W, C)."""
    if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1):
        down, right = conv.stride
        maps = maps if (down, right) == (1, 1) else maps[:, ::down, ::right]
        return F.linear(maps, conv.weight.flatten(1), conv.bias)
    result: Tensor = conv(maps.permute(0, 3, 1, 2))
    return result.permute(0, 2, 3, 1)


class ResidualBlock(nn.Module):
    """A folded ``BasicBlock`` or ``Bottleneck`` of timm on (N, H, W, C)."""

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
    """A :class:`PyramidResNet` whose batch norms are folded into the convolutions."""

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


class RQITopiqInference(InferenceForm, RQITopiq):
    """The inference form of :class:`RQITopiq`.

    Args:
        critic: the original.
    """

    def __init__(self, critic: RQITopiq) -> None:
        super().__init__(critic)
        self.semantic_model: Any = ChannelsLastResNet(critic.semantic_model)
        for name in ("weight_pool", "dim_reduce", "sa_attn_blks", "attn_blks", "attn_pool", "score_linear"):
            setattr(self, name, frozen_copy(getattr(critic, name)))
        for part in self.attn_blks.modules():
            if isinstance(part, CrossLayer):
                part.self_attn = nn.Identity()  # type: ignore[assignment]
        self.h_emb, self.w_emb = frozen_parameter(critic.h_emb), frozen_parameter(critic.w_emb)
        with_winograd(self)
        self.to(memory_format=torch.channels_last).eval()

    def features(self, image: Tensor) -> TargetFeatures:
        """Five levels of the backbone, (N, H / 2^(i+1), W / 2^(i+1), C_i)."""
        levels: TargetFeatures = self.semantic_model(normalise(image, *IMAGENET))
        return levels

    @staticmethod
    def _grid(level: Tensor) -> tuple[int, int]:
        return level.shape[1], level.shape[2]

    def _level_tokens(self, level: int, sr: Tensor, hr: Tensor, position: Tensor) -> Tensor:
        distance = feature_distance(sr, hr, DISTANCE_EPS)
        gate = self._after_first(self.weight_pool[level], distance)[..., 0]
        if level < LEVELS - 1:
            rows, columns = position.shape[2:]
            maps = gated_pool(sr, hr, distance, gate, (rows, columns))
        else:
            maps = torch.cat([part * gate[..., None] for part in (sr, hr, distance)], dim=3)
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
