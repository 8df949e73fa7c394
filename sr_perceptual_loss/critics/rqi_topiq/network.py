"""RQI on TOPIQ-FR: how much better (> 0) or worse (< 0) an image looks than its reference, at any size.

Five levels of a ResNet-50 for both images, pooled with a learned gate; self-attention inside each level, then
cross-attention from the deepest level to the shallower ones. Module names are those of the published key layout.

Differences from the reference: see ``RQITopiq.card.notes``. Written from a description of the published network,
not from its code.

Source: Su et al., "Bridging the Perception Gap in Image Super-Resolution Evaluation" (RQI), arXiv 2503.13074, and its
supplement; TOPIQ, arXiv 2308.03060.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from sr_perceptual_loss.checks import as_float, as_int, check_choice
from sr_perceptual_loss.critics.base import IMAGENET, Critic, TargetFeatures, normalise
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PyramidResNet", "RQITopiq"]

LEVELS = 5
# Each stem has its own shape in timm; the plain one has a fixed width.
STEMS = {"plain": "", "deep": "deep"}
PLAIN_STEM_WIDTH = 64
# Side of the learned position table before it is resized.
POSITIONS = 32
# Under the square root of the feature distance, whose slope at 0 would be infinite.
DISTANCE_EPS = 1e-12


class PyramidResNet(ResNet):
    """timm's ResNet without classifier, with the outputs of the stem (after its ReLU) and of the four stages.

    The arguments are those of :class:`RQITopiq`. The plain stem is one 7x7 convolution, the deep one has three 3x3.
    """

    def __init__(self, block: str, layers: Sequence[int], widths: Sequence[int], stem: str, stem_width: int) -> None:
        kind = Bottleneck if block == "bottleneck" else BasicBlock
        # timm's deep stem ends with twice its `stem_width`. num_classes=0 leaves `fc` out of the key layout.
        super().__init__(
            kind,
            tuple(layers),
            num_classes=0,
            channels=tuple(widths),
            stem_type=STEMS[stem],
            stem_width=stem_width // 2,
            zero_init_last=False,
        )
        self.channels = (stem_width, *(width * kind.expansion for width in widths))
        self._init_without_statistics()

    def _init_without_statistics(self) -> None:
        """Random start that keeps the size of activations although BN neither measures nor learns anything here.

        Every convolution keeps the variance, and a residual branch is added with 1/sqrt(number of branches). timm's own
        start relies on batch statistics: without them activations grow from block to block.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        blocks = [module for module in self.modules() if isinstance(module, BasicBlock | Bottleneck)]
        for residual in blocks:
            last = residual.bn3 if isinstance(residual, Bottleneck) else residual.bn2
            nn.init.constant_(last.weight, len(blocks) ** -0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> five maps of H/2, H/4, ... H/32, rounded up."""
        return tuple(self.forward_intermediates(x, intermediates_only=True))


class CrossLayer(nn.Module):
    """Pre-norm cross-attention layer: z += MHA(LN1 z, LN2 m, LN2 m); z += FF(LN3 z)."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout)  # unused, in the published layout
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """(T, N, C) and (S, N, C) -> (T, N, C)."""
        memory = self.norm2(memory)
        attended, _ = self.multihead_attn(self.norm1(tokens), memory, memory, need_weights=False)
        tokens = tokens + self.dropout(attended)
        hidden = self.dropout(F.gelu(self.linear1(self.norm3(tokens))))
        out: Tensor = tokens + self.dropout(self.linear2(hidden))
        return out


class Stack(nn.Module):
    """One layer under the name ``layers.0``, as in the published layout."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer])

    def forward(self, *tokens: Tensor) -> Tensor:
        """As the layer."""
        out: Tensor = self.layers[0](*tokens)
        return out


def _gate(channels: int, hidden: int) -> nn.Sequential:
    first, second = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, hidden, 3, padding=1)
    return nn.Sequential(first, nn.GELU(), second, nn.GELU(), nn.Conv2d(hidden, 1, 3, padding=1), nn.Sigmoid())


def _score_head(dim: int) -> nn.Sequential:
    layers = (part for _ in range(2) for part in (nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU()))
    return nn.Sequential(*layers, nn.Linear(dim, 1))


def _four(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != LEVELS - 1:
        raise InputError(f"{name}: got {values!r}, expected four whole numbers, one per stage of the ResNet.")
    return tuple(as_int(name, value, minimum=1) for value in values)


@register_critic
class RQITopiq(Critic):
    """Relative Quality Index, the TOPIQ variant: 0 means "as good as the reference", positive better, negative worse.

    That holds after training under the RQI scheme, and **no RQI-TOPIQ weights are published.** The published TOPIQ-FR
    weights fit and are a start for that training, but their own scores are absolute quality: 0 has no meaning. The
    score is not bounded, and f(a, b) = -f(b, a) is learned, not built in. The backbone's batch normalisation always
    uses its stored statistics and never moves them, also in train mode.

    Args:
        block: residual blocks of the backbone, "bottleneck" or "basic".
        layers: residual blocks per stage.
        widths: of the four stages; a bottleneck stage has four times as many channels.
        stem: "plain", or "deep", which can be of another width.
        stem_width: channels of the stem.
        dim: channels of a token; a multiple of ``heads`` and even.
        heads: attention heads.
        feedforward: channels inside the feed-forward parts.
        gate: channels inside the gates.
        dropout: rate in the attention layers.
    """

    card = CriticCard(
        name="rqi_topiq",
        paper="Su et al., Bridging the Perception Gap in Image Super-Resolution Evaluation (RQI), arXiv 2503.13074; "
        "TOPIQ, arXiv 2308.03060",
        # One position of the deepest level.
        input_size=SizeRule(minimum=32),
        # The labels, differences of scores scaled to [0, 1].
        score_range=(-1.0, 1.0),
        relative=True,
        symmetric=False,
        notes=(
            "No weights trained under the RQI scheme are published. The published TOPIQ-FR files "
            "(cfanet_fr_pipal_res50-69bbe5ba.pth, cfanet_fr_kadid_res50-2c4cc61d.pth of IQA-PyTorch, CC BY-NC-SA 4.0: "
            "not for commercial use) predict absolute quality, not differences. "
            "`srpl convert FILE --critic rqi_topiq --warm-start` turns them into a start for training under it.",
            "There is no final activation; the published network has one (Softplus) behind an option, off by default.",
            "Both sides must be >= 32; the published network takes smaller images, where some levels are not pooled.",
            "The gated maps are pooled before they are concatenated, and the position tables are resized before they "
            "are repeated, which does not change the score.",
            "The backbone's BN is in eval mode from the construction on; in the published code the first forward pass "
            "after a switch to train mode still uses batch statistics.",
            "Freezing the backbone's BN weights and biases is up to the training (published_frozen names them); the "
            "published code freezes them itself.",
            "Weights start from random values, never from a download; the published backbone starts from ImageNet.",
            "f(a, b) = -f(b, a), which the paper states, is a trained tendency; nothing enforces it.",
            "As in the published network, attn_blks.*.self_attn is never used.",
        ),
        learned_from="your training",
        cost=".32",
        good_at="quality of SR relative to GT, as its paper reports",
        bad_at="no weights published: train it first",
        # None published for RQI. TOPIQ-FR's own are not entries: they are another metric and not for commercial use.
        weights={},
    )
    unused = tuple(f"attn_blks.{level}.layers.0.self_attn." for level in range(LEVELS - 1))

    def __init__(
        self,
        *,
        block: str = "bottleneck",
        layers: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: str = "plain",
        stem_width: int = PLAIN_STEM_WIDTH,
        dim: int = 256,
        heads: int = 4,
        feedforward: int = 1024,
        gate: int = 64,
        dropout: float = 0.1,
    ) -> None:
        check_choice("block", block, ("bottleneck", "basic"))
        check_choice("stem", stem, tuple(STEMS))
        layers, widths = _four("layers", layers), _four("widths", widths)
        sizes = {"stem_width": stem_width, "dim": dim, "heads": heads, "feedforward": feedforward, "gate": gate}
        sizes = {name: as_int(name, value, minimum=1) for name, value in sizes.items()}
        stem_width, dim, heads, feedforward, gate = sizes.values()
        dropout = as_float("dropout", dropout, minimum=0.0, maximum=1.0)
        if stem == "plain" and stem_width != PLAIN_STEM_WIDTH:
            raise InputError(
                f"stem_width: got {stem_width}, expected {PLAIN_STEM_WIDTH} for stem='plain'; use stem='deep' for "
                "another width."
            )
        if stem_width % 2:
            raise InputError(f"stem_width: got {stem_width}, expected an even number.")
        if dim % heads or dim % 2:
            raise InputError(f"dim: got {dim}, expected an even multiple of heads ({heads}).")
        backbone = {"block": block, "layers": layers, "widths": widths, "stem": stem}
        super().__init__(config={**backbone, **sizes, "dropout": dropout})
        self.semantic_model = PyramidResNet(block, layers, widths, stem, stem_width)
        # The backbone's BN weights and biases, kept at their ImageNet values.
        norms = [name for name, part in self.semantic_model.named_modules() if isinstance(part, nn.BatchNorm2d)]
        self.published_frozen = tuple(f"semantic_model.{name}." for name in norms)
        channels = self.semantic_model.channels

        def self_layer() -> nn.Module:
            return nn.TransformerEncoderLayer(dim, heads, feedforward, dropout, activation="gelu", norm_first=True)

        self.weight_pool = nn.ModuleList(_gate(c, gate) for c in channels)
        self.dim_reduce = nn.ModuleList(nn.Sequential(nn.Conv2d(3 * c, dim, 1), nn.GELU()) for c in channels)
        self.h_emb = nn.Parameter(torch.empty(1, dim // 2, POSITIONS, 1))
        self.w_emb = nn.Parameter(torch.empty(1, dim // 2, 1, POSITIONS))
        self.sa_attn_blks = nn.ModuleList(Stack(self_layer()) for _ in channels)
        self.attn_blks = nn.ModuleList(
            Stack(CrossLayer(dim, heads, feedforward, dropout)) for _ in range(len(channels) - 1)
        )
        self.attn_pool = self_layer()
        self.score_linear = _score_head(dim)
        self._init_attention()
        self.train()

    def _init_attention(self) -> None:
        """Start values as published; the packed input projections and the score head keep PyTorch's."""
        for part in (self.sa_attn_blks, self.attn_blks, self.attn_pool):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.kaiming_normal_(module.weight)
                    nn.init.zeros_(module.bias)
        for table in (self.h_emb, self.w_emb):
            nn.init.trunc_normal_(table, std=0.02)

    @classmethod
    def tiny(cls) -> Self:
        """One basic block per stage, 4 to 16 channels, tokens of 16."""
        return cls(
            block="basic", layers=(1, 1, 1, 1), widths=(4, 8, 8, 16), stem="deep", stem_width=4, dim=16, heads=2,
            feedforward=32, gate=4,
        )  # fmt: skip

    def train(self, mode: bool = True) -> Self:
        """As of ``nn.Module``, but the backbone stays in eval mode, so no score depends on batch statistics."""
        super().train(mode)
        self.semantic_model.eval()
        return self

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return self.features(hr)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        return self.compare_features(self.features(sr), target)

    def features(self, image: Tensor) -> TargetFeatures:
        """Levels of the backbone for an image in [0, 1]: five maps (N, C_i, H / 2^(i+1), W / 2^(i+1)), rounded up."""
        levels: TargetFeatures = self.semantic_model(normalise(image, *IMAGENET))
        return levels

    def compare_features(self, sr: TargetFeatures, hr: TargetFeatures) -> Tensor:
        """Scores (N,) from :meth:`features` of both images."""
        position = self._position(*self._grid(sr[-1]))
        tokens = [self._level_tokens(level, sr[level], hr[level], position) for level in range(LEVELS)]
        z = tokens[-1]
        for cross, memory in zip(self.attn_blks, reversed(tokens[:-1]), strict=True):
            z = cross(z, memory)
        scores: Tensor = self.score_linear(self.attn_pool(z).mean(0)).squeeze(1)
        return scores

    @staticmethod
    def _grid(level: Tensor) -> tuple[int, int]:
        return level.shape[2], level.shape[3]

    def _level_tokens(self, level: int, sr: Tensor, hr: Tensor, position: Tensor) -> Tensor:
        """One level of both images to (rows * columns, N, dim): gate, pool to the deepest grid, embed, attend."""
        distance = ((sr - hr).square() + DISTANCE_EPS).sqrt()
        gate = self.weight_pool[level](distance)
        # Pooled one by one, which needs less memory than pooling the concatenated map. From 32x32 pixels on, all levels
        # but the last are larger than the grid in both directions.
        maps = [part * gate for part in (sr, hr, distance)]
        if level < LEVELS - 1:
            rows, columns = position.shape[2:]
            maps = [F.adaptive_avg_pool2d(part, (rows, columns)) for part in maps]
        embedded = self.dim_reduce[level](torch.cat(maps, dim=1)) + position
        tokens: Tensor = self.sa_attn_blks[level](rearrange(embedded, "n c h w -> (h w) n c"))
        return tokens

    def _position(self, rows: int, columns: int) -> Tensor:
        """(1, dim, rows, columns): the first half of the channels depends on the row, the second on the column."""
        by_row = F.interpolate(self.h_emb, (rows, 1), mode="bicubic", align_corners=False)
        by_column = F.interpolate(self.w_emb, (1, columns), mode="bicubic", align_corners=False)
        return torch.cat([by_row.expand(-1, -1, -1, columns), by_column.expand(-1, -1, rows, -1)], dim=1)
