"""HaarPSI: Haar wavelet-based perceptual similarity index, in colour, without weights.

Differences from the authors' MATLAB code: values are in [0, 1] instead of 0..255 (scaled inside), a small constant
makes two images without structure score 1 instead of 0/0, and values above 1 from rounding are clamped while their
gradient is kept. The library piq is not used: version 0.8 differs from the published value by 3e-5 and gives 0/0 for
black images.

Source: Reisenhofer, Bosse, Kutyniok, Wiegand, "A Haar wavelet-based perceptual similarity index for image quality
assessment", Signal Processing: Image Communication 61 (2018), equations (2)-(12).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.base import Critic, CriticCard, SizeRule, TargetFeatures
from sr_perceptual_loss.critics.registry import register_critic

__all__ = ["HaarPSI", "compare", "features", "haarpsi"]

# Constants of the paper.
C = 30.0
ALPHA = 4.2
SCALES = 3
# Added to both sums of the weighted mean. Typical sums are 1e5 and more, so scores move by less than 1e-8.
EPS = 1e-3

# NTSC transform of MATLAB's and the paper's colour extension, rows Y, I, Q.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def _conv_same(image: Tensor, kernel: Tensor) -> Tensor:
    """MATLAB's conv2(..., 'same') with zero padding for even square kernels; (N, 1, H, W) -> (N, K, H, W)."""
    side = kernel.shape[-1]
    # 'same' starts at index floor(side / 2) of the full convolution.
    before = side - 1 - side // 2
    return F.conv2d(F.pad(image, (before, side - 1 - before, before, side - 1 - before)), kernel)


def features(image: Tensor) -> TargetFeatures:
    """The features of one image that HaarPSI compares.

    Args:
        image: (N, 3, H, W) RGB in [0, 1], sides >= 16.

    Returns:
        |Haar coefficients| of luma (N, 6, h, w), scales 1..3, two orientations each, horizontal first; and locally
        averaged |I|, |Q| (N, 2, h, w), at half the size.
    """
    n, _, height, width = image.shape
    yiq = torch.einsum("oc,nchw->nohw", image.new_tensor(_YIQ), image) * 255.0
    # Sub-sampling: 2x2 mean with zero padding, every second pixel (equation 12 and the authors' code).
    mean = image.new_full((1, 1, 2, 2), 0.25)
    yiq = _conv_same(yiq.reshape(n * 3, 1, height, width), mean)[:, :, ::2, ::2].unflatten(0, (n, 3)).squeeze(2)
    coefficients = []
    for scale in range(1, SCALES + 1):
        side = 2**scale
        rows = image.new_full((side, side), 1 / side)
        rows[: side // 2] *= -1
        coefficients.append(_conv_same(yiq[:, :1], torch.stack([rows, rows.t()]).unsqueeze(1)))
    chroma = _conv_same(yiq[:, 1:].flatten(0, 1).unsqueeze(1), mean).view(n, 2, *yiq.shape[2:])
    return torch.cat(coefficients, dim=1).abs(), chroma.abs()


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    return (2 * a * b + C) / (a * a + b * b + C)


def compare(sr: TargetFeatures, hr: TargetFeatures) -> Tensor:
    """HaarPSI from the features of both images.

    Args:
        sr: :func:`features` of the SR (distorted) image.
        hr: :func:`features` of the reference.

    Returns:
        (N,) scores in (0, 1].
    """
    (coefficients_sr, chroma_sr), (coefficients_hr, chroma_hr) = sr, hr
    similarity = _similarity(coefficients_sr, coefficients_hr)
    # Per orientation: mean of the two finest scales; the coarsest scale gives the weights (equations 7 and 9).
    luma = (similarity[:, 0:2] + similarity[:, 2:4]) / 2
    weights = torch.maximum(coefficients_sr[:, 4:6], coefficients_hr[:, 4:6])
    colour = _similarity(chroma_sr, chroma_hr).mean(1, keepdim=True)
    local = torch.cat([luma, colour], dim=1)
    weights = torch.cat([weights, weights.mean(1, keepdim=True)], dim=1)
    top = torch.sigmoid(local.new_tensor(ALPHA))
    mean = ((torch.sigmoid(ALPHA * local) * weights).sum((1, 2, 3)) + EPS * top) / (weights.sum((1, 2, 3)) + EPS)
    index = (torch.logit(mean) / ALPHA) ** 2
    return index - (index - 1).clamp(min=0).detach()


def haarpsi(sr: Tensor, hr: Tensor) -> Tensor:
    """HaarPSI = (logit(sum w * sigmoid(a * sim) / sum w) / a)^2, per image; 1 for equal images.

    Args:
        sr: SR (distorted) image, (N, 3, H, W) RGB in [0, 1], sides >= 16.
        hr: reference image, same shape.

    Returns:
        (N,) scores in (0, 1]. Symmetric in its arguments.
    """
    return compare(features(sr), features(hr))


@register_critic
class HaarPSI(Critic):
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
    )

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return features(hr)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        return compare(features(sr), target)
