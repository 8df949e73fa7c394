"""What a compact critic sees in one image: three stages of smooth, anti-aliased convolutions and local moments."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CELL", "Halve", "LiteStem", "local_mean", "moments"]

#: Side of a cell of the token grid, in pixels.
CELL = 8
# 1 / sqrt(E[silu(x)^2]) of a standard normal x: keeps the size of activations from layer to layer.
_SILU_GAIN = 1.68


class Halve(nn.Module):
    """Binomial [1, 3, 3, 1] / 8 in both directions, every second position; mirrored borders.

    Args:
        channels: of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        kernel = (taps[:, None] * taps[None, :]).expand(channels, 1, 4, 4).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)
        self.kernel: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), even sides -> (N, C, H/2, W/2)."""
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.kernel, stride=2, groups=len(self.kernel))


class LiteStem(nn.Module):
    """Pixel-unshuffle by 2, then stages at 1/2, 1/4 and 1/8 of the size, 3x3 convolutions and SiLU.

    Args:
        widths: channels of the three stages.
        depths: convolutions of the three stages.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = 12
        for place, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            layers: list[nn.Module] = [Halve(before)] if place else []
            for _ in range(depth):
                convolution = nn.Conv2d(before, width, 3, padding=1)
                nn.init.normal_(convolution.weight, std=_SILU_GAIN / math.sqrt(9 * before))
                assert convolution.bias is not None
                nn.init.zeros_(convolution.bias)
                layers += [convolution, nn.SiLU()]
                before = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) in [0, 1] -> features of the stages; sides are mirrored up to a multiple of 8 first."""
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % CELL, 0, -height % CELL), mode="reflect")
        # About zero mean and unit variance for photographs.
        x = F.pixel_unshuffle(4 * (x - 0.5), 2)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return tuple(found)


def _windows(cells: int, width: int, like: Tensor) -> Tensor:
    """(cells, width) rows that sum to 1: triangles that reach 1.5 cells to both sides of each cell."""
    step = width // cells
    centres = (torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5) * step - 0.5
    places = torch.arange(width, device=like.device, dtype=like.dtype)
    rows = (1 - (places[None, :] - centres[:, None]).abs() / (1.5 * step)).clamp(min=0)
    return rows / rows.sum(1, keepdim=True)


def local_mean(x: Tensor, place: int) -> Tensor:
    """Mean under smooth overlapping windows around each cell, as two products of matrices (fast on CPU and GPU).

    Args:
        x: (N, C, h, w), something at the size of a stage.
        place: of the stage, 0..2.

    Returns:
        (N, C, H/8, W/8), float32 or wider even inside autocast.
    """
    step = CELL >> (place + 1)
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        rows, columns = (_windows(side // step, side, x) for side in x.shape[-2:])
        return rows @ (x @ columns.t())


def moments(features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Local mean and variance of each stage: (mean, variance, mean, variance, ...), each (N, C, H/8, W/8)."""
    found = []
    for place, x in enumerate(features):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = local_mean(wide, place)
        variance = (local_mean(wide * wide, place) - mean * mean).clamp(min=0)
        found += [mean, variance]
    return tuple(found)
