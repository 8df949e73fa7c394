"""Labels of versions: human means where there are any, anchors for SR families, a fused measure where neither speaks.

All labels are on the scale (KADID-10k score - 1) / 4. Where they come from, in the order of trust:

1. KADID-10k's types: mean of the published scores of this type and level, plus 0.6 times how far the fused measure of
   this picture is from the mean of its cell.
2. Enlargements and over-smoothing: the same table's Gaussian blur of equal strength. The strength was measured: bicubic
   enlargement by s is nearest to a blur of sigma 0.45 s (bilinear 0.52 s, Lanczos 0.41 s) on CID22 crops.
3. Noise and patterns: the same table's white noise of equal power; patterns count 1.5 times: they are easier seen.
4. Invented texture and warped detail: chosen by hand, so that texture of the right energy is above blur by 0.15 and
   detail moved by less than a pixel is close to GT. Fused measures say the opposite and would teach blur.
5. Everything else (aliasing, back-projection, sharpening, second-order degradations, mixtures): the fused measure.
6. Outputs of networks and attacked images: label of the starting image plus the change of the fused measure, less what
   white noise of the power that was added would cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from sr_perceptual_loss.training.distortions import LEVELS, SR_DISTORTIONS
from sr_perceptual_loss.training.distortions.level_table import LevelMean
from sr_perceptual_loss.training.lite.measures import PRISTINE_LABEL, Fusion
from sr_perceptual_loss.training.lite.versions import KADID, MIXED, NETWORK, PRISTINE, SR, Recipe

__all__ = ["LABEL_SOURCES", "Labels"]

#: For headers and cards, one sentence each.
LABEL_SOURCES = (
    "KADID-10k types: mean published score per type and level (Lin, Hosu, Saupe 2019), not ratings of these pictures.",
    "Content residual: 0.6 x (HaarPSI and RMS error fused by non-negative least squares, less the cell mean).",
    "Enlarged and over-smoothed: KADID-10k Gaussian blur of equal strength. Noise, patterns, seams: its white noise.",
    "Invented texture, warped detail: anchors chosen by hand (right texture over blur by 0.15).",
    "Other SR families, mixtures: the fused measure. Networks and attacks: change of the fused measure, noise penalty.",
)

_RESIDUAL = 0.6
_RESIDUAL_LIMIT = 0.12
_IDENTICAL = 0.5 / 255
# Standard deviations of KADID-10k's Gaussian blur and white noise by level.
_BLUR = (0.1, 0.5, 1.0, 2.0, 5.0)
_NOISE = tuple(math.sqrt(v) for v in (0.001, 0.002, 0.003, 0.005, 0.01))
# Half a step of 8 bits: what nobody sees.
_UNSEEN = 0.002
_SIGMA_PER_SCALE = {101: 0.45, 102: 0.52, 103: 0.45, 104: 0.41, 106: 0.45, 109: 0.45}
# Nearest neighbour and stairs look worse than bicubic of the same scale, edge-keeping smoothing better.
_OFFSET = {101: -0.08, 106: -0.04, 109: 0.05}
_NOISE_FACTOR = {113: 1.5, 114: 1.5, 115: 1.5, 116: 1.5, 117: 1.0}
_TEXTURE_BONUS = (0.05, 0.10, 0.15, 0.05, -0.15)
_TEXTURE_SCALE = 3.0
_WARPED = (0.93, 0.90, 0.84, 0.65, 0.45)
_NETWORK_SCALE = 4.0


class Labels:
    """Label of every recipe.

    Args:
        table: human means of :func:`level_means`.
        fusion: calibrated full-reference measure; None while it is being fitted.
    """

    def __init__(self, table: Mapping[tuple[int, int], LevelMean], fusion: Fusion | None = None) -> None:
        self.fusion = fusion
        self.cells = {key: (cell.mean - 1) / 4 for key, cell in table.items()}
        self._blur = self._curve(1, _BLUR)
        self._noise = self._curve(11, _NOISE)

    def _curve(self, kind: int, strengths: Sequence[float]) -> Callable[[float], float]:
        """Label against the logarithm of a strength, from unseen to the strongest level and on at the last slope."""
        places = [math.log(_UNSEEN), *(math.log(s) for s in strengths)]
        values = [PRISTINE_LABEL, *(self.cells[kind, level] for level in LEVELS)]
        return lambda strength: float(np.interp(math.log(max(strength, _UNSEEN)), places, values))

    def noise_cost(self, rms: float) -> float:
        """What white noise of this RMS costs; 0 for what nobody sees."""
        return PRISTINE_LABEL - self._noise(rms)

    def pattern_cost(self, rms: float) -> float:
        """What a periodic pattern of this RMS costs."""
        return 1.5 * self.noise_cost(rms)

    def anchor(self, number: int, level: int) -> float | None:
        """Label of an SR family at a level, or None where only the fused measure has a say."""
        strength = SR_DISTORTIONS[number].parameters[level - 1]
        if number in _SIGMA_PER_SCALE:
            return self._blur(_SIGMA_PER_SCALE[number] * strength) + _OFFSET.get(number, 0.0)
        if number in _NOISE_FACTOR:
            return PRISTINE_LABEL - _NOISE_FACTOR[number] * self.noise_cost(strength)
        if number == 118:
            smooth = self._blur(_SIGMA_PER_SCALE[109] * _TEXTURE_SCALE) + _OFFSET[109]
            return smooth + _TEXTURE_BONUS[level - 1]
        return _WARPED[level - 1] if number == 119 else None

    def of(self, recipe: Recipe, fused: float, rms: float, fused_bicubic: float = math.nan) -> float:
        """Label of one version.

        Args:
            recipe: how it was made.
            fused: fused measure of it.
            rms: its RMS error to the crop.
            fused_bicubic: for a network's output: fused measure of plain bicubic enlargement by 4.

        Returns:
            Label in [0, 0.95].
        """
        if recipe.kind == PRISTINE or rms < _IDENTICAL:
            return PRISTINE_LABEL
        if recipe.kind == KADID:
            value = self.cells[recipe.number, recipe.level] + self._residual(recipe, fused)
        elif recipe.kind == SR:
            anchor = self.anchor(recipe.number, recipe.level)
            value = fused if anchor is None else anchor + self._residual(recipe, fused)
        elif recipe.kind == NETWORK:
            value = self.network_start + fused - fused_bicubic
        else:
            assert recipe.kind == MIXED
            parts = [self.cells[recipe.second, recipe.second_level]]
            anchor = self.anchor(recipe.number, recipe.level)
            parts += [] if anchor is None else [anchor]
            value = min(fused, *parts)
        return min(max(value, 0.0), PRISTINE_LABEL)

    @property
    def network_start(self) -> float:
        """Label of bicubic enlargement by 4, which the small networks start from."""
        return self._blur(_SIGMA_PER_SCALE[103] * _NETWORK_SCALE)

    def _residual(self, recipe: Recipe, fused: float) -> float:
        assert self.fusion is not None
        mean = self.fusion.cells.get((recipe.number, recipe.level))
        if mean is None:
            return 0.0
        return min(max(_RESIDUAL * (fused - mean), -_RESIDUAL_LIMIT), _RESIDUAL_LIMIT)

    def corrected(self, start: Sequence[float], before: Tensor, after: Tensor) -> list[float]:
        """Labels of images that an attack changed.

        Args:
            start: N labels before the attack.
            before: (N, 2) distances of the starting images to their reference.
            after: (N, 2) distances of the attacked ones.

        Returns:
            start + change of the fused measure, less the cost of noise with the power that was added.
        """
        assert self.fusion is not None
        found = []
        rows = zip(start, self.fusion(before), self.fusion(after), before, after, strict=True)
        for label, was, now, old, new in rows:
            added = math.sqrt(max(0.0, float(new[-1]) ** 2 - float(old[-1]) ** 2))
            found.append(min(max(label + now - was - self.noise_cost(added), -0.2), PRISTINE_LABEL))
        return found
