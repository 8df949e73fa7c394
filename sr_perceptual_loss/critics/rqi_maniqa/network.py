"""RQI on MANIQA: how much better (> 0) or worse (< 0) an image looks than its reference; the released RQI critic.

Features of four ViT-B/8 blocks for both images, channel attention, two Swin stages, a weighted mean of token scores.
Module names are those of the published key layout.

Differences from the reference: see ``RQIManiqa.card.notes``. Written from a description of the released network,
not from its code.

Source: Su et al., "Bridging the Perception Gap in Image Super-Resolution Evaluation" (RQI), arXiv 2503.13074, and its
supplement; MANIQA, arXiv 2204.08958; Swin, arXiv 2103.14030.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from sr_perceptual_loss.checks import as_float, as_int
from sr_perceptual_loss.critics.base import Critic, TargetFeatures, normalise
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.ops.backbones import block_maps, make_vit
from sr_perceptual_loss.weights.manifest import WeightsEntry

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RQIManiqa", "relative_position_index", "shifted_window_mask"]

WINDOW = 4
SHIFT = 2
WINDOW_HEADS = 4
SWIN_LAYERS = 2
BLOCKS_PER_LAYER = 2
# Not minus infinity; the weights were trained with it.
MASKED = -100.0
POOL_EPS = 1e-8
HALF = (0.5, 0.5, 0.5)


def relative_position_index() -> Tensor:
    """Row of the bias table for each pair of tokens of a window.

    Returns:
        (16, 16) int64, [i, j] = (r_i - r_j + 3) * 7 + (c_i - c_j + 3) for windows of 4 x 4 tokens.
    """
    token = torch.arange(WINDOW * WINDOW)
    row, column = token // WINDOW, token % WINDOW
    rows = row[:, None] - row[None, :] + WINDOW - 1
    columns = column[:, None] - column[None, :] + WINDOW - 1
    return rows * (2 * WINDOW - 1) + columns


def shifted_window_mask(grid: int) -> Tensor:
    """Mask of pairs of tokens in a shifted window that are no neighbours: the cyclic roll wraps around the border.

    Args:
        grid: side of the token map, a multiple of the window.

    Returns:
        ((grid/4)^2, 16, 16): 0 where both tokens come from one region, -100 elsewhere.
    """
    line = torch.arange(grid)
    region = (line >= grid - WINDOW).long() + (line >= grid - SHIFT).long()
    labels = 3 * region[:, None] + region[None, :]
    labels = rearrange(labels, "(x r) (y c) -> (x y) (r c)", r=WINDOW, c=WINDOW)
    return (labels[:, :, None] != labels[:, None, :]).to(torch.get_default_dtype()) * MASKED


class TABlock(nn.Module):
    """Transposed attention over (B, C, positions): channels attend to channels; the linears act on positions."""

    def __init__(self, positions: int, dropout: float) -> None:
        super().__init__()
        self.c_q = nn.Linear(positions, positions)
        self.c_k = nn.Linear(positions, positions)
        self.c_v = nn.Linear(positions, positions)
        self.scale = positions**-0.5
        self.softmax = nn.Softmax(dim=-1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N)."""
        attention = self.softmax(self.c_q(x) @ self.c_k(x).mT * self.scale)
        out = attention @ self.c_v(x)
        # The memory of the transposed result is read as (C, N), not transposed back. It looks like a mistake, but the
        # released weights were trained with it: R[c, n] = O[(c*N + n) mod C, (c*N + n) div C].
        scrambled = out.mT.reshape(x.shape)
        result: Tensor = x + self.drop(scrambled)
        return result


