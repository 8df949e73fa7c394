"""Deformable convolution: the one place that knows which implementation does the work.

Source: Dai et al., "Deformable Convolutional Networks", arXiv 1703.06211, equation (2); no modulation mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from sr_perceptual_loss.checks import check_choice
from sr_perceptual_loss.ops.deform_mix import mixed_deformable, tap_weights

__all__ = ["KERNELS", "DeformableConv2d", "deformable_branches", "deformable_conv", "deformable_taps", "use_operator"]

#: "auto": the fastest equal implementation on the device; "reference": torchvision's; "mixed": channels first.
KERNELS = ("auto", "reference", "mixed")


def use_operator(kernels: str, device: torch.device) -> bool:
    """Whether torchvision's operator does the work, rather than :func:`mixed_deformable`.

    Args:
        kernels: one of :data:`KERNELS`.
        device: of the images.

    Raises:
        InputError: unknown name.
    """
    check_choice("kernels", kernels, KERNELS)
    # Measured on one CPU only, 256 channels, maps of 8x8 to 32x32: there torchvision's operator takes 18 to 27 times as
    # long. Its CUDA kernels are others.
    return kernels == "reference" or (kernels == "auto" and device.type != "cpu")


def deformable_branches(
    image: Tensor, offsets: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], kernels: str = "auto"
) -> Tensor:
    """Stride-1 "same" deformable convolutions of the same image side by side, in the weights' precision.

    Args:
        image: (N, C, H, W).
        offsets: (N, 2*k*k, H, W) of each branch, (dy, dx) of each kernel tap, taps in row-major order.
        weights: (O, C, k, k) of each branch, k odd, O the same.
        biases: (O,) of each branch.
        kernels: one of :data:`KERNELS`.

    Returns:
        (N, branches*O, H, W).
    """
    sides = tuple(weight.shape[-1] for weight in weights)
    # Always in the weights' precision: the kernels have no bfloat16, and positions would be too coarse in it.
    dtype = weights[0].dtype
    with torch.autocast(image.device.type, enabled=False):
        if use_operator(kernels, image.device):
            each, image = zip(offsets, weights, sides, strict=True), image.to(dtype)
            parts = [deform_conv2d(image, o.to(dtype), w, padding=k // 2) for o, w, k in each]
            result = torch.cat(parts, dim=1)
        else:
            result = mixed_deformable(image, torch.cat(list(offsets), dim=1), tap_weights(weights), sides)
        return result + torch.cat(list(biases)).view(-1, 1, 1)


def deformable_taps(image: Tensor, offset: Tensor, taps: Tensor, sides: Sequence[int], kernels: str = "auto") -> Tensor:
    """:func:`deformable_branches` for merged offsets and weights as :func:`tap_weights` gives them, without bias.

    Args:
        image: (N, C, H, W).
        offset: (N, 2*T, H, W), T = sum of k*k over the branches.
        taps: (T, O, C).
        sides: k of each branch.
        kernels: one of :data:`KERNELS`.

    Returns:
        (N, branches*O, H, W).
    """
    if not use_operator(kernels, image.device):
        return mixed_deformable(image, offset, taps, sides)
    counts = [side * side for side in sides]
    weights = [
        part.permute(1, 2, 0).reshape(taps.shape[1], taps.shape[2], side, side)
        for part, side in zip(taps.split(counts), sides, strict=True)
    ]
    no_bias = [taps.new_zeros(taps.shape[1])] * len(counts)
    return deformable_branches(image, offset.split([2 * n for n in counts], dim=1), weights, no_bias, "reference")


def deformable_conv(image: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, kernels: str = "auto") -> Tensor:
    """:func:`deformable_branches` with one branch.

    Args:
        image: (N, C, H, W).
        offset: (N, 2*k*k, H, W), (dy, dx) of each kernel tap, taps in row-major order.
        weight: (O, C, k, k), k odd.
        bias: (O,).
        kernels: one of :data:`KERNELS`.

    Returns:
        (N, O, H, W).
    """
    return deformable_branches(image, [offset], [weight], [bias], kernels)


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

    def forward(self, x: Tensor, offset: Tensor, kernels: str = "auto") -> Tensor:
        """(N, C, H, W), (N, 2*k*k, H, W) -> (N, O, H, W)."""
        return deformable_conv(x, offset, self.weight, self.bias, kernels)
