"""texture_stats: local texture statistics times structure. No weights; rewards texture that looks like GT's.

A pixel or structural measure asks a network to draw every hair where GT has it; what it cannot know it must blur. This
critic asks for hair of the right strength, direction, contrast and scale near the right place. It compares statistics
with those of GT, so GT itself cannot be beaten.

Source: statistics after Portilla, Simoncelli, "A parametric texture model based on joint statistics of complex wavelet
coefficients", IJCV 40 (2000), in bounded local forms; the split into structure and texture after Ding, Ma, Wang,
Simoncelli, "Image quality assessment: unifying structure and texture similarity" (DISTS), TPAMI 2020; ``distance: swd``
after He et al., "Multiscale sliced Wasserstein distances" (MS-SWD), ECCV 2024. Formula and constants are our own; how
they were chosen is in docs/texture_stats.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from sr_perceptual_loss.checks import as_float, as_int, check_choice
from sr_perceptual_loss.critics import haarpsi
from sr_perceptual_loss.critics.base import Critic, CriticCard, SizeRule, TargetFeatures
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.critics.texture_stats.bands import Bands, pyramid
from sr_perceptual_loss.critics.texture_stats.measures import STATISTICS, Window, likeness, measure
from sr_perceptual_loss.critics.texture_stats.sliced_wasserstein import sliced_likeness, slices
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops.ssim import ssim

__all__ = ["TextureStats"]

DISTANCES = ("statistics", "swd")
STRUCTURES = ("haarpsi", "coarse_ssim", "none")
#: Root mean square of a band, in units of [0, 1], below which it counts as flat. Film grain is below it: nobody misses
#: it, and a network that is asked for it draws dots.
SOFT = 0.015
#: Added to the root mean square of GT where places are weighted, so that flat regions count a little.
BASE = 0.004
#: Side of the windows of ``distance: swd``.
SWD_WINDOW = 16


@register_critic
class TextureStats(Critic):
    """score = structure^c * prod over scales of weighted mean over places of prod over statistics of their likeness.

    Args:
        scales: octaves of the pyramid, 1 to 4.
        window: sigma of the Gaussian windows, in pixels of each level.
        statistics: which to compare, out of ``energy``, ``shape``, ``orientation``, ``scale``, ``colour``, ``grid`` and
            ``lattice``; ``energy`` is always compared.
        distance: ``statistics``, or ``swd``: sorted values in windows instead of moments and correlations.
        structure: what keeps texture in its place: ``haarpsi`` (at full size), ``coarse_ssim`` (SSIM at a quarter of
            the size), or ``none``.
        structure_weight: exponent c of the structure, >= 0.
        weighting: places count with (root mean square of GT's bands)^weighting; 0 treats all alike.

    Raises:
        InputError: at construction.
    """

    card = CriticCard(
        name="texture_stats",
        paper="own formula after Portilla & Simoncelli 2000, DISTS 2020, HaarPSI 2018 and MS-SWD 2024",
        input_size=SizeRule(minimum=64),
        score_range=(0.0, 1.0),
        relative=False,
        differences=(
            "Own formula; no published values to compare with.",
            "It asks for texture of the right strength near the right place, not for GT's pixels: the larger its share "
            "of the gradient, the more detail and the less PSNR (docs/texture_stats.md has both, measured).",
            "Not validated on people's opinions of SR outputs.",
        ),
        needs_weights=False,
    )

    def __init__(
        self,
        scales: int = 3,
        window: float = 3.0,
        statistics: Sequence[str] = STATISTICS,
        distance: str = "statistics",
        structure: str = "haarpsi",
        structure_weight: float = 2.0,
        weighting: float = 1.0,
    ) -> None:
        self.scales = as_int("scales", scales, minimum=1)
        if self.scales > 4:
            raise InputError(f"scales: got {self.scales}, expected 1 to 4: 64 pixels have no more octaves to compare.")
        self.window = as_float("window", window, minimum=0.5)
        if isinstance(statistics, str):
            raise InputError(f"statistics: got the text {statistics!r}, expected a list such as [energy, grid].")
        for name in statistics:
            check_choice("statistics", name, STATISTICS)
        self.statistics = tuple(statistics)
        self.distance = check_choice("distance", distance, DISTANCES)
        self.structure = check_choice("structure", structure, STRUCTURES)
        self.structure_weight = as_float("structure_weight", structure_weight, minimum=0)
        self.weighting = as_float("weighting", weighting, minimum=0)
        super().__init__(
            {
                "scales": self.scales,
                "window": self.window,
                "statistics": list(self.statistics),
                "distance": self.distance,
                "structure": self.structure,
                "structure_weight": self.structure_weight,
                "weighting": self.weighting,
            }
        )

    @classmethod
    def tiny(cls) -> Self:
        """The critic itself; it has no size."""
        return cls()

    def _texture(self, image: Tensor) -> list[dict[str, Tensor]]:
        """Statistics per scale, finest first."""
        levels = pyramid(image, self.scales)
        if self.distance == "swd":
            return [{"slices": self._slices(level, place)} for place, level in enumerate(levels)]
        window = Window(self.window)
        following: list[Bands | None] = [*levels[1:], None]
        pairs = enumerate(zip(levels, following, strict=True))
        return [measure(a, coarser, self.statistics, window, finest=place == 0) for place, (a, coarser) in pairs]

    @staticmethod
    def _slices(level: Bands, place: int) -> Tensor:
        return slices(torch.cat([level.luma, level.colour], 1), max(4, SWD_WINDOW >> place))

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        texture = [value for level in self._texture(hr) for value in level.values()]
        if self.structure == "haarpsi":
            texture += haarpsi.features(hr)
        return tuple(texture)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        remaining = list(target)
        score = sr.new_ones(len(sr))
        for level in self._texture(sr):
            reference = {name: remaining.pop(0) for name in level}
            score = score * self._alike(level, reference)
        score = score * self._structure(sr, hr, tuple(remaining))
        # Rounding above 1 is cut off in the value, not in the gradient.
        return score - (score - 1).clamp(min=0).detach()

    def _alike(self, sr: Mapping[str, Tensor], hr: Mapping[str, Tensor]) -> Tensor:
        """(N,) likeness at one scale: product over the statistics at each place, weighted mean over the places."""
        if self.distance == "swd":
            return sliced_likeness(sr["slices"], hr["slices"], SOFT)
        product: Tensor | None = None
        for value in likeness(sr, hr, SOFT).values():
            size = sr["energy"].shape[-2:]
            if value.shape[-2:] != size:
                # "scale", "grid" and "lattice" live on coarser grids.
                value = F.interpolate(value, size=size, mode="bilinear", align_corners=False)
            product = value if product is None else product * value
        assert product is not None
        weights = (hr["energy"].square().mean(1, keepdim=True).sqrt() + BASE) ** self.weighting
        return (product * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))

    def _structure(self, sr: Tensor, hr: Tensor, features: TargetFeatures) -> Tensor:
        if self.structure == "none" or self.structure_weight == 0:
            return sr.new_ones(len(sr))
        if self.structure == "haarpsi":
            coefficients, chroma = features
            found = haarpsi.compare(haarpsi.features(sr), (coefficients, chroma))
        else:
            # Below 0 (reversed contrast) a power has no gradient to lead back; the softplus does.
            value = ssim(F.avg_pool2d(sr, 4), F.avg_pool2d(hr, 4))
            found = F.softplus(value, beta=50.0) / F.softplus(value.new_ones(()), beta=50.0)
        return found if self.structure_weight == 1 else found**self.structure_weight
