"""Efficient-PBAN: attention in both directions between an SR image and its reference, trained on opinion scores.

A ResNet-34 trunk up to its third stage, shared by both images; queries through multi-branch deformable convolutions;
row and column attention in both directions; a fusion gate; one head. Module names are those of the published layout.

Differences from the reference: see ``EfficientPBAN.card.notes``. Written from a description of the published
network (``std="batch"`` and ``normalisation="published"`` give its behaviour), not from its code.

Source: Zhou et al., "Perceptual Quality Optimization of Image Super-Resolution" (Efficient-PBAN), arXiv 2602.21482,
equations (1)-(10); predecessor PBAN, arXiv 2509.06442.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from sr_perceptual_loss.checks import as_float, as_int, check_choice
from sr_perceptual_loss.critics.base import IMAGENET, Constants, Critic, TargetFeatures, normalise
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops.backbones import init_convolutions, residual_stage
from sr_perceptual_loss.ops.deform_mix import tap_weights
from sr_perceptual_loss.ops.deformable import deformable_taps

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NORMALISATIONS", "EfficientPBAN"]

KERNELS = (3, 5, 7, 9)
# Added to the standard deviation that divides the attention logits.
STD_EPS = 1e-6
SE_GROUPS = 3
SE_CONV_GROUPS = 4
POOL = 2

_RAW: Constants = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
#: (mean, standard deviation) for SR and for HR images, by name. The published ones are 1/8 of plausible statistics (a
#: mistake in the code that measured them), but weights trained with them need exactly these numbers.
NORMALISATIONS: Mapping[str, tuple[Constants, Constants]] = {
    "imagenet": (IMAGENET, IMAGENET),
    "raw": (_RAW, _RAW),
    "published": (
        ((0.05605867, 0.050786886, 0.04435081), (0.028125687, 0.027141795, 0.02876606)),
        ((0.05608858, 0.050779864, 0.044556625), (0.027764285, 0.026925579, 0.028313829)),
    ),
}


class MultiBranchDeformConv(nn.Module):
    """Deformable convolutions with kernels 3, 5, 7 and 9 side by side, a quarter of the channels each, then a 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        branch = channels // len(KERNELS)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(branch, channels, k, k)) for k in KERNELS)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(branch)) for _ in KERNELS)
        self.param_generators = nn.ModuleList(nn.Conv2d(channels, 2 * k * k, 3, padding=1) for k in KERNELS)
        self.merge_conv = nn.Conv2d(channels, channels, 1)
        for weight in (*self.weights, self.merge_conv.weight):
            nn.init.kaiming_uniform_(weight, a=5**0.5)
        assert self.merge_conv.bias is not None
        nn.init.zeros_(self.merge_conv.bias)
        # Zero offsets: at the start every branch is a plain convolution. The weights are not zero, so offsets do learn.
        for parameter in self.param_generators.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, kernels: str = "auto") -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); ``kernels`` as in :func:`deformable_taps`."""
        offsets = torch.cat([generator(x) for generator in self.param_generators], dim=1)
        branches = deformable_taps(x, offsets, tap_weights(list(self.weights)), KERNELS, kernels)
        merged: Tensor = self.merge_conv(branches + torch.cat(list(self.biases)).view(-1, 1, 1))
        return merged


class GroupShuffle(nn.Module):
    """Linear map across the three channel groups; its output is interleaved, channel = c * 3 + g."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SE_GROUPS, SE_GROUPS)
        self.conv = nn.Conv2d(SE_GROUPS, SE_GROUPS, 1)  # unused, in the published layout

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3C, 1, 1), channel = g * C + c, to (N, 3C, 1, 1), channel = c * 3 + g."""
        mixed = self.linear(rearrange(x, "n (g c) 1 1 -> n c g", g=SE_GROUPS))
        return rearrange(mixed, "n c g -> n (c g) 1 1")


class SubEC(nn.Module):
    """Sub-pixel and sub-channel gate: O * z * y, z in (N, 1, H, W) and y in (N, C, 1, 1), both in (0, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = SE_GROUPS * channels
        self.subchannel_before = nn.Sequential(nn.Conv2d(channels, wide, 1, groups=SE_CONV_GROUPS), nn.Tanh())
        self.shuffle = GroupShuffle()
        self.subchannel_after = nn.Sequential(nn.Conv2d(wide, channels, 1))
        # Unused, in the published layout.
        squeezed = channels // 16
        self.subchannel = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1, groups=squeezed), nn.Sigmoid()
        )
        self.pixelse = nn.Sequential(
            nn.Conv2d(channels, channels // 8, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(channels // 8, 9, 3, padding=1),
            nn.PixelShuffle(3),
            nn.Tanh(),
            nn.Conv2d(1, 1, 3, stride=3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        y = self.subchannel_after(self.shuffle(self.subchannel_before(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        gated: Tensor = x * self.pixelse(x) * y
        return gated


def _conv_bn(channels: int, out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class PBABlock(nn.Module):
    """Bidirectional attention along rows and columns, fusion gate, and a stride-2 convolution per image.

    Index 1 is SR, 2 is HR. ``std``: see :class:`EfficientPBAN`.
    """

    def __init__(self, channels: int, std: str) -> None:
        super().__init__()
        self.std = std
        self.q1, self.k1, self.v1 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        self.q2, self.k2, self.v2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        self.br1 = MultiBranchDeformConv(channels)
        self.br2 = MultiBranchDeformConv(channels)
        self.softmax = nn.Softmax(dim=-1)
        self.SE = SubEC(channels)
        self.after_block1 = _conv_bn(channels, 2 * channels, stride=2)
        self.after_block2 = _conv_bn(channels, 2 * channels, stride=2)
        # Unused, in the published layout.
        self.after_block3 = _conv_bn(channels, channels, stride=1)
        self.after_block4 = _conv_bn(channels, channels, stride=1)

    def encode_target(self, hr: Tensor, kernels: str = "auto") -> TargetFeatures:
        """(HR features, query, key, value)."""
        return hr, self.br2(self.q2(hr), kernels), self.k2(hr), self.v2(hr)

    def forward(self, sr: Tensor, target: TargetFeatures, kernels: str = "auto") -> tuple[Tensor, Tensor]:
        """SR features (N, C, H, W) and :meth:`encode_target`'s result -> (N, 2C, h, w) of SR and of HR."""
        return self.fuse(sr, (self.br1(self.q1(sr), kernels), self.k1(sr), self.v1(sr)), target)

    def fuse(self, sr: Tensor, sr_qkv: tuple[Tensor, Tensor, Tensor], target: TargetFeatures) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, with the (query, key, value) of SR given."""
        (q1, k1, v1), (hr, q2, k2, v2) = sr_qkv, target
        fused_sr = self.SE(self.axis_attention(q1, k2, v1)) + sr
        fused_hr = self.SE(self.axis_attention(q2, k1, v2)) + hr
        return self.after_block1(fused_sr), self.after_block2(fused_hr)

    def axis_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mean of the row pass and the column pass: query and value of one image, key of the other -> (N, C, H, W)."""
        return 0.5 * (self.row_pass(query, key, value) + self.row_pass(query.mT, key.mT, value.mT).mT)

    def row_pass(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention inside each row; the softmax runs over keys and the sum over queries, literally O = V A."""
        logits = rearrange(query, "n c h i -> n h i c") @ rearrange(key, "n c h j -> n h c j")
        # Not detached: the gradient flows through the deviation too.
        spread = logits.std() if self.std == "batch" else logits.std(dim=(1, 2, 3), keepdim=True)
        attention = self.softmax(logits / (spread + STD_EPS))
        return rearrange(rearrange(value, "n c h i -> n h c i") @ attention, "n h c j -> n c h j")


def _three(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 3:
        raise InputError(f"{name}: got {values!r}, expected three whole numbers.")
    return tuple(as_int(name, v, minimum=1) for v in values)


@register_critic
class EfficientPBAN(Critic):
    """Opinion score of an SR image given its reference, on the scale of the training labels (ISRGen-QA: 1 to 5).

    The score is a plain linear output: not bounded, not symmetric, and not at its top for equal images.

    Args:
        normalisation: how images in [0, 1] are normalised, a name of :data:`NORMALISATIONS`.
        std: extent of the standard deviation that divides the attention logits. "sample": each pair's own, so a score
            does not depend on the other pairs. "batch": the whole batch's, as published.
        widths: channels after the stem and layer1, after layer2, after layer3; the last a multiple of 16.
        depths: residual blocks of layer1, layer2, layer3.
        dropout: rates after the first linear layer of SR and of HR, then after the second of each.
    """

    card = CriticCard(
        name="efficient_pban",
        paper="Zhou et al., Perceptual Quality Optimization of Image Super-Resolution, arXiv 2602.21482",
        # Below 17 the features are 1x1 and the deviation of a single attention logit does not exist.
        input_size=SizeRule(minimum=17),
        score_range=(1.0, 5.0),
        relative=False,
        symmetric=False,
        notes=(
            "The deviation that divides the attention logits is taken per image pair (std='sample'); the published "
            "code takes it over the batch (std='batch'), which is the same for a batch of one.",
            "New critics use ImageNet normalisation for both images; the published constants, one set for SR and one "
            "for HR, 1/8 of plausible statistics, are normalisation='published'.",
            "Both sides must be >= 17; the published code gives NaN where both are <= 16 and takes 16x17.",
            "The image is scored at its own size; the published loader squeezes every image to 512x512.",
            "The paper separates the two branches after Layer1; as in the published code, one trunk serves both up to "
            "layer3.",
            "The paper does not mention the deformable convolutions on both queries, the 3x3 stride-2 convolution "
            "after the fusion, or the 2x2 (not global) pooling; all are in the published code and here.",
            "The softmax runs over keys and the sum over queries, as in the published code; the paper's equations "
            "leave the softmax axis open.",
            "The first dropout of HR has its own rate, 0.2 by default; the published code applies a module of the next "
            "layer there and leaves its own one (0.3) unused.",
            "The paper freezes stem and Layer1; here freezing is up to the training (published_frozen names the "
            "prefixes; the published code still moves their BN statistics).",
            "The reference passes the trunk before the SR image, which matters only to BN statistics in training.",
            "Weights start from random values, never from a download.",
        ),
        learned_from="your training",
        cost=".25-.30",
        good_at="opinion scores of SR, as its paper reports",
        bad_at="no weights published: train it first",
        # None published: only architecture and training code are.
        weights={},
    )
    aliases = (("layer2_2.", "layer2_1."),)
    unused = ("block2.SE.subchannel.", "block2.SE.shuffle.conv.", "block2.after_block3.", "block2.after_block4.")
    # Kept at their ImageNet values.
    published_frozen = ("stem.0.", "stem.1.", "stem.4.")

    def __init__(
        self,
        *,
        normalisation: str = "imagenet",
        std: str = "sample",
        widths: Sequence[int] = (64, 128, 256),
        depths: Sequence[int] = (3, 4, 6),
        dropout: Sequence[float] = (0.3, 0.2, 0.2, 0.2),
    ) -> None:
        check_choice("normalisation", normalisation, tuple(NORMALISATIONS))
        check_choice("std", std, ("sample", "batch"))
        widths, depths = _three("widths", widths), _three("depths", depths)
        if widths[-1] % 16:
            raise InputError(f"widths: got {widths[-1]} channels after layer3, expected a multiple of 16.")
        if isinstance(dropout, str) or len(dropout) != 4:
            raise InputError(f"dropout: got {dropout!r}, expected four rates (SR, HR, SR, HR).")
        rates = tuple(as_float("dropout", rate, minimum=0.0, maximum=1.0) for rate in dropout)
        super().__init__(
            config={"normalisation": normalisation, "std": std, "widths": widths, "depths": depths, "dropout": rates}
        )
        self.sr_constants, self.hr_constants = NORMALISATIONS[normalisation]
        first, second, channels = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 7, 2, 3, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
            residual_stage(BasicBlock, first, first, depths[0], stride=1),
            residual_stage(BasicBlock, first, second, depths[1], stride=2),
        )
        self.layer2_1 = residual_stage(BasicBlock, second, channels, depths[2], stride=2)
        # One module with two names, as published: the paper's separate branches do not exist.
        self.layer2_2 = self.layer2_1
        init_convolutions(self.stem, self.layer2_1)
        self.block2 = PBABlock(channels, std)
        self.fc11, self.fc12 = (nn.Linear(2 * channels * POOL**2, 2 * channels) for _ in range(2))
        self.fc21, self.fc22 = (nn.Linear(2 * channels, channels // 2) for _ in range(2))
        self.fc = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, 1)
        self.drop11, self.drop12, self.drop21, self.drop22 = (nn.Dropout(rate) for rate in rates)

    @classmethod
    def tiny(cls) -> Self:
        """16 channels and one residual block per stage."""
        return cls(widths=(4, 8, 16), depths=(1, 1, 1))

    def _features(self, image: Tensor, constants: Constants) -> Tensor:
        features: Tensor = self.layer2_1(self.stem(normalise(image, *constants)))
        return features

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return self.block2.encode_target(self._features(hr, self.hr_constants), self.kernels)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        return self._head(*self.block2(self._features(sr, self.sr_constants), target, self.kernels))

    def _head(self, *maps: Tensor) -> Tensor:
        """(N, 2C, h, w) of SR and of HR -> (N,)."""
        x1, x2 = (F.adaptive_avg_pool2d(each, POOL).flatten(1) for each in maps)
        x1 = self.drop21(F.relu(self.fc21(self.drop11(F.relu(self.fc11(x1))))))
        x2 = self.drop22(F.relu(self.fc22(self.drop12(F.relu(self.fc12(x2))))))
        score: Tensor = self.out(self.fc(torch.cat([x1, x2], dim=1))).squeeze(1)
        return score
