"""Vision transformer of the RQI critics: the network in timm's key layout, and the outputs of chosen blocks as one map.

Source: Dosovitskiy et al., arXiv 2010.11929; timm's ``vit_base_patch8_224`` at its default size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sr_perceptual_loss.errors import InputError

__all__ = ["block_maps", "block_tokens", "check_vit", "make_vit", "recompute_mlps"]

# Size of the unused ImageNet classifier in the published layouts.
CLASSES = 1000


def check_vit(width: int, depth: int, heads: int, taps: Sequence[int], *, multiple_of: int = 1) -> None:
    """Check that the arguments of a transformer and of :func:`block_maps` fit together.

    Args:
        width: channels.
        depth: number of blocks.
        heads: attention heads, a divisor of ``width``.
        taps: blocks whose outputs are used, increasing, counted from 0.
        multiple_of: what else ``width`` must be a multiple of.

    Raises:
        InputError: they do not.
    """
    if width % heads or width % multiple_of:
        also = f" and of {multiple_of}" if multiple_of > 1 else ""
        raise InputError(f"width: got {width}, expected a multiple of heads ({heads}){also}.")
    if not taps or list(taps) != sorted(set(taps)) or taps[-1] >= depth:
        raise InputError(f"taps: got {tuple(taps)}, expected increasing block numbers below depth ({depth}).")


def make_vit(side: int, patch: int, width: int, depth: int, heads: int) -> Any:
    """A transformer with class token, learned positions and classifier; LayerNorm with eps 1e-6.

    Args:
        side: image side.
        patch: side of a patch.
        width: channels.
        depth: number of blocks.
        heads: attention heads.

    Returns:
        timm's ``VisionTransformer`` (timm is untyped) with random weights.
    """
    # timm's class, not a model name: names change their meaning between timm versions.
    return VisionTransformer(
        img_size=side,
        patch_size=patch,
        num_classes=CLASSES,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )


def block_tokens(vit: Any, image: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """Outputs of the tapped blocks, before the final norm and without the class token.

    Blocks after the last tapped one are not run.

    Args:
        vit: what :func:`make_vit` returns.
        image: (N, 3, side, side), normalised.
        taps: block numbers, increasing.

    Returns:
        One (N, (side / patch)^2, width) per tap.
    """
    tokens = vit.patch_embed(image)
    tokens = torch.cat([vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
    tokens = vit.norm_pre(tokens + vit.pos_embed)
    tapped = []
    for number in range(taps[-1] + 1):
        tokens = vit.blocks[number](tokens)
        if number in taps:
            tapped.append(tokens[:, 1:])
    return tapped


def block_maps(vit: Any, image: Tensor, taps: Sequence[int]) -> Tensor:
    """:func:`block_tokens` as one map.

    Args:
        vit: what :func:`make_vit` returns.
        image: (N, 3, side, side), normalised.
        taps: block numbers, increasing.

    Returns:
        (N, taps * width, side / patch, side / patch), channels of the first tapped block first.
    """
    return rearrange(block_tokens(vit, image, taps), "k n (h w) d -> n (k d) h w", h=vit.patch_embed.grid_size[0])


class _NormedMlp(torch.autograd.Function):
    """W2 gelu(W1 norm(x) + b1) + b2 with fixed weights, keeping x alone."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, part: RecomputedMlp) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.part = part
        result: Tensor = part.fc2(part.hidden(tokens))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (tokens,) = ctx.saved_tensors
        with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
            again = tokens.detach().requires_grad_()
            # The second product is not needed again.
            (result,) = torch.autograd.grad(ctx.part.hidden(again), again, grad @ ctx.part.fc2.weight)
        return result, None


class RecomputedMlp(nn.Module):
    """Norm and MLP of a transformer block with fixed weights; its wide activations are made again for the gradient.

    That keeps a fifth as much and makes one product of three twice. Inside autocast, where the precision of the two
    passes could differ, everything is kept.

    Args:
        block: timm's, in eval mode; its modules are shared.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = block.norm2, block.mlp.fc1, block.mlp.fc2

    def hidden(self, tokens: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, 4 * width)."""
        return F.gelu(self.fc1(self.norm(tokens)))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width), without the residual connection."""
        if torch.is_autocast_enabled(tokens.device.type):
            result: Tensor = self.fc2(self.hidden(tokens))
        else:
            result = _NormedMlp.apply(tokens, self)
        return result


def recompute_mlps(vit: Any) -> None:
    """Let the blocks of a frozen transformer of :func:`make_vit` keep less, see :class:`RecomputedMlp`; in place.

    Args:
        vit: nobody else's.
    """
    for block in vit.blocks:
        block.mlp = RecomputedMlp(block)
        block.norm2 = nn.Identity()
