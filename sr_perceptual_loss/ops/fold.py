"""Networks whose weights never change again: batch norms folded into convolutions, tensors shared with the original.

Source: y = gamma (W x + b - mean) / sqrt(var + eps) + beta is a convolution itself; Jacob et al., arXiv 1712.05877,
section 3.2.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from sr_perceptual_loss.errors import InputError

__all__ = ["fold_bn", "folded", "frozen_copy", "merge_convs"]

M = TypeVar("M", bound=nn.Module)


def fold_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that does what ``conv`` and then ``bn`` in eval mode do, computed in the weights' precision.

    Args:
        conv: with or without bias; not modified.
        bn: with running statistics; not modified.

    Returns:
        A new, frozen convolution with bias.

    Raises:
        InputError: the batch norm has no running statistics, or another number of channels.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise InputError("fold_bn: got a batch norm without running statistics, which depends on the batch.")
    if bn.num_features != conv.out_channels:
        raise InputError(f"fold_bn: got {bn.num_features} normalised and {conv.out_channels} convolved channels.")
    with torch.no_grad():
        scale = (bn.running_var + bn.eps).rsqrt()
        if bn.weight is not None:
            scale = scale * bn.weight
        shift = -bn.running_mean if conv.bias is None else conv.bias - bn.running_mean
        bias = shift * scale
        if bn.bias is not None:
            bias = bias + bn.bias
        return _conv_like(conv, conv.weight * scale.view(-1, 1, 1, 1), bias)


def merge_convs(*convs: nn.Conv2d) -> nn.Conv2d:
    """One convolution whose output is that of all ``convs``, which see the same input, one after the other in channels.

    Args:
        convs: of the same kernel, stride, padding and input channels, each with a bias; not modified.

    Returns:
        A new, frozen convolution.
    """
    biases = [conv.bias for conv in convs if conv.bias is not None]
    assert len(biases) == len(convs)  # all merged convolutions of the critics have one
    with torch.no_grad():
        return _conv_like(convs[0], torch.cat([conv.weight for conv in convs]), torch.cat(biases))


def _conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    # On the meta device nothing is initialised: no time, no random numbers.
    new = nn.Conv2d(
        conv.in_channels,
        len(weight),
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        padding_mode=conv.padding_mode,
        device="meta",
    )
    new.weight = nn.Parameter(weight.detach(), requires_grad=False)
    new.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return new.eval()


def frozen_copy(module: M) -> M:
    """A copy in eval mode with parameters and buffers of its own over the same memory, none requiring gradients.

    Casting or moving the copy leaves the original as it is; writing into the original's tensors shows in both.

    Args:
        module: any module; not modified.

    Returns:
        The copy.
    """
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in module.parameters()
    }
    memo |= {id(buffer): buffer.detach() for buffer in module.buffers()}
    return copy.deepcopy(module, memo).eval()


def folded(module: M) -> M:
    """:func:`frozen_copy` with every batch norm that directly follows a convolution folded into it.

    "Follows" is meant in the order in which a module names its children, which is the order of computation in
    ``nn.Sequential`` and in the residual blocks and networks of torchvision and timm.

    Args:
        module: such a network or a part of it; not modified.

    Returns:
        The copy; folded batch norms have become ``nn.Identity``.
    """
    copied = frozen_copy(module)
    for part in list(copied.modules()):
        previous: tuple[str, nn.Module] | None = None
        for name, child in list(part.named_children()):
            if isinstance(child, nn.BatchNorm2d) and previous is not None and isinstance(previous[1], nn.Conv2d):
                setattr(part, previous[0], fold_bn(previous[1], child))
                setattr(part, name, nn.Identity())
            previous = name, child
    return copied
