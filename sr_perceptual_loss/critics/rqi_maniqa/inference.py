"""RQI on MANIQA with fixed weights, made by ``RQIManiqa.inference_form()``.

Unused blocks are absent, maps stay tokens (no transposed copies), and the channels that come from the reference get no
gradient. The channel attention has merged maps and keeps no tensor twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sr_perceptual_loss.critics.base import InferenceForm, TargetFeatures, normalise
from sr_perceptual_loss.critics.rqi_maniqa.network import HALF, RQIManiqa, TABlock
from sr_perceptual_loss.ops.backbones import block_tokens
from sr_perceptual_loss.ops.fold import frozen_copy, frozen_parameter
from sr_perceptual_loss.ops.winograd import with_winograd

__all__ = ["RQIManiqaInference", "channel_attention", "merged_maps"]

#: Ranges [start, stop) of channels.
Ranges = tuple[tuple[int, int], ...]


@torch.no_grad()
def merged_maps(query: nn.Linear, key: nn.Linear, value: nn.Linear, scale: float) -> tuple[Tensor, Tensor]:
    """Weight (2P, P) and bias (2P,) of :func:`channel_attention` from the maps P -> P to q, k and v; rounded once.

    The maps to q and k become one: (x Q^T + b)(x K^T + c)^T = (x Q^T K + b K) x^T + a constant along each row, which
    the softmax ignores. ``scale`` is the factor of the logits.
    """
    # On the CPU: some devices have no float64.
    q, b, k, v, c = (
        t.to("cpu", torch.float64) for t in (query.weight, query.bias, key.weight, value.weight, value.bias)
    )
    weight, bias = torch.cat([scale * k.t() @ q, v]), torch.cat([scale * k.t() @ b, c])
    return weight.to(query.weight), bias.to(query.weight)


def channel_attention(x: Tensor, weight: Tensor, bias: Tensor, live: Ranges | None = None) -> Tensor:
    """softmax(q x^T) v per image, with (q, v) = x weight^T + bias along the rows.

    Rows are channels and the linears act on positions, so the attention matrix is C x C (3072 x 3072 in the first
    stage, a quarter of all work). Runs in autocast's dtype inside autocast. A second derivative is not implemented.

    Args:
        x: (N, C, P).
        weight: (2P, P), the maps to q and v one below the other, see :func:`merged_maps`; gets no gradient.
        bias: (2P,), likewise.
        live: channels that depend on the SR image; the others get a zero gradient, which saves work. None: all.

    Returns:
        (N, C, P).

    Source: Yang et al., MANIQA, arXiv 2204.08958, transposed attention block.
    """
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        result: Tensor = _ChannelAttention.apply(
            x.to(dtype), weight.to(dtype), bias.to(dtype), live or ((0, x.shape[1]),)
        )
    return result


class _ChannelAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, live: Ranges) -> Tensor:
        packed = torch.nn.functional.linear(x, weight, bias)
        q, v = packed.chunk(2, dim=2)
        # In half precision softmax itself sums in float32; with its argument `dtype` it takes six times as long.
        attention = torch.stack([torch.softmax(a @ b.mT, -1) for a, b in zip(q, x, strict=True)])
        ctx.save_for_backward(x, packed, attention, weight)
        ctx.live = live
        return attention @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        *saved, weight = ctx.saved_tensors
        result = gradient.new_zeros(gradient.shape)
        with torch.autocast(gradient.device.type, enabled=False):
            # Image by image: the C x C matrices of one are large enough.
            for grad, x, packed, attention, out in zip(gradient, *saved, result, strict=True):
                q, v = packed.chunk(2, dim=1)
                # dS = A * (dA - rowsum(A * dA)), in place in dA.
                logits = grad @ v.mT
                logits.sub_((logits * attention).sum(-1, keepdim=True)).mul_(attention)
                for start, stop in ctx.live:
                    rows = slice(start, stop)
                    parts = torch.cat([logits[rows] @ x, attention[:, rows].mT @ grad], dim=1)
                    torch.addmm(logits[:, rows].mT @ q, parts, weight, out=out[rows])
        return result, None, None, None


class MergedTAB(nn.Module):
    """:class:`TABlock` in eval mode with one linear for q, k and v."""

    def __init__(self, block: TABlock) -> None:
        super().__init__()
        weight, bias = merged_maps(block.c_q, block.c_k, block.c_v, block.scale)
        self.weight, self.bias = frozen_parameter(weight), frozen_parameter(bias)

    def forward(self, x: Tensor, live: Ranges | None = None) -> Tensor:
        """(N, C, P) -> (N, C, P); for ``live`` see :func:`channel_attention`."""
        out = channel_attention(x, self.weight, self.bias, live)
        # Read as if transposed; see TABlock.
        return x + out.mT.reshape(x.shape)


class RQIManiqaInference(InferenceForm, RQIManiqa):
    """The inference form of :class:`RQIManiqa`.

    Args:
        critic: the original.
    """

    def __init__(self, critic: RQIManiqa) -> None:
        super().__init__(critic)
        self.taps, self.grid = critic.taps, critic.grid
        self.vit = frozen_copy(critic.vit)
        self.vit.blocks = self.vit.blocks[: critic.taps[-1] + 1]
        self.vit.norm = self.vit.head = nn.Identity()
        for name in ("conv0_x", "conv0_x1", "conv1", "conv2", "fc_score", "fc_weight"):
            setattr(self, name, frozen_copy(getattr(critic, name)))
        for name in ("tablock1", "tablock2"):
            setattr(self, name, nn.ModuleList(MergedTAB(block) for block in getattr(critic, name)))
        for name in ("swintransformer1", "swintransformer2"):
            stage = frozen_copy(getattr(critic, name))
            stage.downsample = nn.Identity()
            # Tokens read as a map are channels-last, so the convolutions need no copies of them.
            setattr(self, name, with_winograd(stage).to(memory_format=torch.channels_last))
        self.eval()

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return (self._tokens(hr),)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        sr_tokens, (hr_tokens,) = self._tokens(sr), target
        with torch.no_grad():
            constant = _to_rows(self.conv0_x1, hr_tokens)
        parts = [_to_rows(self.conv0_x1, sr_tokens), constant, _to_rows(self.conv0_x, sr_tokens - hr_tokens)]
        x, width = torch.cat(parts, dim=1), constant.shape[1]
        live: Ranges | None = ((0, width), (2 * width, x.shape[1]))
        for block in self.tablock1:
            x = block(x, live)
            live = None  # after one block every channel depends on the SR image
        x = self.swintransformer1.tokens(_to_tokens(self.conv1, x)).mT
        for block in self.tablock2:
            x = block(x)
        return self._pool(self.swintransformer2.tokens(_to_tokens(self.conv2, x)))

    def _tokens(self, image: Tensor) -> Tensor:
        """(N, 3, side, side) -> (N, tokens, taps * width)."""
        return torch.cat(block_tokens(self.vit, normalise(image, HALF, HALF), self.taps), dim=2)


def _to_rows(conv: nn.Conv2d, tokens: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix product: (N, P, C) -> (N, O, P), channels as rows."""
    assert conv.bias is not None
    return conv.weight.flatten(1) @ tokens.mT + conv.bias[:, None]


def _to_tokens(conv: nn.Conv2d, rows: Tensor) -> Tensor:
    """A 1x1 convolution as a matrix product: (N, C, P) -> (N, P, O)."""
    assert conv.bias is not None
    return rows.mT @ conv.weight.flatten(1).t() + conv.bias
