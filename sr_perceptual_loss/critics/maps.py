"""Where an image loses quality: maps of a critic's local form or of its gradient, and the worst places of a map."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SIGMA", "display_limit", "enlarged_sum", "gradient_map", "with_mean", "worst_boxes"]

#: Standard deviation of the Gaussian that smooths a gradient, in pixels.
SIGMA = 4.0


def with_mean(maps: Tensor, mean: Tensor) -> Tensor:
    """Non-negative maps (N, C, h, w) scaled to the mean (N, C) over positions; a map of zeros stays as it is."""
    return maps * (mean / maps.mean((2, 3)).clamp(min=1e-30))[..., None, None]


def enlarged_sum(parts: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Maps (N, C, h, w), each of its own C, h and w: enlarged (bilinear) and added, also over channels.

    Returns:
        (N, 1, height, width) >= 0; its mean is the sum of the means of all channels.
    """
    total = parts[0].new_zeros(len(parts[0]), 1, height, width)
    for part in parts:
        part = part.sum(1, keepdim=True).clamp(min=0)
        large = F.interpolate(part, (height, width), mode="bilinear", align_corners=False)
        total = total + with_mean(large, part.mean((2, 3)))
    return total


def gradient_map(score: Callable[[Tensor], Tensor], sr: Tensor, hr: Tensor) -> Tensor:
    """H * W * |sum over channels of gradient * (hr - sr)|, smoothed; the gradient is that of the score at ``sr``.

    Args:
        score: (N, 3, H, W) -> (N,).
        sr: SR (distorted) image, (N, 3, H, W).
        hr: reference image, same shape.

    Returns:
        (N, 1, H, W) >= 0. Its mean is at least |the first-order change of the score from ``sr`` to ``hr``|.
    """
    from torchvision.transforms.functional import gaussian_blur

    with torch.enable_grad():
        image = sr.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(score(image).sum(), image)
    changes = (gradient * (hr - sr)).sum(1, keepdim=True).abs() * (sr.shape[2] * sr.shape[3])
    kernel = [2 * min(int(3 * SIGMA), side - 1) + 1 for side in (changes.shape[3], changes.shape[2])]
    return with_mean(gaussian_blur(changes, kernel, [SIGMA, SIGMA]), changes.mean((2, 3)))


def display_limit(lost: Tensor) -> float:
    """Value of a map from which on it is shown in the last colour: few bright pixels must not make the rest dark."""
    return float(lost.flatten().kthvalue(max(1, int(0.995 * lost.numel()))).values) or float(lost.max()) or 1.0


def worst_boxes(lost: Tensor, side: int, count: int = 3) -> list[tuple[int, int, float]]:
    """The squares that hold most of a map and do not overlap, worst first.

    Args:
        lost: (H, W) >= 0.
        side: of the squares in pixels, at most H and W; they start at multiples of an eighth of it.
        count: number of squares; fewer are found in a small image, or where nothing is lost.

    Returns:
        (top, left, share of the map's sum) of each.
    """
    step = max(1, side // 8)
    sums = F.avg_pool2d(lost[None, None].double(), side, step)[0, 0] * side**2 / lost.double().sum().clamp(min=1e-30)
    boxes: list[tuple[int, int, float]] = []
    while len(boxes) < count and (share := float(sums.max())) > 0:
        row, column = divmod(int(sums.argmax()), sums.shape[1])
        boxes.append((row * step, column * step, share))
        reach = -(-side // step)
        sums[max(0, row - reach + 1) : row + reach, max(0, column - reach + 1) : column + reach] = 0
    return boxes
