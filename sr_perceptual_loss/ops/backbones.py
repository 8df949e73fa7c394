"""Backbones of the network critics: timm's vision transformer with its block outputs, and residual stages.

Source: Dosovitskiy et al., arXiv 2010.11929 (timm's ``vit_base_patch8_224`` at the default size); He et al., arXiv
1512.03385, in the key layout of torchvision and timm (the stride of a bottleneck is in its 3x3 convolution).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from sr_perceptual_loss.errors import InputError

__all__ = ["block_maps", "block_tokens", "init_convolutions", "make_vit", "recompute_mlps", "residual_stage"]

# Size of the unused ImageNet classifier in the published layouts.
CLASSES = 1000


def make_vit(side: int, patch: int, width: int, depth: int, heads: int, taps: Sequence[int]) -> Any:
    """A transformer with class token, learned positions and classifier; LayerNorm with eps 1e-6.

    Args:
        side: image side.
        patch: patch side.
        width: channels, a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads.
        taps: blocks whose outputs will be used, increasing, counted from 0; only validated here.

    Returns:
        timm's ``VisionTransformer`` (timm is untyped) with random weights.

    Raises:
        InputError: the arguments do not fit together.
    """
    if width % heads:
        raise InputError(f"width: got {width}, expected a multiple of heads ({heads}).")
    if not taps or list(taps) != sorted(set(taps)) or taps[-1] >= depth:
        raise InputError(f"taps: got {tuple(taps)}, expected increasing block numbers below depth ({depth}).")
    # timm's class instead of a model name, since the meaning of names changes between timm versions.
    return VisionTransformer(
        img_size=side,
        patch_size=patch,
        num_classes=CLASSES,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )


def block_tokens(vit: Any, image: Tensor, taps: Sequence[int], layout: str = "NLC") -> list[Tensor]:
    """Outputs of the tapped blocks, before the final norm and without the class token.

    Blocks after the last tapped one are not run.

    Args:
        vit: result of :func:`make_vit`.
        image: (N, 3, side, side), normalised.
        taps: block numbers, increasing.
        layout: ``NLC`` or ``NCHW``.

    Returns:
        One (N, (side / patch)^2, width) per tap, or one (N, width, side / patch, side / patch).
    """
    tokens: list[Tensor] = vit.forward_intermediates(
        image, indices=list(taps), stop_early=True, output_fmt=layout, intermediates_only=True
    )
    return tokens


def block_maps(vit: Any, image: Tensor, taps: Sequence[int]) -> Tensor:
    """:func:`block_tokens` as one map (N, taps * width, side / patch, side / patch), first tapped block first."""
    return torch.cat(block_tokens(vit, image, taps, "NCHW"), dim=1)


class _RecomputedMlp(nn.Module):
    """Norm and MLP of a transformer block; the MLP's activations are recomputed in the backward pass."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.parts = nn.Sequential(block.norm2, block.mlp)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width), without the residual connection."""
        result: Tensor = checkpoint(self.parts, tokens, use_reentrant=False, preserve_rng_state=False)
        return result


def recompute_mlps(vit: Any) -> None:
    """Make the blocks of a frozen transformer in eval mode store less for the backward pass; in place.

    Of norm and MLP only the input is stored, a fifth of the memory. One matrix product of three is computed twice.

    Args:
        vit: result of :func:`make_vit`, not used elsewhere.
    """
    for block in vit.blocks:
        block.mlp, block.norm2 = _RecomputedMlp(block), nn.Identity()


def residual_stage(
    block: type[BasicBlock] | type[Bottleneck], channels: int, planes: int, blocks: int, stride: int
) -> nn.Sequential:
    """Residual blocks in sequence; the first one changes size and number of channels.

    Args:
        block: ``BasicBlock``, or ``Bottleneck``, which makes four times ``planes`` channels.
        channels: input channels.
        planes: channels inside a block.
        blocks: number of blocks.
        stride: stride of the first block.

    Returns:
        The stage, with ``planes * block.expansion`` output channels.
    """
    shortcut, out = None, planes * block.expansion
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    first = block(channels, planes, stride, shortcut)
    return nn.Sequential(first, *(block(out, planes) for _ in range(blocks - 1)))


def init_convolutions(*parts: nn.Module) -> None:
    """Initialise convolutions as torchvision's ResNet does; training usually replaces this by ImageNet weights."""
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
