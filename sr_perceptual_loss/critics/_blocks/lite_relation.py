"""The part of a compact critic that sees both images: relation tokens and axial cross-attention between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_perceptual_loss.critics._blocks.lite_stem import local_mean

__all__ = ["AxialCross", "relation_inputs"]

# Keep similarities and logarithms finite where both images are flat; features of photographs are about 1.
_EPS_MEAN = 1e-2
_EPS_VARIANCE = 1e-3
_EPS_LOG = 1e-4
# How large the parts stand beside each other at the start. What the images are is large and says little; how they
# differ is small and says it all: without these factors training begins more slowly (docs/rqi_lite.md).
_OWN, _UNLIKE, _SIGNED = 0.2, 2.0, 3.0


def relation_inputs(first: Sequence[Tensor], second: Sequence[Tensor], stages: int) -> tuple[Tensor, Tensor]:
    """What the tokens of both images are made of.

    Per stage: the image's own local mean and log standard deviation; the unlikeness (1 - similarity) of means and of
    structure (covariance) of both images, which do not change when the images swap; the differences of mean and log
    standard deviation, which change their sign.

    Args:
        first: features of the stages, then their moments, of the first image.
        second: the same of the second image.
        stages: number of stages.

    Returns:
        (N, 6 * sum of channels, h, w) for the first and for the second image, float32 or wider.
    """
    own: tuple[list[Tensor], list[Tensor]] = ([], [])
    shared: list[Tensor] = []
    signed: list[Tensor] = []
    for place in range(stages):
        mean_a, variance_a = first[stages + 2 * place : stages + 2 * place + 2]
        mean_b, variance_b = second[stages + 2 * place : stages + 2 * place + 2]
        a, b = (x[place].to(mean_a.dtype) for x in (first, second))
        covariance = local_mean(a * b, place) - mean_a * mean_b
        log_a, log_b = (0.5 * torch.log(v + _EPS_LOG) for v in (variance_a, variance_b))
        own[0].extend((mean_a, log_a))
        own[1].extend((mean_b, log_b))
        shared.append((2 * mean_a * mean_b + _EPS_MEAN) / (mean_a**2 + mean_b**2 + _EPS_MEAN))
        shared.append((2 * covariance + _EPS_VARIANCE) / (variance_a + variance_b + _EPS_VARIANCE))
        signed.extend((mean_a - mean_b, log_a - log_b))
    both, difference = _UNLIKE * (1 - torch.cat(shared, 1)), _SIGNED * torch.cat(signed, 1)
    first_own, second_own = (_OWN * torch.cat(parts, 1) for parts in own)
    return torch.cat([first_own, both, difference], 1), torch.cat([second_own, both, -difference], 1)


class _Attention(nn.Module):
    """Multi-head attention of rows of tokens to the rows of other tokens; no positions, so any length will do."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.result = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        """(B, R, L, C) twice -> (B, R, L, C): each of the R rows attends along its own L tokens."""
        key, value = self.key_value(others).chunk(2, -1)
        query, key, value = (self._split(x).flatten(0, 1) for x in (self.query(tokens), key, value))
        found = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.result(found.transpose(1, 2).flatten(2).view_as(tokens))
        return out


class AxialCross(nn.Module):
    """x += A_rows(LN x, LN other); x += A_columns(LN x, LN other); x += MLP(LN x), for both images at once.

    Args:
        dim: channels.
        heads: attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.rows, self.columns = _Attention(dim, heads), _Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        """(2 N, h, w, C), the first images before the second ones -> the same shape."""
        x = self.norms[0](tokens)
        tokens = tokens + self.rows(x, _swapped(x))
        x = self.norms[1](tokens).transpose(1, 2)
        tokens = tokens + self.columns(x, _swapped(x)).transpose(1, 2)
        out: Tensor = tokens + self.mlp(self.norms[2](tokens))
        return out


def _swapped(x: Tensor) -> Tensor:
    """The tokens of the other image of each pair."""
    first, second = x.chunk(2)
    return torch.cat([second, first])
