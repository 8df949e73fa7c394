"""Channel attention with fixed weights: what is constant gets no gradient, and no tensor is made twice.

Rows are channels, the linears act on positions, so the attention matrix is C x C (3072 x 3072 in MANIQA's first stage,
where it is a quarter of all work). The maps to q and k are one: (x Q^T + b)(x K^T + c)^T = (x Q^T K + b K) x^T + what
is constant along a row, which the softmax does not see.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["channel_attention", "merged_maps"]


@torch.no_grad()
def merged_maps(query: nn.Linear, key: nn.Linear, value: nn.Linear, scale: float) -> tuple[Tensor, Tensor]:
    """The maps of :func:`channel_attention` from those to q, k and v.

    Args:
        query: P -> P.
        key: P -> P.
        value: P -> P.
        scale: factor of the logits.

    Returns:
        Weight (2P, P) and bias (2P,), rounded once.
    """
    # On the CPU: some devices have no float64.
    q, b, k, v, c = (
        t.to("cpu", torch.float64) for t in (query.weight, query.bias, key.weight, value.weight, value.bias)
    )
    weight, bias = torch.cat([scale * k.t() @ q, v]), torch.cat([scale * k.t() @ b, c])
    return weight.to(query.weight), bias.to(query.weight)


def channel_attention(
    x: Tensor, weight: Tensor, bias: Tensor, live: tuple[tuple[int, int], ...] | None = None
) -> Tensor:
    """softmax(q x^T) v per image, with (q, v) = x weight^T + bias along the rows.

    Runs in autocast's dtype inside autocast; a second derivative is not implemented.

    Args:
        x: (N, C, P).
        weight: (2P, P), the maps to q and v one below the other, see :func:`merged_maps`; gets no gradient.
        bias: (2P,), likewise.
        live: ranges [start, stop) of channels that depend on the judged image; the others get a zero gradient, which
            saves work where they come from the reference. None: all.

    Returns:
        (N, C, P).

    Source: Yang et al., MANIQA, arXiv 2204.08958, transposed attention block.
    """
    ranges = ((0, x.shape[1]),) if live is None else live
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        result: Tensor = _ChannelAttention.apply(x.to(dtype), weight.to(dtype), bias.to(dtype), ranges)
    return result


class _ChannelAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, live: tuple[tuple[int, int], ...]) -> Tensor:
        packed = torch.nn.functional.linear(x, weight, bias)
        q, v = packed.chunk(2, dim=2)
        # In half precision softmax itself sums in float32; asked for it by ``dtype`` it takes six times as long.
        attention = torch.stack([torch.softmax(a @ b.mT, -1) for a, b in zip(q, x, strict=True)])
        ctx.save_for_backward(x, packed, attention, weight)
        ctx.live = live
        return attention @ v

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        x, packed, attention, weight = ctx.saved_tensors
        result = gradient.new_zeros(gradient.shape)
        with torch.autocast(gradient.device.type, enabled=False):
            for image in range(len(gradient)):
                saved = (x[image], packed[image], attention[image], weight)
                _backward_of_one(gradient[image], *saved, ctx.live, result[image])
        return result, None, None, None


def _backward_of_one(
    gradient: Tensor,
    x: Tensor,
    packed: Tensor,
    attention: Tensor,
    weight: Tensor,
    live: tuple[tuple[int, int], ...],
    out: Tensor,
) -> None:
    """Write dL/dx (C, P) of the live rows of one image into ``out``."""
    q, v = packed.chunk(2, dim=1)
    # dS = A * (dA - rowsum(A * dA)), in place in dA.
    logits = gradient @ v.mT
    logits.sub_((logits * attention).sum(-1, keepdim=True)).mul_(attention)
    for start, stop in live:
        rows = slice(start, stop)
        parts = torch.cat([logits[rows] @ x, attention[:, rows].mT @ gradient], dim=1)
        torch.addmm(logits[:, rows].mT @ q, parts, weight, out=out[rows])
