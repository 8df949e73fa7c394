"""Local texture statistics of band-pass channels, and how alike two sets of them are.

All statistics are means in overlapping Gaussian windows, so they do not care where exactly a stroke lies. They are the
kinds of Portilla & Simoncelli (2000): marginal (energy, skewness, kurtosis), correlations between orientations and
between scales, in bounded forms whose gradients stay finite on flat regions; and two of our own that see patterns tied
to the lattice of an up-sampling head (:mod:`sr_perceptual_loss.ops.lattice`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.texture_stats.bands import ORIENTED, Bands
from sr_perceptual_loss.ops.lattice import gaussian_means, grid_share, lattice_contrast

__all__ = ["PAIRS", "PERIODS", "STATISTICS", "Window", "likeness", "measure"]

STATISTICS = ("energy", "shape", "orientation", "scale", "colour", "grid", "lattice")

#: Root mean squares are taken of x^2 + FLOOR^2: a quarter of an 8-bit step, below which there is no texture.
FLOOR = 1e-3
#: Pairs of bands whose local correlation is kept: directions at right angles, and the isotropic band against the axes.
PAIRS = ((0, 1), (2, 3), (0, 4), (1, 4))
#: Periods of patterns that are looked for: 4 (with it 2) of x2 and x4 heads, 3 of x3 heads.
PERIODS = (3, 4)
#: One-sided statistics -> value above what chance gives, up to which nothing is held against a picture.
_CHANCE = {"grid": 0.006, "lattice": 0.3}


class Window:
    """Mean over a Gaussian window, at every fourth pixel.

    Args:
        sigma: of the Gaussian in pixels of its level.
    """

    step = 4

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 4), ceil(W / 4))."""
        return gaussian_means(image, self.sigma, self.step)


def _rms(square_mean: Tensor) -> Tensor:
    return (square_mean + FLOOR * FLOOR).sqrt()


def _smooth_abs(x: Tensor) -> Tensor:
    return (x * x + FLOOR * FLOOR).sqrt()


def _products(bands: Bands, wanted: tuple[str, ...]) -> dict[str, Tensor]:
    """What the windows average, by statistic; one call for all of them is a third cheaper than one for each."""
    luma = bands.luma
    found = {"energy": luma * luma}
    if "shape" in wanted:
        shaped = luma[:, : ORIENTED + 1]
        size = _smooth_abs(shaped)
        found["shape"] = torch.cat([size, shaped[:, ORIENTED:] * size[:, ORIENTED:]], 1)
    if "orientation" in wanted:
        found["orientation"] = torch.cat([luma[:, i : i + 1] * luma[:, j : j + 1] for i, j in PAIRS], 1)
    if "colour" in wanted:
        found["colour"] = bands.colour * bands.colour
    return found


def measure(
    bands: Bands, coarser: Bands | None, wanted: tuple[str, ...], window: Window, *, finest: bool = True
) -> dict[str, Tensor]:
    """Local statistics of one level of the pyramid.

    Args:
        bands: this level.
        coarser: the next level; None for the last one, which then has no ``scale`` statistic.
        wanted: names out of :data:`STATISTICS`; ``energy`` is always computed.
        window: where means are taken.
        finest: whether this is the finest level, the only one with the ``grid`` and ``lattice`` statistics.

    Returns:
        Name -> (N, C, h, w): ``energy`` and ``colour`` as root mean squares; the others without unit: ``shape`` (mean
        |x| over root mean square, which falls with kurtosis, and mean x|x| over mean square of the isotropic band,
        signed as its skewness), ``orientation`` (correlations between directions), ``scale``; ``grid_3``, ``grid_4``,
        ``lattice_3`` and ``lattice_4`` on the coarser grid of their cells.
    """
    products = _products(bands, wanted)
    means = window(torch.cat(list(products.values()), 1)).split([p.shape[1] for p in products.values()], 1)
    mean = dict(zip(products, means, strict=True))
    rms = _rms(mean["energy"])
    found = {"energy": rms}
    if "shape" in mean:
        isotropic = rms[:, ORIENTED : ORIENTED + 1].square()
        found["shape"] = mean["shape"] / torch.cat([rms[:, : ORIENTED + 1], isotropic], 1)
    if "orientation" in mean:
        found["orientation"] = mean["orientation"] / torch.cat(
            [rms[:, i : i + 1] * rms[:, j : j + 1] for i, j in PAIRS], 1
        )
    if "scale" in wanted and coarser is not None:
        found["scale"] = _across_scales(bands.luma[:, : ORIENTED + 1], coarser.luma[:, : ORIENTED + 1], window)
    if "colour" in mean:
        found["colour"] = _rms(mean["colour"])
    if finest:
        for name, function in (("grid", grid_share), ("lattice", lattice_contrast)):
            if name in wanted:
                found.update({f"{name}_{period}": function(bands.detail, period) for period in PERIODS})
    return found


def _across_scales(fine: Tensor, coarse: Tensor, window: Window) -> Tensor:
    """Correlation of the magnitudes of a band and of the same band one octave below, on the coarser grid."""
    a = F.avg_pool2d(_smooth_abs(fine), 2, ceil_mode=True, count_include_pad=False)
    b = _smooth_abs(coarse)
    products, squares, others = window(torch.cat([a * b, a * a, b * b], 1)).chunk(3, 1)
    return products / (_rms(squares) * _rms(others))


def _ratio(a: Tensor, b: Tensor, soft: float) -> Tensor:
    """(2 a b + soft^2) / (a^2 + b^2 + soft^2)."""
    return (2 * a * b + soft * soft) / (a * a + b * b + soft * soft)


def likeness(sr: Mapping[str, Tensor], hr: Mapping[str, Tensor], soft: float) -> dict[str, Tensor]:
    """How alike the statistics of two pictures are, place by place.

    * ``energy``, ``colour``: root mean squares e (sr), E (hr): (2 e E + soft^2) / (e^2 + E^2 + soft^2), which depends
      on their ratio and saturates when one of them is far off.
    * ``grid``, ``lattice``: the same, but only the excess over ``hr``, and over what chance gives, counts.
    * The other statistics: 1 - |difference| / 2, rounded off at 0.

    Args:
        sr: :func:`measure` of the judged picture.
        hr: the same of the reference.
        soft: root mean square below which a difference of energies stops to matter.

    Returns:
        Name -> (N, 1, h, w) in (0, 1], 1 for equal statistics; the mean over the channels of each statistic.
    """
    found = {}
    for name, a in sr.items():
        b = hr[name]
        chance = _CHANCE.get(name.split("_")[0])
        if chance is not None:
            b = b.clamp(min=chance)
            same = _ratio(torch.maximum(a, b), b, chance)
        elif name in ("energy", "colour"):
            same = _ratio(a, b, soft)
        else:
            # sqrt(d^2 + r^2) - r: |d| with a round tip, so that the gradient does not jump where they agree.
            same = 1 - (((a - b).square() + 1e-4).sqrt() - 1e-2) / 2
        found[name] = same.mean(1, keepdim=True)
    return found
