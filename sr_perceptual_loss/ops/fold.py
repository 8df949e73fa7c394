"""Networks with fixed weights: batch norms folded into convolutions, unchanged tensors shared with the original.

Source: gamma (W x + b - mean) / sqrt(var + eps) + beta is itself a convolution; Jacob et al., arXiv 1712.05877, section
3.2.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["folded", "frozen_copy", "frozen_parameter", "merge_convs"]

M = TypeVar("M", bound=nn.Module)


def frozen_parameter(tensor: Tensor) -> nn.Parameter:
    """A parameter that shares memory with ``tensor`` and requires no gradient."""
    return nn.Parameter(tensor.detach(), requires_grad=False)


def frozen_copy(module: M) -> M:
    """A copy in eval mode whose parameters and buffers share memory with the original; none requires gradients.

    Casting or moving the copy does not change the original; writing into the original's tensors changes both.

    Args:
        module: any module; not modified.

    Returns:
        The copy.
    """
    memo: dict[int, object] = {id(parameter): frozen_parameter(parameter) for parameter in module.parameters()}
    memo |= {id(buffer): buffer.detach() for buffer in module.buffers()}
    return copy.deepcopy(module, memo).eval()


def merge_convs(*convs: nn.Conv2d) -> nn.Conv2d:
    """One convolution whose output is the outputs of all ``convs``, concatenated in channels.

    Args:
        convs: convolutions of the same kernel, stride, padding and input channels, each with a bias; not modified.

    Returns:
        A new, frozen convolution.
    """
    merged = frozen_copy(convs[0])
    with torch.no_grad():
        merged.weight = frozen_parameter(torch.cat([conv.weight for conv in convs]))
        merged.bias = frozen_parameter(torch.cat([conv.bias for conv in convs if conv.bias is not None]))
    merged.out_channels = len(merged.weight)
    return merged


def folded(module: M) -> M:
    """:func:`frozen_copy` with every batch norm that directly follows a convolution folded into it.

    "Follows" means the order in which a module names its children, which is the order of computation in
    ``nn.Sequential`` and in the residual blocks and networks of torchvision and timm.

    Args:
        module: such a network or part of one; not modified.

    Returns:
        The copy; folded batch norms have become ``nn.Identity``.
    """
    copied = frozen_copy(module)
    for part in list(copied.modules()):
        previous_name, previous = "", part
        for name, child in list(part.named_children()):
            if isinstance(child, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
                setattr(part, previous_name, fuse_conv_bn_eval(previous, child))
                setattr(part, name, nn.Identity())
            previous_name, previous = name, child
    return copied
