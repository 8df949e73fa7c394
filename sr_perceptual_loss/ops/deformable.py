"""Deformable convolution, with the implementation chosen by device.

Source: Dai et al., "Deformable Convolutional Networks", arXiv 1703.06211, equation (2); no modulation mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from sr_perceptual_loss.checks import check_choice
from sr_perceptual_loss.ops.deform_mix import mixed_deformable, tap_weights

__all__ = ["KERNELS", "DeformableConv2d", "deformable_taps"]

#: "auto": the fastest equal implementation on the device; "reference": torchvision's operator.
KERNELS = ("auto", "reference")


def deformable_taps(image: Tensor, offset: Tensor, taps: Tensor, sides: Sequence[int], kernels: str = "auto") -> Tensor:
    """Stride-1 "same" deformable convolutions of one image side by side, without bias, in the precision of ``taps``.

    Args:
        image: (N, C, H, W).
        offset: (N, 2*T, H, W), (dy, dx) of each kernel tap, taps in row-major order, T = sum of k*k over the branches.
        taps: (T, O, C), see :func:`tap_weights`.
        sides: k of each branch, odd.
        kernels: one of :data:`KERNELS`.

    Returns:
        (N, branches*O, H, W), the branches one after the other.

    Raises:
        InputError: unknown ``kernels``.
    """
    # Measured on one CPU, 256 channels, maps of 8x8 to 32x32: torchvision's operator takes 18 to 27 times as long. On
    # CUDA it has fast kernels.
    if check_choice("kernels", kernels, KERNELS) == "auto" and image.device.type == "cpu":
        return mixed_deformable(image, offset, taps, sides)
    dtype, counts = taps.dtype, [side * side for side in sides]
    parts = zip(offset.split([2 * count for count in counts], dim=1), taps.split(counts), sides, strict=True)
    # Always in the precision of the weights: the kernels lack bfloat16, which is also too coarse for positions.
    with torch.autocast(image.device.type, enabled=False):
        image = image.to(dtype)
        branches = [
            deform_conv2d(image, o.to(dtype), t.permute(1, 2, 0).unflatten(2, (k, k)).contiguous(), padding=k // 2)
            for o, t, k in parts
        ]
        return torch.cat(branches, dim=1)


class DeformableConv2d(nn.Module):
    """One deformable convolution with weight and bias; the offsets are an input.

    Args:
        channels: input channels.
        out: output channels.
        kernel: side of the kernel, odd.
    """

    def __init__(self, channels: int, out: int, kernel: int = 3) -> None:
        super().__init__()
        # Initialised as an ordinary convolution.
        plain = nn.Conv2d(channels, out, kernel)
        assert plain.bias is not None
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor, offset: Tensor, kernels: str = "auto") -> Tensor:
        """(N, C, H, W), (N, 2*k*k, H, W) -> (N, O, H, W)."""
        taps, side = tap_weights([self.weight]), self.weight.shape[-1]
        return deformable_taps(x, offset, taps, (side,), kernels) + self.bias.view(-1, 1, 1)
