"""Deformable convolution: the one place that knows which implementation does the work.

Source: Dai et al., "Deformable Convolutional Networks", arXiv 1703.06211, equation (2); no modulation mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

__all__ = ["DeformableConv2d", "deformable_conv"]


def deformable_conv(image: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Stride-1 "same" deformable convolution without modulation mask, in the weights' precision also inside autocast.

    Args:
        image: (N, C, H, W).
        offset: (N, 2*k*k, H, W), (dy, dx) of each kernel tap, taps in row-major order.
        weight: (O, C, k, k), k odd.
        bias: (O,).

    Returns:
        (N, O, H, W).
    """
    # Always in the weights' precision: the kernels have no bfloat16, and positions would be too coarse in it.
    with torch.autocast(image.device.type, enabled=False):
        image, offset = image.to(weight.dtype), offset.to(weight.dtype)
        result: Tensor = deform_conv2d(image, offset, weight, bias, padding=weight.shape[-1] // 2)
    return result


class DeformableConv2d(nn.Module):
    """:func:`deformable_conv` with its own weight and bias; the offsets come from outside.

    Args:
        channels: in.
        out: out.
        kernel: side of the kernel, odd.
    """

    def __init__(self, channels: int, out: int, kernel: int = 3) -> None:
        super().__init__()
        # The start values of an ordinary convolution.
        plain = nn.Conv2d(channels, out, kernel)
        assert plain.bias is not None
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """(N, C, H, W), (N, 2*k*k, H, W) -> (N, O, H, W)."""
        return deformable_conv(x, offset, self.weight, self.bias)