class WindowAttention(nn.Module):
    """Self-attention inside a window, with a learned bias per relative position; ``dim`` is a multiple of the heads."""

    relative_position_index: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = (dim // WINDOW_HEADS) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, WINDOW_HEADS))
        self.register_buffer("relative_position_index", relative_position_index())
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.softmax = nn.Softmax(dim=-1)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, windows, tokens, C), mask (windows, tokens, tokens) or None -> (B, windows, tokens, C)."""
        q, k, v = rearrange(self.qkv(x), "b w t (three h d) -> three b w h t d", three=3, h=WINDOW_HEADS)
        bias = self.relative_position_bias_table[self.relative_position_index]
        logits = (q * self.scale) @ k.mT + rearrange(bias, "i j h -> h i j")
        if mask is not None:
            logits = logits + mask[:, None]
        out: Tensor = self.proj(rearrange(self.softmax(logits) @ v, "b w h t d -> b w t (h d)"))
        return out


class SwinBlock(nn.Module):
    """Window attention over a map of ``grid`` x ``grid`` tokens, rolled by ``shift``, and an MLP, both residual."""

    attn_mask: Tensor | None

    def __init__(self, dim: int, hidden: int, grid: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.grid, self.shift = grid, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)
        self.drop_path = DropPath(drop_path)
        # A buffer that is None has no key, as in the published layout.
        self.register_buffer("attn_mask", shifted_window_mask(grid) if shift else None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, C) -> (B, tokens, C)."""
        maps = rearrange(self.norm1(x), "b (h w) c -> b h w c", h=self.grid)
        maps = torch.roll(maps, (-self.shift, -self.shift), (1, 2)) if self.shift else maps
        windows = rearrange(maps, "b (x r) (y c) d -> b (x y) (r c) d", r=WINDOW, c=WINDOW)
        windows = self.attn(windows, self.attn_mask)
        maps = rearrange(windows, "b (x y) (r c) d -> b (x r) (y c) d", x=self.grid // WINDOW, r=WINDOW)
        maps = torch.roll(maps, (self.shift, self.shift), (1, 2)) if self.shift else maps
        x = x + self.drop_path(rearrange(maps, "b h w c -> b (h w) c"))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class SwinLayer(nn.Module):
    """A plain and a shifted block with their drop path rates, then a 3x3 convolution with ReLU."""

    def __init__(self, dim: int, hidden: int, grid: int, drop_path: Sequence[float]) -> None:
        super().__init__()
        self.grid = grid
        self.blocks = nn.Sequential(
            *(SwinBlock(dim, hidden, grid, SHIFT * (i % 2), rate) for i, rate in enumerate(drop_path))
        )
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, C) -> (B, tokens, C)."""
        maps = rearrange(self.blocks(x), "b (h w) c -> b c h w", h=self.grid)
        return rearrange(self.act(self.conv(maps)), "b c h w -> b (h w) c")


class SwinStage(nn.Module):
    """Dropout, then two layers, x <- scale * layer(x) + x; drop path rates grow linearly from 0 to ``drop_path``."""

    def __init__(self, dim: int, hidden: int, grid: int, scale: float, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.grid, self.scale = grid, scale
        self.dropout = nn.Dropout(dropout)
        blocks = SWIN_LAYERS * BLOCKS_PER_LAYER
        rates = [drop_path * i / (blocks - 1) for i in range(blocks)]
        self.layers = nn.ModuleList(
            SwinLayer(dim, hidden, grid, rates[i : i + BLOCKS_PER_LAYER]) for i in range(0, blocks, BLOCKS_PER_LAYER)
        )
        self.downsample = nn.Conv2d(dim, dim, 3, padding=1)  # unused, in the published layout

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = self.tokens(rearrange(self.dropout(maps), "b c h w -> b (h w) c"))
        return rearrange(x, "b (h w) c -> b c h w", h=self.grid)

    def tokens(self, x: Tensor) -> Tensor:
        """(B, H * W, C) -> (B, H * W, C), without the dropout."""
        for layer in self.layers:
            x = self.scale * layer(x) + x
        return x


def _token_head(dim: int, dropout: float, *last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, 1), *last)


@register_critic
class RQIManiqa(Critic):
    """Relative Quality Index, the MANIQA variant: 0 means "as good as the reference", positive better, negative worse.

    The score is not bounded, and f(a, b) = -f(b, a) is learned, not built in.

    Args:
        side: image side, a multiple of 4 * ``patch``; the only size that the instance takes.
        patch: side of a ViT patch.
        width: channels of the ViT, a multiple of 8 and of ``heads``.
        depth: blocks of the ViT.
        heads: attention heads of the ViT.
        taps: blocks whose outputs are used, counted from 0; later blocks only keep the published key layout.
        scale: factor of the residual Swin layers.
        dropout: rate in the attention blocks, at the entry of the Swin stages and in the heads.
        drop_path: highest stochastic depth rate of a Swin stage.
    """

    card = CriticCard(
        name="rqi_maniqa",
        paper="Su et al., Bridging the Perception Gap in Image Super-Resolution Evaluation (RQI), arXiv 2503.13074",
        input_size=SizeRule(fixed=224),
        # The labels, differences of scores scaled to [0, 1]; what the released weights give is not measured yet.
        score_range=(-1.0, 1.0),
        relative=True,
        symmetric=False,
        notes=(
            "Scores are not clamped; the released README calls them [0, 1], its code and labels do not.",
            "One crop of exactly 224x224 is scored; cutting and averaging crops is up to the caller.",
            "ViT blocks after the last used one are not run, which does not change the score.",
            "Block outputs are collected without hooks.",
            "f(a, b) = -f(b, a), which the paper states, is a trained tendency; as in the released code nothing "
            "enforces it.",
            "As in the released code both images pass conv0_x1; conv0_x2 and downsample are never used.",
        ),
        learned_from="PIPAL",
        cost="7.8",
        good_at="quality of SR relative to GT, as its paper reports",
        bad_at="slow; the official weights were never run by us",
        weights={
            "official": WeightsEntry(
                tag="official",
                repo_id="shaolin999/rqi",
                filename="rqi_weights.pt",
                revision="main",
                sha256="",  # not published
                bytes=580_970_000,  # approximate: published as 580.97 MB
                licence="not stated by the authors (a third-party copy says Apache-2.0)",
                training_data="PIPAL",
                origin="Released by the authors of RQI; not the weights behind the paper's tables.",
                commercial_use=None,
            )
        },
    )
    unused = (
        "vit.blocks.10.",
        "vit.blocks.11.",
        "vit.norm.",
        "vit.head.",
        "conv0_x2.",
        "swintransformer1.downsample.",
        "swintransformer2.downsample.",
    )

    def __init__(
        self,
        *,
        side: int = 224,
        patch: int = 8,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        taps: Sequence[int] = (6, 7, 8, 9),
        scale: float = 0.8,
        dropout: float = 0.1,
        drop_path: float = 0.1,
    ) -> None:
        sizes = {"side": side, "patch": patch, "width": width, "depth": depth, "heads": heads}
        sizes = {name: as_int(name, value, minimum=1) for name, value in sizes.items()}
        side, patch, width, depth, heads = sizes.values()
        taps = tuple(as_int("taps", tap) for tap in taps)
        scale = as_float("scale", scale)
        dropout = as_float("dropout", dropout, minimum=0.0, maximum=1.0)
        drop_path = as_float("drop_path", drop_path, minimum=0.0, maximum=0.999)
        if side % (patch * WINDOW):
            raise InputError(
                f"side: got {side}, expected a multiple of {patch * WINDOW} (patch {patch}, window {WINDOW})."
            )
        if width % (2 * WINDOW_HEADS):
            raise InputError(f"width: got {width}, expected a multiple of {2 * WINDOW_HEADS}.")
        config = {**sizes, "taps": taps, "scale": scale, "dropout": dropout, "drop_path": drop_path}
        super().__init__(config=config, input_size=SizeRule(fixed=side))
        self.taps = taps
        self.grid = grid = side // patch
        self.vit = make_vit(side, patch, width, depth, heads, taps)
        features, half = len(taps) * width, width // 2
        self.conv0_x = nn.Conv2d(features, 2 * width, 1)
        self.conv0_x1 = nn.Conv2d(features, width, 1)
        self.conv0_x2 = nn.Conv2d(features, width, 1)  # unused, in the published layout
        self.tablock1 = nn.Sequential(*(TABlock(grid**2, dropout) for _ in range(2)))
        self.conv1 = nn.Conv2d(4 * width, width, 1)
        self.swintransformer1 = SwinStage(width, width, grid, scale, dropout, drop_path)
        self.tablock2 = nn.Sequential(*(TABlock(grid**2, dropout) for _ in range(2)))
        self.conv2 = nn.Conv2d(width, half, 1)
        self.swintransformer2 = SwinStage(half, width, grid, scale, dropout, drop_path)
        self.fc_score = _token_head(half, dropout)
        self.fc_weight = _token_head(half, dropout, nn.Sigmoid())

    @classmethod
    def tiny(cls) -> Self:
        """32x32 images, 4x4 tokens, 16 channels, four used blocks and one unused block."""
        return cls(side=32, patch=8, width=16, depth=5, heads=2, taps=(0, 1, 2, 3))

    @staticmethod
    def remap_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As :meth:`Critic.remap_official`; the layouts are equal.

        Raises:
            WeightsError: a stored constant (position index or mask) is not the one that this network uses.
        """
        for key, value in state.items():
            if key.endswith(".relative_position_index"):
                expected = relative_position_index()
            elif key.endswith(".attn_mask"):
                windows = value.shape[0] if value.dim() else 0
                expected = shifted_window_mask(WINDOW * math.isqrt(windows))
            else:
                continue
            if value.shape != expected.shape or not torch.equal(value.to("cpu", expected.dtype), expected):
                raise WeightsError(
                    f"rqi_maniqa: '{key}' is a constant of the network and differs from ours; the checkpoint belongs "
                    "to another network or is damaged."
                )
        return dict(state)

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return (self.vit_features(hr),)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        return self.compare_features(self.vit_features(sr), target[0])

    def vit_features(self, image: Tensor) -> Tensor:
        """Tapped block outputs of an image (N, 3, side, side) in [0, 1]: (N, taps * width, grid, grid)."""
        return block_maps(self.vit, normalise(image, HALF, HALF), self.taps)

    def compare_features(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Scores (N,) from :meth:`vit_features` of both images."""
        # Both images through conv0_x1, as in the released code and its weights.
        x = torch.cat([self.conv0_x1(sr), self.conv0_x1(hr), self.conv0_x(sr - hr)], dim=1)
        x = self.swintransformer1(self.conv1(self._attend(self.tablock1, x)))
        x = self.swintransformer2(self.conv2(self._attend(self.tablock2, x)))
        return self._pool(rearrange(x, "n c h w -> n (h w) c"))

    def _pool(self, tokens: Tensor) -> Tensor:
        """(N, tokens, C) -> (N,): the mean of token scores by token weights."""
        score, weight = self.fc_score(tokens), self.fc_weight(tokens)
        pooled: Tensor = (score * weight).sum((1, 2)) / (weight.sum((1, 2)) + POOL_EPS)
        return pooled

    def _attend(self, blocks: nn.Module, maps: Tensor) -> Tensor:
        attended: Tensor = blocks(maps.flatten(2))
        return attended.unflatten(2, (self.grid, self.grid))
