"""HaarPSI: Haar wavelet-based perceptual similarity index, in colour, without weights.

Differences from the authors' MATLAB code: values are in [0, 1] instead of 0..255 (scaled inside), a small constant
makes two images without structure score 1 instead of 0/0, and values above 1 from rounding are clamped while their
gradient is kept. The library piq is not used: version 0.8 differs from the published value by 3e-5 and gives 0/0 for
black images.

Source: Reisenhofer, Bosse, Kutyniok, Wiegand, "A Haar wavelet-based perceptual similarity index for image quality
assessment", Signal Processing: Image Communication 61 (2018), equations (2)-(12).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.base import TargetFeatures
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.critics.whole_image import LocalCritic

__all__ = ["HaarPSI", "features", "haarpsi", "local_maps", "pool"]

# Constants of the paper.
C = 30.0
ALPHA = 4.2
SCALES = 3
# Sigmoid of a similarity of 1.
TOP = 1 / (1 + math.exp(-ALPHA))
# Added to the sum of the weights. Typical sums are 1e5 and more, so scores move by less than 1e-8.
EPS = 1e-3

# NTSC transform of MATLAB's and the paper's colour extension, rows Y, I, Q.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def _filters() -> tuple[list[list[list[float]]], list[list[float]]]:
    """Taps down the columns (8, 3, 8), which include the colour transform, and along the rows (8, 8).

    Channels: two orientations of the finest scale and I; those of the second scale and Q; those of the coarsest scale.
    A Haar filter is a step in one direction times a box in the other; I and Q are averaged over 2x2 pixels.
    """
    box, step = [], []
    for half in (1, 2, 4):
        zeros = [0.0] * (4 - half)
        box.append([*zeros, *[0.5] * (2 * half), *zeros])
        step.append([*zeros, *[-1 / half] * half, *[1 / half] * half, *zeros])
    down, across = [], []
    for scale in range(SCALES):
        down += [(step[scale], 0), (box[scale], 0)]
        across += [box[scale], step[scale]]
        if scale < 2:
            down.append((box[0], 1 + scale))
            across.append(box[0])
    coloured = [[[255 * part * tap for tap in taps] for part in _YIQ[row]] for taps, row in down]
    return coloured, across


_DOWN, _ACROSS = _filters()


def features(image: Tensor) -> Tensor:
    """The features of one image that HaarPSI compares, at half its size.

    Args:
        image: (N, 3, H, W) RGB in [0, 1], sides >= 16.

    Returns:
        (N, 8, ceil(H / 2), ceil(W / 2)), magnitudes: per scale the two Haar coefficients of luma, horizontal first; the
        first two scales are followed by the local means of I and of Q.
    """
    # Sub-sampling: 2x2 mean with zero padding, every second pixel (equation 12 and the authors' code).
    half = F.avg_pool2d(image, 2, ceil_mode=True, divisor_override=4)
    down, across = image.new_tensor(_DOWN).unsqueeze(3), image.new_tensor(_ACROSS)[:, None, None]
    # MATLAB's conv2(..., 'same') pads even filters by one pixel more at the end.
    return F.conv2d(F.conv2d(F.pad(half, (3, 4, 3, 4)), down), across, groups=len(across)).abs()


def local_maps(sr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
    """The similarity of two images at each position, and its weights.

    Args:
        sr: :func:`features` of the SR (distorted) image.
        hr: :func:`features` of the reference.

    Returns:
        Loss times weight, and weight, (N, 2, h, w) each, one channel per orientation. The loss is
        sigmoid(a) - sigmoid(a * similarity), which is 0 where both images are equal.
    """
    a, b = sr[:, :6], hr[:, :6]
    # 1 - (2 a b + C) / (a^2 + b^2 + C).
    difference = (a - b).square() / (a * a + (b * b + C))
    # Mean of the two finest scales, per orientation, and of I and Q (equation 7); x = a * (1 - similarity).
    x = ALPHA / 2 * (difference[:, :3] + difference[:, 3:])
    # sigmoid(a) - sigmoid(a - x) without the rounding of a difference.
    loss = (1 - TOP) * torch.expm1(x) * torch.sigmoid(ALPHA - x)
    # The coarsest scale gives the weights (equation 9); colour has the mean weight of the two orientations.
    weights = torch.maximum(sr[:, 6:], hr[:, 6:])
    return weights * (loss[:, :2] + loss[:, 2:] / 2), weights


def pool(losses: Tensor, weights: Tensor) -> Tensor:
    """HaarPSI, (N,), from the results of :func:`local_maps`; only their sums matter."""
    loss = losses.sum((1, 2, 3)) / (1.5 * weights.sum((1, 2, 3)) + EPS)
    # logit(TOP - loss) / a, in a form that float32 does not round by 1e-6.
    index = (1 + (torch.log1p(-loss / TOP) - torch.log1p(loss / (1 - TOP))) / ALPHA) ** 2
    return index - (index - 1).clamp(min=0).detach()


def haarpsi(sr: Tensor, hr: Tensor) -> Tensor:
    """HaarPSI = (logit(sum w * sigmoid(a * sim) / sum w) / a)^2, per image; 1 for equal images.

    Args:
        sr: SR (distorted) image, (N, 3, H, W) RGB in [0, 1], sides >= 16.
        hr: reference image, same shape.

    Returns:
        (N,) scores in (0, 1]. Symmetric in its arguments.
    """
    return pool(*local_maps(features(sr), features(hr)))


@register_critic
class HaarPSI(LocalCritic):
    """The HaarPSI index as a critic; see :func:`haarpsi`."""

    card = CriticCard(
        name="haarpsi",
        paper="Reisenhofer et al., A Haar wavelet-based perceptual similarity index for image quality assessment, 2018",
        input_size=SizeRule(minimum=16),
        score_range=(0.0, 1.0),
        relative=False,
        symmetric=True,
        notes=("Two images without structure score 1 instead of 0/0.",),
        needs_weights=False,
        learned_from="opinions (its two constants)",
        cost=".01",
        good_at="edges and structure, at hardly any cost",
        bad_at="texture: as a loss it adds hardly any",
    )

    # The coarsest filter covers 8 pixels of the halved image.
    halo, align, pools_sums = 16, 2, True

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return (features(hr),)

    def _maps(self, sr: Tensor, target: TargetFeatures) -> dict[str, Tensor]:
        losses, weights = local_maps(features(sr), target[0])
        return {"losses": losses, "weights": weights}

    def _lost(self, sr: Tensor, target: TargetFeatures) -> Sequence[Tensor]:
        return [self._maps(sr, target)["losses"]]

    def pool(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The index; see :func:`pool`."""
        return pool(maps["losses"], maps["weights"])
