"""Local texture statistics of band-pass channels, and their similarity between two images.

All statistics are means in overlapping Gaussian windows, so the exact position of a detail does not matter. They are
those of Portilla & Simoncelli (2000): marginal (energy, skewness, kurtosis), correlations between orientations and
between scales, in bounded forms whose gradients stay finite on flat regions; and two of our own for patterns tied to
the lattice of an up-sampling network (:mod:`sr_perceptual_loss.ops.lattice`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.texture_stats.bands import ORIENTED, Bands
from sr_perceptual_loss.ops.lattice import gaussian_means, grid_share, lattice_excess

__all__ = ["STATISTICS", "measure", "similarity"]

STATISTICS = ("energy", "shape", "orientation", "scale", "colour", "grid", "lattice")

#: A root mean square is sqrt(mean of x^2 + FLOOR^2). A quarter of an 8-bit step: there is no texture below it.
FLOOR = 1e-3
#: Pairs of bands whose local correlation is measured: directions at right angles, the isotropic band against the axes.
PAIRS = ((0, 1), (2, 3), (0, 4), (1, 4))
#: Periods of patterns: 4 (which includes 2) from x2 and x4 upsamplers, 3 from x3 upsamplers.
PERIODS = (3, 4)
#: Distance of the windows in pixels of a level.
STEP = 4
#: Statistics that only penalise an excess -> value that random texture has, below which nothing is penalised.
_CHANCE = {"grid": 0.006, "lattice": 0.05}


def _rms(square_mean: Tensor) -> Tensor:
    return (square_mean + FLOOR * FLOOR).sqrt()


def _products(bands: Bands, statistics: tuple[str, ...]) -> dict[str, Tensor]:
    """Products to average in the windows, by statistic; averaging all in one call saves a third of the time."""
    luma = bands.luma
    products = {"energy": luma * luma}
    if "shape" in statistics:
        shaped = luma[:, : ORIENTED + 1]
        magnitude = _rms(shaped * shaped)
        products["shape"] = torch.cat([magnitude, shaped[:, ORIENTED:] * magnitude[:, ORIENTED:]], 1)
    if "orientation" in statistics:
        products["orientation"] = torch.cat([luma[:, i : i + 1] * luma[:, j : j + 1] for i, j in PAIRS], 1)
    if "colour" in statistics:
        products["colour"] = bands.colour * bands.colour
    return products


def measure(
    bands: Bands, coarser: Bands | None, statistics: tuple[str, ...], sigma: float, *, finest: bool = True
) -> dict[str, Tensor]:
    """Local statistics of one level of the pyramid.

    Args:
        bands: this level.
        coarser: the next level; None for the last one, which then has no ``scale`` statistic.
        statistics: names out of :data:`STATISTICS`; ``energy`` is always computed.
        sigma: of the Gaussian windows, in pixels of this level.
        finest: whether this is the finest level, the only one with the ``grid`` and ``lattice`` statistics.

    Returns:
        Name -> (N, C, h, w): ``energy`` and ``colour`` as root mean squares; the others without unit: ``shape`` (mean
        |x| over root mean square, which falls with kurtosis, and mean x|x| over mean square of the isotropic band,
        signed as its skewness), ``orientation`` (correlations between directions), ``scale``; ``grid_3``, ``grid_4``,
        ``lattice_3`` and ``lattice_4`` on the coarser grid of their cells.
    """
    products = _products(bands, statistics)
    means = gaussian_means(torch.cat(list(products.values()), 1), sigma, STEP)
    mean = dict(zip(products, means.split([p.shape[1] for p in products.values()], 1), strict=True))
    rms = _rms(mean["energy"])
    result = {"energy": rms}
    if "shape" in mean:
        isotropic = rms[:, ORIENTED : ORIENTED + 1].square()
        result["shape"] = mean["shape"] / torch.cat([rms[:, : ORIENTED + 1], isotropic], 1)
    if "orientation" in mean:
        scale = torch.cat([rms[:, i : i + 1] * rms[:, j : j + 1] for i, j in PAIRS], 1)
        result["orientation"] = mean["orientation"] / scale
    if "scale" in statistics and coarser is not None:
        result["scale"] = _across_scales(bands.luma[:, : ORIENTED + 1], coarser.luma[:, : ORIENTED + 1], sigma)
    if "colour" in mean:
        result["colour"] = _rms(mean["colour"])
    if finest:
        for name, function in (("grid", grid_share), ("lattice", lattice_excess)):
            if name in statistics:
                result.update({f"{name}_{period}": function(bands.detail, period) for period in PERIODS})
    return result


def _across_scales(fine: Tensor, coarse: Tensor, sigma: float) -> Tensor:
    """Correlation of the magnitudes of a band and of the same band one octave below, on the coarser grid."""
    a = F.avg_pool2d(_rms(fine * fine), 2, ceil_mode=True, count_include_pad=False)
    b = _rms(coarse * coarse)
    products, a_squares, b_squares = gaussian_means(torch.cat([a * b, a * a, b * b], 1), sigma, STEP).chunk(3, 1)
    return products / (_rms(a_squares) * _rms(b_squares))


def _ratio(a: Tensor, b: Tensor, soft: float) -> Tensor:
    """(2 a b + soft^2) / (a^2 + b^2 + soft^2)."""
    return (2 * a * b + soft * soft) / (a * a + b * b + soft * soft)


def similarity(sr: Mapping[str, Tensor], hr: Mapping[str, Tensor], soft: float) -> dict[str, Tensor]:
    """Similarity of the statistics of two images at each position.

    * ``energy``, ``colour``: root mean squares e (sr), E (hr): (2 e E + soft^2) / (e^2 + E^2 + soft^2), which depends
      on their ratio and saturates when one of them is far off.
    * ``grid``, ``lattice``: the same, but only an excess over ``hr`` and over the value of random texture counts.
    * The other statistics: 1 - |difference| / 2, rounded off at 0.

    Args:
        sr: :func:`measure` of the SR (distorted) image.
        hr: the same of the reference.
        soft: root mean square below which a difference of energies no longer matters.

    Returns:
        Name -> (N, 1, h, w) in (0, 1], 1 for equal statistics; the mean over the channels of each statistic.
    """
    result = {}
    for name, a in sr.items():
        b = hr[name]
        chance = _CHANCE.get(name.split("_")[0])
        if chance is not None:
            b = b.clamp(min=chance)
            value = _ratio(torch.maximum(a, b), b, chance)
        elif name in ("energy", "colour"):
            value = _ratio(a, b, soft)
        else:
            # sqrt(d^2 + r^2) - r is |d|, but smooth at 0, so that the gradient does not jump where both agree.
            value = 1 - (((a - b).square() + 1e-4).sqrt() - 1e-2) / 2
        # Dots in one channel are not made up for by clean ones.
        result[name] = value.prod(1, keepdim=True) if name.startswith("lattice") else value.mean(1, keepdim=True)
    return result
