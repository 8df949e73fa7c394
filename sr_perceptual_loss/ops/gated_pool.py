"""Feature distance and gated average pooling of TOPIQ, without tensors of the size of the maps that need not be kept.

Maps are (N, H, W, C), channels last.

Source: Chen et al., TOPIQ, arXiv 2308.03060, gated local pooling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["feature_distance", "gated_pool"]


def feature_distance(judged: Tensor, reference: Tensor, eps: float) -> Tensor:
    """sqrt((judged - reference)^2 + eps), keeping nothing but its result for the gradient; none reaches ``reference``.

    Args:
        judged: any shape.
        reference: same shape.
        eps: under the root.

    Returns:
        Tensor of the same shape. A second derivative is not implemented.
    """
    result: Tensor = _Distance.apply(judged, reference, eps)
    return result


def gated_pool(judged: Tensor, reference: Tensor, distance: Tensor, gate: Tensor, grid: tuple[int, int]) -> Tensor:
    """Adaptive average pooling of the gated maps, one beside the other in channels; no gradient to ``reference``.

    Pooling is a product with a matrix of averages along each axis, A_h (g * x) A_w^T, and the gate is multiplied into
    A_w, so that no gated map is ever made.

    Args:
        judged: (N, H, W, C).
        reference: same shape.
        distance: same shape.
        gate: (N, H, W).
        grid: rows and columns of the result.

    Returns:
        (N, rows, columns, 3C). A second derivative is not implemented.
    """
    with torch.autocast(judged.device.type, enabled=False):
        result: Tensor = _GatedPool.apply(judged, reference, distance, gate.to(judged.dtype), grid)
    return result


def _averages(outputs: int, inputs: int, like: Tensor) -> Tensor:
    """(outputs, inputs): row i averages over floor(i * inputs / outputs) ... ceil((i + 1) * inputs / outputs) - 1."""
    row = torch.arange(outputs, device=like.device)[:, None]
    column = torch.arange(inputs, device=like.device)
    start, stop = row * inputs // outputs, -((row + 1) * inputs // -outputs)
    return ((column >= start) & (column < stop)).to(like.dtype) / (stop - start)


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, judged: Tensor, reference: Tensor, eps: float) -> Tensor:
        distance = (judged - reference).square_().add_(eps).sqrt_()
        ctx.save_for_backward(judged, reference, distance)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        judged, reference, distance = ctx.saved_tensors
        return (judged - reference).mul_(gradient).div_(distance), None, None


class _GatedPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, judged: Tensor, reference: Tensor, distance: Tensor, gate: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        n, height, width, channels = judged.shape
        ctx.save_for_backward(judged, reference, distance, gate)
        ctx.grid = grid
        along_rows = _averages(grid[0], height, judged)
        gated = _averages(grid[1], width, judged) * gate.reshape(n * height, 1, width)
        pooled = []
        for part in (judged, reference, distance):
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
            to_gate, to_parts = torch.zeros_like(averages.mT), []
            for part, share in zip(parts, gradient.split(channels, dim=3), strict=True):
                rows = (along_rows @ share.reshape(n, ctx.grid[0], -1)).view(n * height, ctx.grid[1], channels)
                to_gate = to_gate + part.reshape(n * height, width, channels) @ rows.mT
                to_parts.append(None if part is parts[1] else (gated @ rows).view(n, height, width, channels))
            to_judged, _, to_distance = to_parts
            assert to_judged is not None and to_distance is not None
            return to_judged, None, to_distance, (to_gate * averages.mT).sum(-1).view(gate.shape), None
