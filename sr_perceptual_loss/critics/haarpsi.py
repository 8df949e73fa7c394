"""HaarPSI: Haar wavelet-based perceptual similarity index, in colour. No weights, so it always works.

Differences from the authors' MATLAB code: values are in [0, 1] instead of 0..255 (scaled inside), a small constant
keeps two structureless images at score 1 instead of 0/0, and rounding above 1 is cut off in the value, not in the
gradient. Kept libraries were tried first: piq 0.8 is 3e-5 off the published value, and 0/0 for black images.

Source: Reisenhofer, Bosse, Kutyniok, Wiegand, "A Haar wavelet-based perceptual similarity index for image quality
assessment", Signal Processing: Image Communication 61 (2018), equations (2)-(12).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from sr_perceptual_loss.critics.base import Critic, CriticCard, SizeRule, TargetFeatures
from sr_perceptual_loss.critics.registry import register_critic

__all__ = ["HaarPSI", "haarpsi"]

C = 30.0
ALPHA = 4.2
SCALES = 3
# Added to both sums of the weighted mean. Typical sums are 1e5 and more, so scores move by less than 1e-8.
EPS = 1e-3

# NTSC transform of MATLAB's and the paper's colour extension, rows Y, I, Q.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))

#: |Haar coefficients| (N, 2*SCALES, h, w), horizontal first, and |I|, |Q| means (N, 2, h, w).
Features = tuple[Tensor, Tensor]


def _conv_same(image: Tensor, kernel: Tensor) -> Tensor:
    """MATLAB's conv2(..., 'same') with zero padding for even square kernels; (N, 1, H, W) -> (N, K, H, W)."""
    side = kernel.shape[-1]
    # 'same' starts at floor(side / 2), counted from 0, of the full convolution.
    before = side - 1 - side // 2
    return F.conv2d(F.pad(image, (before, side - 1 - before, before, side - 1 - before)), kernel)


def _haar_kernels(scale: int, like: Tensor) -> Tensor:
    """Both Haar filters of one scale, (2, 1, 2^scale, 2^scale): rows against rows, columns against columns."""
    side = 2**scale
    rows = like.new_full((side, side), 2.0**-scale)
    rows[: side // 2] *= -1
    return torch.stack([rows, rows.t()]).unsqueeze(1)


def features(image: Tensor) -> Features:
    """What HaarPSI looks at in one image.

    Args:
        image: (N, 3, H, W) RGB in [0, 1], sides >= 16.

    Returns:
        |Haar coefficients| of luma (N, 6, h, w), scales 1..3, two orientations each, and locally averaged |I|, |Q|
        (N, 2, h, w), at half the size.
    """
    yiq = torch.einsum("oc,nchw->nohw", image.new_tensor(_YIQ), image) * 255.0
    # Sub-sampling: 2x2 mean with zero padding, every second pixel (equation 12 and the authors' code).
    n, _, height, width = yiq.shape
    mean = image.new_full((1, 1, 2, 2), 0.25)
    yiq = _conv_same(yiq.reshape(n * 3, 1, height, width), mean)[:, :, ::2, ::2]
    yiq = yiq.reshape(n, 3, *yiq.shape[-2:])
    luma = yiq[:, :1]
    coefficients = torch.cat([_conv_same(luma, _haar_kernels(s, luma)) for s in range(1, SCALES + 1)], dim=1).abs()
    i, q = (_conv_same(yiq[:, k : k + 1], mean) for k in (1, 2))
    return coefficients, torch.cat([i, q], dim=1).abs()


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    return (2 * a * b + C) / (a * a + b * b + C)


def compare(sr: Features, hr: Features) -> Tensor:
    """HaarPSI from the features of both images.

    Args:
        sr: :func:`features` of the judged image.
        hr: :func:`features` of the reference.

    Returns:
        (N,) scores in (0, 1].
    """
    (coefficients_sr, chroma_sr), (coefficients_hr, chroma_hr) = sr, hr
    similarity = _similarity(coefficients_sr, coefficients_hr)
    # Per orientation: mean of the two finest scales; the coarsest one weighs (equations 7 and 9).
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
        sr: judged image, (N, 3, H, W) RGB in [0, 1], sides >= 16.
        hr: reference image, same shape.

    Returns:
        (N,) scores in (0, 1]. Symmetric in its arguments.
    """
    return compare(features(sr), features(hr))


@register_critic
class HaarPSI(Critic):
    """The HaarPSI index as a critic: bounded, symmetric, nothing to download."""

    card = CriticCard(
        name="haarpsi",
        paper="Reisenhofer et al., A Haar wavelet-based perceptual similarity index for image quality assessment, 2018",
        input_size=SizeRule(minimum=16),
        score_range=(0.0, 1.0),
        relative=False,
        symmetric=True,
        differences=("Two structureless images score 1 instead of 0/0.",),
        needs_weights=False,
    )

    def __init__(self) -> None:
        super().__init__(config={})

    @classmethod
    def tiny(cls) -> Self:
        """The critic itself; it has no size."""
        return cls()

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return features(hr)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        coefficients, chroma = target
        return compare(features(sr), (coefficients, chroma))
