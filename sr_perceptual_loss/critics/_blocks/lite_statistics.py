"""A compact critic without a learned stem: fixed local statistics of both images, and a small network that weighs them.

How much two images differ is a sum of bounded unlikenesses with learned weights >= 0; which of them looks better is
the network's opinion in (-1, 1). Their product is 0 for equal images and flat around them whatever the network thinks,
so there is little to gain by changing an image that already looks like its reference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_perceptual_loss.critics import haarpsi
from sr_perceptual_loss.critics._blocks.texture_bands import LUMA_BANDS, OPPONENT, ORIENTED, pyramid
from sr_perceptual_loss.critics._blocks.texture_measures import PAIRS, PERIODS
from sr_perceptual_loss.functional.lattice import gaussian_means, grid_share, lattice_contrast

__all__ = ["StatisticsRelation"]

LEVELS = 3
#: Tokens stand at every eighth pixel; windows have this sigma, in pixels of the image.
CELL = 8
SIGMA = 5.0
#: Oriented, isotropic and high luma, two colour differences, and all detail of luma, which also holds the Nyquist
#: frequency: the other bands (and HaarPSI) are blind to a checkerboard.
BANDS = LUMA_BANDS + 3
_SHAPES = ORIENTED + 1
# Added to mean squares in quotients: one and two 8-bit steps. Below there is nothing to see.
_FLOOR = (1 / 255) ** 2
_SOFT = (2 / 255) ** 2
# Difference of local means that counts as half unlike.
_TONE = 0.1
#: Statistics of one image per token: per level logarithms of energies, shapes, skewness, correlations; tones; lattices.
OWN = LEVELS * (BANDS + _SHAPES + 1 + len(PAIRS)) + 3 + 2 * len(PERIODS)
#: Unlikenesses per token: structure and energy of the bands, tones, HaarPSI and its root.
UNLIKE = 2 * LEVELS * BANDS + 3 + 2
# Size of the signed differences at the network's entry, and the constant that keeps the root of 1 - HaarPSI smooth.
_SIGNED = 6.0
_ROOT = 1e-3


def _means(x: Tensor, level: int) -> Tensor:
    return gaussian_means(x, SIGMA / 2**level, CELL >> level)


def _own_of_level(bands: Tensor, energy: Tensor, level: int) -> Tensor:
    """(N, BANDS, h, w) bands and their local mean squares -> their statistics, (N, BANDS + 10, H/8, W/8)."""
    root = (energy + _FLOOR).sqrt()
    size = (bands[:, :_SHAPES].square() + _FLOOR).sqrt()
    products = [size, bands[:, ORIENTED : ORIENTED + 1] * size[:, ORIENTED:]]
    products += [bands[:, i : i + 1] * bands[:, j : j + 1] for i, j in PAIRS]
    shapes, skewed, crossed = _means(torch.cat(products, 1), level).split([_SHAPES, 1, len(PAIRS)], 1)
    scales = torch.cat([root[:, i : i + 1] * root[:, j : j + 1] for i, j in PAIRS], 1)
    return torch.cat(
        [
            (root.log() + 4) / 2,  # about 0 +- 1 for photographs
            3 * (shapes / root[:, :_SHAPES] - 0.7),
            2 * skewed / root[:, ORIENTED : ORIENTED + 1].square(),
            crossed / scales,
        ],
        1,
    )


class StatisticsRelation(nn.Module):
    """f = mean over tokens of D tanh(q(a | b) - q(b | a)), weighted with softplus(v(a | b) + v(b | a)).

    D = 1 - exp(-sum of learned weights >= 0 times unlikenesses).

    Args:
        dim: width of the network.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(2 * OWN + UNLIKE, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 2)
        )
        # softplus(-1.8) = 0.15: distortions of medium strength begin at about their label.
        self.weights = nn.Parameter(torch.full((UNLIKE,), -1.8))

    def features(self, image: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) in [0, 1] -> bands and energies of each level, own statistics, HaarPSI's features."""
        found, own = [], []
        levels = pyramid(image, LEVELS)
        for level, part in enumerate(levels):
            bands = torch.cat([part.luma, part.colour, part.detail[:, :1]], 1)
            energy = _means(bands.square(), level)
            found += [bands, energy]
            own.append(_own_of_level(bands, energy, level))
        tones = gaussian_means(torch.einsum("oc,nchw->nohw", image.new_tensor(OPPONENT), image), SIGMA, CELL)
        luma = levels[0].detail[:, :1]
        seen = [measure(luma, period) for period in PERIODS for measure in (grid_share, lattice_contrast)]
        size = tones.shape[-2:]
        lattices = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in seen]
        return (*found, torch.cat([*own, 2 * tones, *lattices], 1), *haarpsi.features(image))

    def unlike(self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
        """(N, UNLIKE, H/8, W/8), 0 where nothing differs, the same when the images swap."""
        found = []
        for level in range(LEVELS):
            (x, energy_x), (y, energy_y) = (part[2 * level : 2 * level + 2] for part in (first, second))
            total = energy_x + energy_y + _SOFT
            found.append((total - 2 * _means(x * y, level) - _SOFT) / total)
            # The roots' constant keeps their slope finite.
            roots = ((energy_x + _FLOOR) * (energy_y + _FLOOR)).sqrt()
            found.append(1 - (2 * roots + _SOFT) / (total + 2 * _FLOOR))
        at = 2 * LEVELS
        tones = slice(OWN - 3 - 2 * len(PERIODS), OWN - 2 * len(PERIODS))
        gap = (first[at][:, tones] - second[at][:, tones]).square() / 4
        found.append(gap / (gap + _TONE**2))
        distance = 1 - haarpsi.compare((first[at + 1], first[at + 2]), (second[at + 1], second[at + 2]))
        root = (distance + _ROOT**2).sqrt() - _ROOT
        found.append(torch.stack([distance, root], 1)[:, :, None, None].expand(-1, -1, *gap.shape[-2:]))
        return torch.cat(found, 1)

    def forward(self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Features of both images -> (N, H/8, W/8) opinions times distance, and the logits of their weights."""
        unlike = self.unlike(first, second)
        own_a, own_b = first[2 * LEVELS], second[2 * LEVELS]
        gap = _SIGNED * (own_a - own_b)
        inputs = torch.cat([torch.cat([own_a, unlike, gap], 1), torch.cat([own_b, unlike, -gap], 1)])
        found = self.head(inputs.movedim(1, -1)).to(inputs.dtype)
        (quality_a, weight_a), (quality_b, weight_b) = (half.unbind(-1) for half in found.chunk(2))
        distance = 1 - torch.exp(-(F.softplus(self.weights)[:, None, None] * unlike).sum(1))
        return distance * torch.tanh(quality_a - quality_b), weight_a + weight_b
