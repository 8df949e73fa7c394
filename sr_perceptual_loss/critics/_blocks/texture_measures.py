"""Local texture statistics of band-pass channels, and how alike two sets of them are.

All statistics are means in overlapping Gaussian windows, so they do not care where exactly a stroke lies. They are the
kinds of Portilla & Simoncelli (2000): marginal (energy, skewness, kurtosis), correlations between orientations and
between scales, and auto-correlation, in bounded forms whose gradients stay finite on flat regions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics._blocks.texture_bands import ORIENTED, Bands, blur, gaussian

__all__ = ["STATISTICS", "Window", "likeness", "measure"]

STATISTICS = ("energy", "shape", "orientation", "scale", "periodicity", "colour", "rest", "grid")

#: Root mean squares are taken of x^2 + FLOOR^2: a quarter of an 8-bit step, below which there is no texture.
FLOOR = 1e-3
#: Pairs of bands whose local correlation is kept: directions at right angles, and the isotropic band against the axes.
_PAIRS = ((0, 1), (2, 3), (0, 4), (1, 4))
#: Shifts (down, right) of the isotropic band's auto-correlation: the grids that x2 and x4 up-sampling heads can draw.
_SHIFTS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 2), (0, 3), (3, 0), (0, 4), (4, 0), (4, 4))


#: Periods of grids that are looked for: 4 (with it 2) of x2 and x4 heads, 3 of x3 heads.
GRID_PERIODS = (3, 4)
_GRIDS = tuple(f"grid_{period}" for period in GRID_PERIODS)
#: Sigma in cells of the windows over which a grid's phases are averaged; content averages out, a fixed pattern stays.
_CELLS = 1.5
#: Root mean square of a pattern below which it cannot be seen: half an 8-bit step.
_INVISIBLE = 2e-3


class Window:
    """Mean over a Gaussian window, at every second position.

    Pairs are averaged first and the Gaussian acts on half the size, a quarter of the work of one at full size.

    Args:
        sigma: of the Gaussian in pixels of its level.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma / 2

    def __call__(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        half = F.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)
        radius = min(max(1, round(2.33 * self.sigma)), min(half.shape[-2:]) - 1)
        return blur(half, gaussian(self.sigma, radius, half))


def _rms(square_mean: Tensor) -> Tensor:
    return (square_mean + FLOOR * FLOOR).sqrt()


def _smooth_abs(x: Tensor) -> Tensor:
    return (x * x + FLOOR * FLOOR).sqrt()


def _shifted(band: Tensor, shift: tuple[int, int], padded: Tensor) -> Tensor:
    """The band moved up and left by whole pixels."""
    (down, right), (height, width) = shift, band.shape[-2:]
    return padded[..., down : down + height, right : right + width]


def _products(bands: Bands, wanted: tuple[str, ...]) -> dict[str, Tensor]:
    """What the windows average, by statistic; one call for all of them is a third cheaper than one for each."""
    luma = bands.luma
    found = {"energy": luma * luma}
    if "shape" in wanted:
        size = _smooth_abs(luma)
        found["shape"] = torch.cat([size, luma[:, ORIENTED:] * size[:, ORIENTED:]], 1)
    if "orientation" in wanted:
        found["orientation"] = torch.cat([luma[:, i : i + 1] * luma[:, j : j + 1] for i, j in _PAIRS], 1)
    if "periodicity" in wanted:
        isotropic = luma[:, ORIENTED:]
        reach = max(max(shift) for shift in _SHIFTS)
        padded = F.pad(isotropic, (0, reach, 0, reach), mode="reflect")
        found["periodicity"] = torch.cat([isotropic * _shifted(isotropic, s, padded) for s in _SHIFTS], 1)
    if "colour" in wanted:
        found["colour"] = bands.colour * bands.colour
    if "rest" in wanted:
        found["rest"] = bands.rest * bands.rest
    return found


