"""SSIMULACRA 2.1: the metric of Cloudinary and JPEG XL, fitted to people's ratings, as a differentiable critic.

Own code from the published description. Scores of images with sides >= 225 equal those of the PyPI package
``ssimulacra2`` 0.3.0 within 1e-3 in float32 and 1e-9 in float64. What differs:

* Smaller images have fewer than six scales. The published programs then take the first weights of the list, which
  belong to other channels and scales: over crops of 96 pixels their mean correlates with the score of the whole image
  by .24 (SRCC), and here, where each scale keeps its own weights, by .98.
* The covariances are computed from ``sr - hr``, which is exact where both images agree. The published form subtracts
  nearly equal numbers.
* Below zero, sRGB continues linearly and the cube root along its tangent, so that overshoot and black have a gradient.
* The C++ program blurs with a recursive filter and has zeros beyond all four borders. As in the PyPI package, the blur
  here is a Gaussian cut to 11 taps, with zeros beyond the left and right border and mirrored rows above and below.

Source: J. Sneyers, github.com/cloudinary/ssimulacra2, version 2.1 (April 2023). The weights and constants are Copyright
(c) Jon Sneyers, Cloudinary, under the BSD 3-Clause licence; see NOTICE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.base import TargetFeatures
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.maps import with_mean
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.critics.whole_image import LocalCritic

__all__ = ["PARTS", "SSIMULACRA2", "distances", "error_maps", "features", "to_score"]

#: What the distance is made of: differing structure, edges that only ``sr`` has, and edges that only ``hr`` has.
PARTS = ("structure", "ringing", "blur")
SCALES = 6
#: Scales with a smaller side are left out.
SMALLEST = 8

_C2 = 0.0009
_SIGMA, _RADIUS = 1.5, 5
# Response of the three cones to linear RGB, and the light that they see in black.
_ABSORBANCE = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.5518098665095536),
)
_BIAS = 0.0037930732552754493
# Cube roots of the cones -> X, Y, B - Y, with factors and offsets that bring sRGB into [0, 1].
_XYB = ((7.0, -7.0, 0.0), (0.5, 0.5, 0.0), (-0.5, -0.5, 1.0))
_OFFSET = (0.42, 0.01, 0.55)
# One row per channel and scale: mean of the three maps of PARTS, then their 4-norm.
# fmt: off
_WEIGHTS = (
    # X
    0.0, 0.0007376606707406586, 0.0, 0.0, 0.0007793481682867309, 0.0,
    0.0, 0.0004371155730107379, 0.0, 1.1041726426657346, 0.00066284834129271, 0.00015231632783718752,
    0.0, 0.0016406437456599754, 0.0, 1.8422455520539298, 11.441172603757666, 0.0,
    0.0007989109436015163, 0.000176816438078653, 0.0, 1.8787594979546387, 10.94906990605142, 0.0,
    0.0007289346991508072, 0.9677937080626833, 0.0, 0.00014003424285435884, 0.9981766977854967, 0.00031949755934435053,
    0.0004550992113792063, 0.0, 0.0, 0.0013648766163243398, 0.0, 0.0,
    # Y
    0.0, 0.0, 0.0, 7.466890328078848, 0.0, 17.445833984131262,
    0.0006235601634041466, 0.0, 0.0, 6.683678146179332, 0.00037724407979611296, 1.027889937768264,
    225.20515300849274, 0.0, 0.0, 19.213238186143016, 0.0011401524586618361, 0.001237755635509985,
    176.39317598450694, 0.0, 0.0, 24.43300999870476, 0.28520802612117757, 0.0004485436923833408,
    0.0, 0.0, 0.0, 34.77906344483772, 44.835625328877896, 0.0,
    0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    # B - Y
    0.0, 0.0008680556573291698, 0.0, 0.0, 0.0, 0.0,
    0.0, 0.0005313191874358747, 0.0, 0.00016533814161379112, 0.0, 0.0,
    0.0, 0.0, 0.0, 0.0004179171803251336, 0.0017290828234722833, 0.0,
    0.0020827005846636437, 0.0, 0.0, 8.826982764996862, 23.19243343998926, 0.0,
    95.1080498811086, 0.9863978034400682, 0.9834382792465353, 0.0012286405048278493, 171.2667255897307,
    0.9807858872435379,
    0.0, 0.0, 0.0, 0.0005130064588990679, 0.0, 0.00010854057858411537,
)
# fmt: on
# Mapping of the weighted sum to the score: 100 - 10 * (a * s + b * s^2 + c * s^3)^p with s = _FACTOR * sum.
_FACTOR = 0.9562382616834844
_POLYNOMIAL = (2.326765642916932, -0.020884521182843837, 6.248496625763138e-05)
_POWER = 0.6276336467831387
# Too small to change 100. Below it the gradient is 0, as for equal images; without the limit it would be infinite.
_SMALLEST_DISTANCE = 1e-26


def _linear(image: Tensor) -> Tensor:
    """From sRGB to linear RGB; negative values stay on the linear part of the curve."""
    curve = (torch.log((image.clamp(min=0.04045) + 0.055) / 1.055) * 2.4).exp()
    return torch.where(image <= 0.04045, image / 12.92, curve)


def _mix(planes: Tensor, matrix: tuple[tuple[float, float, float], ...], offset: tuple[float, float, float]) -> Tensor:
    """Matrix over the channels plus offset. Not a convolution or product, which may run in TF32 on a GPU."""
    a, b, c = planes.unbind(1)
    rows = [x * a + y * b + z * c + shift for (x, y, z), shift in zip(matrix, offset, strict=True)]
    return torch.stack(rows, dim=1)


def _xyb(linear: Tensor) -> Tensor:
    """Linear RGB -> X, Y, B - Y of the metric."""
    light = _mix(linear, _ABSORBANCE, (0.0, 0.0, 0.0))
    root = (torch.log(light.clamp(min=0) + _BIAS) / 3).exp() - _BIAS ** (1 / 3)
    # No colour in [0, 1] is below 0. The tangent is also what gives black a gradient, which `clamp` does not.
    root = torch.where(light > 0, root, light / (3 * _BIAS ** (2 / 3)))
    return _mix(root, _XYB, _OFFSET)


def _pyramid(image: Tensor) -> list[Tensor]:
    """XYB at each scale; the means of 2x2 pixels are taken in linear RGB."""
    linear = _linear(image)
    scales = [_xyb(linear)]
    while len(scales) < SCALES and (min(linear.shape[2:]) + 1) // 2 >= SMALLEST:
        linear = F.avg_pool2d(linear, 2, ceil_mode=True)
        scales.append(_xyb(linear))
    return scales


def _blur(maps: Tensor) -> Tensor:
    """Gaussian over rows mirrored beyond the border, and over columns with zeros beyond the border."""
    channels = maps.shape[1]
    taps = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64, device=maps.device)
    taps = (-0.5 * (taps / _SIGMA) ** 2).exp()
    kernel = (taps / taps.sum()).to(maps.dtype).view(1, 1, -1, 1).expand(channels, -1, -1, -1)
    maps = torch.cat([maps[:, :, :_RADIUS].flip(2), maps, maps[:, :, -_RADIUS:].flip(2)], dim=2)
    maps = F.conv2d(maps, kernel, groups=channels)
    return F.conv2d(maps, kernel.transpose(2, 3), padding=(0, _RADIUS), groups=channels)


def features(image: Tensor) -> TargetFeatures:
    """The features of the reference that :func:`error_maps` needs.

    Args:
        image: (N, 3, H, W) RGB in [0, 1], sides >= 8.

    Returns:
        Per scale (N, 9, h, w): XYB, its local mean, and its local variance.
    """
    result = []
    for xyb in _pyramid(image):
        mean, square = _blur(torch.cat([xyb, xyb * xyb], dim=1)).chunk(2, dim=1)
        result.append(torch.cat([xyb, mean, square - mean * mean], dim=1))
    return tuple(result)


def error_maps(sr: Tensor, hr: TargetFeatures) -> list[Tensor]:
    """The three error maps of each channel and scale, 0 where both images agree.

    With e = sr - hr, [x] the blurred x and V the local variance, ``structure`` is
    ``1 - (1 - [e]^2) (1 - V(e) / (V(sr) + V(hr) + C2))``; ``ringing`` and ``blur`` are the positive and the negative
    part of ``(1 + |sr - [sr]|) / (1 + |hr - [hr]|) - 1``.

    Args:
        sr: SR (distorted) image, (N, 3, H, W).
        hr: :func:`features` of the reference.

    Returns:
        Per scale (N, 9, h, w): the X, Y and B - Y channel of each of :data:`PARTS`.
    """
    result = []
    for xyb, target in zip(_pyramid(sr), hr, strict=True):
        xyb_hr, mean_hr, variance_hr = target.chunk(3, dim=1)
        error = xyb - xyb_hr
        mean, square, square_error = _blur(torch.cat([xyb, xyb * xyb, error * error], dim=1)).chunk(3, dim=1)
        shift = (mean - mean_hr).square()
        contrast = (square_error - shift) / (square - mean * mean + variance_hr + _C2)
        edges = (1 + (xyb - mean).abs()) / (1 + (xyb_hr - mean_hr).abs()) - 1
        result.append(torch.cat([shift + (1 - shift) * contrast, F.relu(edges), F.relu(-edges)], dim=1))
    return result


def _weights(like: Tensor) -> Tensor:
    """(scale, norm, part, channel), in the dtype of ``like``."""
    return like.new_tensor(_WEIGHTS).view(3, SCALES, 2, 3).permute(1, 2, 3, 0)


def distances(means: Tensor, fourths: Tensor) -> Tensor:
    """Weighted norms of the error maps, summed over channels and scales.

    Args:
        means: mean of each map, (N, scales, 9).
        fourths: mean of its fourth power, same shape.

    Returns:
        (N, 3): the distance of each of :data:`PARTS`; :func:`to_score` takes their sum.
    """
    # The gradient of a map of zeros is 0.
    norms = torch.where(fourths > 0, fourths.clamp(min=1e-36) ** 0.25, 0)
    values = torch.stack([means, norms], dim=2).unflatten(3, (3, 3))  # (N, scale, norm, part, channel)
    return (values * _weights(means)[: means.shape[1]]).sum((1, 2, 4))


def to_score(distance: Tensor) -> Tensor:
    """The published mapping of a weighted sum to 100 for equal images and less for others.

    Args:
        distance: (N,), not negative.

    Returns:
        (N,) scores.
    """
    a, b, c = _POLYNOMIAL
    s = distance * _FACTOR
    return 100 - 10 * (s * (a + s * (b + s * c))).clamp(min=_SMALLEST_DISTANCE) ** _POWER


@register_critic
class SSIMULACRA2(LocalCritic):
    """SSIMULACRA 2.1 = to_score(sum(distances)); 100 for equal images, negative for very bad ones."""

    card = CriticCard(
        name="ssimulacra2",
        paper="Sneyers, SSIMULACRA 2.1, github.com/cloudinary/ssimulacra2, 2023",
        input_size=SizeRule(minimum=SMALLEST),
        score_range=(-1000.0, 100.0),
        relative=False,
        notes=(
            "Fitted to ratings of CID22, TID2013, KADID-10k and KonFiG-IQA: mostly compression, little SR.",
            "Use images and crops of 225 pixels or more; smaller ones lack the coarsest scales.",
            "The gradient of its score is about 7000 times that of L1 and 200 times that of HaarPSI: beside L1 start "
            "with a loss weight of 1e-4, or balance gradients.",
            "Near equal images the gradient grows, and around a score of -64 it nearly vanishes, as published.",
        ),
        needs_weights=False,
        learned_from="opinions: CID22 and three others",
        cost=".03-.04",
        good_at="compression; its terms: structure, ringing, blur",
        bad_at="crops below 225 pixels; its gradient is large",
    )

    # At the coarsest scale a blurred row depends on 5 rows of 32 pixels; 224 keeps six scales in the last strip too.
    halo, align, pools_sums = 224, 32, True
    part_names = PARTS

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return features(hr)

    def _maps(self, sr: Tensor, target: TargetFeatures) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = {}
        for scale, errors in enumerate(error_maps(sr, target)):
            ones = errors.new_ones(()).expand(len(errors), 1, *errors.shape[2:])
            maps |= {f"errors {scale}": errors, f"fourths {scale}": errors.square().square(), f"pixels {scale}": ones}
        return maps

    def _lost(self, sr: Tensor, target: TargetFeatures) -> Sequence[Tensor]:
        """The weighted errors; a 4-norm is spread over the positions in proportion to their fourth powers."""
        lost = []
        for errors, weights in zip(error_maps(sr, target), _weights(sr).flatten(2)[..., None, None], strict=False):
            fourths = errors.square().square()
            norms = with_mean(fourths, fourths.mean((2, 3)) ** 0.25)
            lost.append(weights[0] * errors + weights[1] * norms)
        return lost

    def pool(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Scores (N,) from the maps or their sums."""

        def mean(name: str) -> Tensor:
            scales = range(len(maps) // 3)
            return torch.stack([(maps[f"{name} {k}"].sum((2, 3)) / maps[f"pixels {k}"].sum((2, 3))) for k in scales], 1)

        distance = distances(mean("errors"), mean("fourths"))
        self.parts = dict(zip(PARTS, distance.detach().unbind(1), strict=True))
        return to_score(distance.sum(1))
