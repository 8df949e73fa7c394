"""texture_stats: similarity of local texture statistics times structural similarity, without weights.

A pixel-wise or structural measure demands fine detail at its exact position; a network that cannot know the position
blurs it. This critic demands texture of the right strength, direction, contrast and scale near the right position. It
compares statistics with those of the reference, so no image scores higher than the reference itself.

Source: statistics after Portilla, Simoncelli, "A parametric texture model based on joint statistics of complex wavelet
coefficients", IJCV 40 (2000), in bounded local forms; the split into structure and texture after Ding, Ma, Wang,
Simoncelli, "Image quality assessment: unifying structure and texture similarity" (DISTS), TPAMI 2020. Formula and
constants are our own; how they were chosen is in docs/texture_stats.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.checks import as_float, as_int, check_choice
from sr_perceptual_loss.critics import haarpsi
from sr_perceptual_loss.critics.base import TargetFeatures
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.maps import with_mean
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.critics.texture_stats.bands import Bands, pyramid
from sr_perceptual_loss.critics.texture_stats.measures import STATISTICS, measure, similarity
from sr_perceptual_loss.critics.whole_image import LocalCritic
from sr_perceptual_loss.errors import InputError

__all__ = ["TextureStats"]

#: Root mean square of a band, in units of [0, 1], below which it counts as flat. Film grain is below it: its absence is
#: hardly visible, and a network rewarded for grain makes dots.
SOFT = 0.015
#: Added to the root mean square of the reference in the weights of the positions, so that flat regions count a little.
BASE = 0.004
#: Maps of HaarPSI.
STRUCTURE = ("structure", "structure weights")


@register_critic
class TextureStats(LocalCritic):
    """score = HaarPSI^c * prod over scales of weighted mean over positions of prod over statistics of their similarity.

    Args:
        scales: octaves of the pyramid, 1 to 4.
        window: sigma of the Gaussian windows, in pixels of each level.
        statistics: which to compare, out of ``energy``, ``shape``, ``orientation``, ``scale``, ``colour``, ``grid`` and
            ``lattice``; ``energy`` is always compared.
        structure_weight: exponent c of HaarPSI, which keeps texture in its position, >= 0.
        weighting: a position has the weight (root mean square of the reference's bands)^weighting; 0: equal weights.

    Raises:
        InputError: a wrong argument.
    """

    card = CriticCard(
        name="texture_stats",
        paper="own formula after Portilla & Simoncelli 2000, DISTS 2020 and HaarPSI 2018",
        input_size=SizeRule(minimum=64),
        score_range=(0.0, 1.0),
        relative=False,
        notes=(
            "Own formula; no published values to compare with.",
            "It demands texture of the right strength near the right place, not the reference's pixels: the larger its "
            "share of the gradient, the more detail and the less PSNR (docs/texture_stats.md has both, measured).",
            "Not validated on opinion scores of SR outputs.",
        ),
        needs_weights=False,
        learned_from="nothing",
        cost=".07",
        good_at="crisper texture near the right place",
        bad_at="PSNR falls; alone and strong it paints blocks",
    )

    def __init__(
        self,
        scales: int = 3,
        window: float = 3.0,
        statistics: Sequence[str] = STATISTICS,
        structure_weight: float = 2.0,
        weighting: float = 1.0,
    ) -> None:
        scales = as_int("scales", scales, minimum=1)
        if scales > 4:
            raise InputError(f"scales: got {scales}, expected 1 to 4: 64 pixels have no more octaves to compare.")
        if isinstance(statistics, str):
            raise InputError(f"statistics: got the text {statistics!r}, expected a list such as [energy, grid].")
        super().__init__(
            {
                "scales": scales,
                "window": as_float("window", window, minimum=0.5),
                "statistics": [check_choice("statistics", name, STATISTICS) for name in statistics],
                "structure_weight": as_float("structure_weight", structure_weight, minimum=0),
                "weighting": as_float("weighting", weighting, minimum=0),
            }
        )
        self.scales, self.statistics = scales, tuple(statistics)
        self.window: float = self.config["window"]
        self.structure_weight: float = self.config["structure_weight"]
        self.weighting: float = self.config["weighting"]
        # Multiple of the steps of all grids: cells of 3 and 4 pixels, windows of 4 pixels at the coarsest scale.
        self.align = 3 * 2 ** max(3, scales + 1)
        # 5 sigma of the windows at the coarsest scale, with what the pyramid adds, and of the cells at the finest one.
        reach = max(2 ** (scales - 1) * (5 * self.window + 12), 90)
        self.halo = math.ceil(reach / self.align) * self.align

    def _texture(self, image: Tensor) -> list[dict[str, Tensor]]:
        """Statistics per scale, finest first."""
        levels = pyramid(image, self.scales)
        coarser: list[Bands | None] = [*levels[1:], None]
        return [
            measure(level, coarser[number], self.statistics, self.window, finest=number == 0)
            for number, level in enumerate(levels)
        ]

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return (haarpsi.features(hr), *(value for level in self._texture(hr) for value in level.values()))

    def _maps(self, sr: Tensor, target: TargetFeatures) -> dict[str, Tensor]:
        """Of HaarPSI; and per scale the weights of the positions, and the similarity of each statistic."""
        remaining = list(target[1:])
        maps = dict(zip(STRUCTURE, haarpsi.local_maps(haarpsi.features(sr), target[0]), strict=True))
        for level, statistics in enumerate(self._texture(sr)):
            reference = {name: remaining.pop(0) for name in statistics}
            energy = reference["energy"].square().mean(1, keepdim=True).sqrt()
            maps[f"{level}"] = (energy + BASE) ** self.weighting
            maps |= {f"{level} {name}": value for name, value in similarity(statistics, reference, SOFT).items()}
        return maps

    def _products(self, maps: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Per scale the product of the similarities at each position, and the weights of the positions."""
        for level in range(self.scales):
            weights = maps[f"{level}"]
            product = torch.ones_like(weights)
            for name, value in maps.items():
                if name.startswith(f"{level} "):
                    if value.shape[-2:] != weights.shape[-2:]:
                        # "scale", "grid" and "lattice" have coarser grids.
                        value = F.interpolate(value, size=weights.shape[-2:], mode="bilinear", align_corners=False)
                    product = product * value
            yield product, weights

    def pool(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The product over scales and HaarPSI."""
        score = haarpsi.pool(*(maps[name] for name in STRUCTURE)) ** self.structure_weight
        for product, weights in self._products(maps):
            score = score * (product * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))
        # Values above 1 from rounding are clamped; their gradient is kept.
        return score - (score - 1).clamp(min=0).detach()

    def _lost(self, sr: Tensor, target: TargetFeatures) -> Sequence[Tensor]:
        """Each factor of the score has the mean -log(factor), so that the means add up to -log(score)."""
        maps = self._maps(sr, target)
        losses = maps[STRUCTURE[0]].sum(1, keepdim=True)
        structure = haarpsi.pool(*(maps[name] for name in STRUCTURE))
        lost = [with_mean(losses, -self.structure_weight * structure.log()[:, None])]
        for product, weights in self._products(maps):
            mean = (product * weights).sum((2, 3)) / weights.sum((2, 3))
            # Less than 1e-6 is rounding.
            lost.append(with_mean((1 - product - 1e-6).clamp(min=0) * weights, -mean.log()))
        return lost