def _pattern(detail: Tensor, period: int) -> Tensor:
    """Root mean square of what repeats with this period at the same phase over a neighbourhood; (N, C, h/p, w/p)."""
    height, width = (side // period * period for side in detail.shape[-2:])
    phases = F.pixel_unshuffle(detail[..., :height, :width], period)
    radius = min(round(2 * _CELLS), min(phases.shape[-2:]) - 1)
    means = blur(phases, gaussian(_CELLS, radius, detail)).unflatten(1, (detail.shape[1], period * period))
    means = means - means.mean(2, keepdim=True)
    return (means.square().mean(2) + FLOOR * FLOOR).sqrt()


def measure(
    bands: Bands, coarser: Bands | None, wanted: tuple[str, ...], window: Window, *, finest: bool = True
) -> dict[str, Tensor]:
    """Local statistics of one level of the pyramid.

    Args:
        bands: this level.
        coarser: the next level; None for the last one, which then has no ``scale`` statistic.
        wanted: names out of :data:`STATISTICS`; ``energy`` is always computed.
        window: where means are taken.
        finest: whether this is the finest level, the only one with the ``grid`` statistics.

    Returns:
        Name -> (N, C, h, w): ``energy`` and ``colour`` as root mean squares; the others without unit, in about [-1, 1]:
        ``shape`` (mean |x| over root mean square, which falls with kurtosis, and mean x|x| over mean square of the
        isotropic band, signed as its skewness), ``orientation`` (correlations between directions), ``periodicity``
        (auto-correlation of the isotropic band: a grid of period p shows at every shift of p), ``scale``; ``grid_3``
        and ``grid_4``: root mean squares of what repeats at the same phase, on the coarser grid of its cells.
    """
    products = _products(bands, wanted)
    means = window(torch.cat(list(products.values()), 1)).split([p.shape[1] for p in products.values()], 1)
    mean = dict(zip(products, means, strict=True))
    rms = _rms(mean["energy"])
    found = {"energy": rms}
    if "shape" in mean:
        found["shape"] = mean["shape"] / torch.cat([rms, rms[:, ORIENTED:].square()], 1)
    if "orientation" in mean:
        found["orientation"] = mean["orientation"] / torch.cat(
            [rms[:, i : i + 1] * rms[:, j : j + 1] for i, j in _PAIRS], 1
        )
    if "periodicity" in mean:
        found["periodicity"] = mean["periodicity"] / rms[:, ORIENTED:].square()
    if "scale" in wanted and coarser is not None:
        found["scale"] = _across_scales(bands.luma, coarser.luma, window)
    if "grid" in wanted and finest:
        found.update({f"grid_{period}": _pattern(bands.detail, period) for period in GRID_PERIODS})
    for name in ("colour", "rest"):
        if name in mean:
            found[name] = _rms(mean[name])
    return found


def _across_scales(fine: Tensor, coarse: Tensor, window: Window) -> Tensor:
    """Correlation of the magnitudes of a band and of the same band one octave below, on the coarser grid."""
    a = F.avg_pool2d(_smooth_abs(fine), 2, ceil_mode=True, count_include_pad=False)
    b = _smooth_abs(coarse)
    products, squares, others = window(torch.cat([a * b, a * a, b * b], 1)).chunk(3, 1)
    return products / (_rms(squares) * _rms(others))


def likeness(sr: Mapping[str, Tensor], hr: Mapping[str, Tensor], soft: float, grid_weight: float) -> dict[str, Tensor]:
    """How alike the statistics of two pictures are, place by place.

    * Root mean squares e (sr), E (hr): (2 e E + soft^2) / (e^2 + E^2 + soft^2), which depends on their ratio and
      saturates when one of them is far off. Of ``rest`` and ``grid`` only the excess over ``hr`` counts: energy above
      the bands and fixed patterns are never asked for.
    * ``periodicity``: 1 / (1 + grid_weight * sum of squared differences), so that one strong period is not averaged
      away among the others.
    * The other statistics: 1 - |difference| / 2, rounded off at 0.

    Args:
        sr: :func:`measure` of the judged picture.
        hr: the same of the reference.
        soft: root mean square below which a difference of energies stops to matter.
        grid_weight: how much differences of ``periodicity`` count.

    Returns:
        Name -> (N, 1, h, w) in (0, 1], 1 for equal statistics; the mean over the channels of each statistic.
    """
    found = {}
    for name, a in sr.items():
        b = hr[name]
        if name in ("energy", "colour", "rest") or name in _GRIDS:
            a = torch.maximum(a, b) if name not in ("energy", "colour") else a
            c = (_INVISIBLE if name in _GRIDS else soft) ** 2
            same = (2 * a * b + c) / (a * a + b * b + c)
        elif name == "periodicity":
            same = 1 / (1 + grid_weight * (a - b).square().sum(1, keepdim=True))
        else:
            # sqrt(d^2 + r^2) - r: |d| with a round tip, so that the gradient does not jump where they agree.
            same = 1 - (((a - b).square() + 1e-4).sqrt() - 1e-2) / 2
        found[name] = same.mean(1, keepdim=True)
    return found
