"""rqi_lite: a compact relative critic, f(a, b) = -f(b, a), taught by averages of published ratings and by attacks.

It is neither RQI nor Efficient-PBAN and shares no weights, code or labels with them; only the question is RQI's: how
much better or worse than its reference does an image look, where the reference may itself be imperfect?

Source: own network. Relative labels after Su et al., "Bridging the Perception Gap in Image Super-Resolution Evaluation"
(RQI), arXiv 2503.13074; structure and texture similarities after Ding, Ma, Wang, Simoncelli, "Image quality assessment:
unifying structure and texture similarity" (DISTS), TPAMI 2020; filtered strides after Zhang, "Making convolutional
networks shift-invariant again", ICML 2019. How it is trained: docs/rqi_lite.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from sr_perceptual_loss._checks import InputError, as_int, check_choice
from sr_perceptual_loss.critics._blocks.lite_relation import AxialCross, relation_inputs
from sr_perceptual_loss.critics._blocks.lite_statistics import StatisticsRelation
from sr_perceptual_loss.critics._blocks.lite_stem import LiteStem, moments
from sr_perceptual_loss.critics.base import Critic, CriticCard, SizeRule, TargetFeatures
from sr_perceptual_loss.critics.registry import register_critic

__all__ = ["RQILite"]

STAGES = 3
STEMS = ("learned", "statistics")
# Keeps the weighted mean finite where all weights are tiny.
_EPS_WEIGHT = 1e-3


def _three(name: str, values: Sequence[int]) -> tuple[int, ...]:
    checked = tuple(as_int(name, value, minimum=1) for value in values)
    if len(checked) != STAGES:
        raise InputError(f"{name}: got {list(checked)}, expected three numbers, one for each stage.")
    return checked


@register_critic
class RQILite(Critic):
    """f(a, b) = sum w (q(a | b) - q(b | a)) / sum w over cells of 8x8 pixels, w = softplus(v(a | b) + v(b | a)).

    With ``stem: statistics`` the summand is w D tanh(q(a | b) - q(b | a)), where D >= 0 is a learned distance, 0 for
    equal images.

    Args:
        widths: channels of the stem at 1/2, 1/4 and 1/8 of the size.
        depths: 3x3 convolutions of the three stages.
        dim: channels of the tokens, a multiple of ``heads``.
        blocks: axial cross-attention blocks.
        heads: attention heads.
        stem: ``learned``, or ``statistics``: fixed local statistics and a small network of width ``dim``; widths,
            depths, blocks and heads are not used then.

    Raises:
        InputError: at construction.
    """

    card = CriticCard(
        name="rqi_lite",
        paper="own compact relative critic, neither RQI nor Efficient-PBAN (docs/rqi_lite.md)",
        input_size=SizeRule(minimum=64),
        score_range=(-1.0, 0.05),
        relative=True,
        capped=True,
        symmetric=False,
        differences=(
            "It is neither RQI nor Efficient-PBAN and is not validated for ranking modern SR models.",
            "Its targets are no ratings of its training images but averages of published KADID-10k ratings per type "
            "and level, adjusted by classical measures.",
            "It can be exploited as a loss: keep a pixel loss beside it, form: hinge, and an eye on over_gt_rate.",
        ),
    )

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 160),
        depths: Sequence[int] = (2, 2, 3),
        dim: int = 192,
        blocks: int = 2,
        heads: int = 4,
        stem: str = "learned",
    ) -> None:
        widths, depths = _three("widths", widths), _three("depths", depths)
        dim, heads = as_int("dim", dim, minimum=1), as_int("heads", heads, minimum=1)
        blocks = as_int("blocks", blocks, minimum=0)
        if dim % heads:
            raise InputError(f"dim: got {dim}, expected a multiple of heads ({heads}).")
        kind = check_choice("stem", stem, STEMS)
        sizes = {"widths": widths, "depths": depths, "dim": dim, "blocks": blocks, "heads": heads}
        super().__init__(sizes if kind == "learned" else {"stem": kind, "dim": dim})
        if kind == "statistics":
            self.relation = StatisticsRelation(dim)
            return
        self.stem = LiteStem(widths, depths)
        self.tokens = nn.Conv2d(6 * sum(widths), dim, 1)
        self.blocks = nn.ModuleList(AxialCross(dim, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)
        # q and v of each token.
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 2))

    @classmethod
    def tiny(cls) -> Self:
        """The same path with a few thousand parameters; random weights."""
        return cls(widths=(6, 8, 12), depths=(1, 1, 2), dim=16, blocks=1, heads=2)

    def features(self, image: Tensor) -> TargetFeatures:
        """Everything that depends on one image alone.

        With ``stem: learned`` three stages, then mean and variance of each; with ``stem: statistics`` bands and
        energies of three levels, the image's own statistics, HaarPSI's features.

        Args:
            image: (N, 3, H, W) RGB in [0, 1], sides >= 64.

        Returns:
            Tensors whose first dimension is N, so that pairs are formed by indexing.
        """
        if "stem" in self.config:
            return self.relation.features(image)
        stages = self.stem(image)
        return (*stages, *moments(stages))

    def compare(self, first: TargetFeatures, second: TargetFeatures) -> Tensor:
        """How much better the first image looks than the second one.

        Args:
            first: :meth:`features` of the judged images.
            second: :meth:`features` of the images that they are compared with.

        Returns:
            (N,) scores; exactly antisymmetric but for rounding.
        """
        opinion, weight = self.relation(first, second) if "stem" in self.config else self._attended(first, second)
        weight = F.softplus(weight) + _EPS_WEIGHT
        return (weight * opinion).sum((1, 2)) / weight.sum((1, 2))

    def _attended(self, first: TargetFeatures, second: TargetFeatures) -> tuple[Tensor, Tensor]:
        """(N, h, w) q(a | b) - q(b | a), and v(a | b) + v(b | a), of the learned stem."""
        inputs = torch.cat(relation_inputs(first, second, STAGES))
        tokens = self.tokens(inputs).movedim(1, -1).contiguous()
        for block in self.blocks:
            tokens = block(tokens)
        # (2 N, h, w, 2); the mean over places in the parameters' own precision or better.
        found = self.head(self.norm(tokens)).to(inputs.dtype)
        (quality_a, weight_a), (quality_b, weight_b) = (half.unbind(-1) for half in found.chunk(2))
        return quality_a - quality_b, weight_a + weight_b

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return self.features(hr)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        return self.compare(self.features(sr), target)
