"""SF, SN and SFSN: structural fidelity of the low frequencies, statistical naturalness of the high ones.

An unofficial port, written from the paper's description: digits depend on details of MATLAB's ``imresize``,
``rgb2gray`` and MS-SSIM, and the authors published no expected values. Compare only numbers made here.

SN grows with texture of any kind, so it rewards noise. It says nothing about quality by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sr_perceptual_loss.errors import InputError, InstallError
from sr_perceptual_loss.lab.evaluation.sr_metrics import eight_bit

__all__ = ["MINIMUM_SIDE", "SFSN", "gray_square", "high_band", "sfsn", "split_bands"]

#: Five scales of MS-SSIM, the last with an 11-pixel window.
MINIMUM_SIDE = 161

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SFSN:
    """The two measures of one pair.

    Attributes:
        sf: structural fidelity, MS-SSIM of the low bands, in [0, 1].
        sn: statistical naturalness, entropy of the high band of the SR image in bits, in [0, 8].
    """

    sf: float
    sn: float

    @property
    def sfsn(self) -> float:
        """0.9 SF + 0.1 SN: reproduces every row of Tables 1 and 2 of the Efficient-PBAN paper (arXiv 2602.21482)."""
        return 0.9 * self.sf + 0.1 * self.sn

    @property
    def sfsn_1_9(self) -> float:
        """1.9 SF + 0.1 SN: what the authors' demonstration prints."""
        return 1.9 * self.sf + 0.1 * self.sn


def sfsn(sr: Tensor, hr: Tensor) -> SFSN:
    """SF and SN of a pair.

    SF = MS-SSIM (standard five weights) of the two low bands, SN = Shannon entropy over 256 bins of the high band of
    ``sr``; both bands cast to 8 bits, so that negative values become 0.

    Args:
        sr: judged image, (3, H, W) RGB in [0, 1], sides >= 161.
        hr: reference image, same shape. SN does not use it.

    Returns:
        The two values.

    Raises:
        InputError: shapes that differ, or images that are too small for MS-SSIM.
        InstallError: scipy is missing.

    Source: Zhou, Wang, Chen, "Image super-resolution quality assessment: structural fidelity versus statistical
    naturalness", QoMEX 2021.
    """
    import pytorch_msssim

    if sr.shape != hr.shape or sr.dim() != 3:
        raise InputError(f"got shapes {tuple(sr.shape)} and {tuple(hr.shape)}, expected two equal ones (3, H, W).")
    if min(sr.shape[1:]) < MINIMUM_SIDE:
        raise InputError(
            f"sf: got {sr.shape[2]}x{sr.shape[1]} pixels (width x height), MS-SSIM over five scales needs sides >= "
            f"{MINIMUM_SIDE}. Leave sf, sn and sfsn out for this set."
        )
    low, high = split_bands(gray_square(sr))
    reference, _ = split_bands(gray_square(hr))
    pair = [torch.from_numpy(_cast(band)).double()[None, None] for band in (low, reference)]
    return SFSN(float(pytorch_msssim.ms_ssim(*pair, data_range=255, size_average=False)), _entropy(_cast(high)))


def gray_square(image: Tensor) -> Array:
    """Gray image of s x s pixels, s = min(height, width): 0.2989 R + 0.5870 G + 0.1140 B, antialiased bicubic.

    Args:
        image: (3, H, W) RGB in [0, 1].

    Returns:
        (s, s) whole numbers in [0, 255]; both steps round to 8 bits, as MATLAB's do.
    """
    weights = torch.tensor([0.2989, 0.5870, 0.1140], dtype=torch.float64).view(3, 1, 1)
    gray = (eight_bit(image) * weights).sum(0, keepdim=True)[None].round()
    side = min(gray.shape[2:])
    if gray.shape[2] != gray.shape[3]:
        gray = F.interpolate(gray, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return gray[0, 0].round().clamp(0, 255).numpy()


def high_band(side: int) -> NDArray[np.bool_]:
    """Which DCT coefficients are high: row + column >= side - 1 - round(side / 2), counted from 0.

    Args:
        side: of the square image.

    Returns:
        (side, side) mask.
    """
    index = np.arange(side)
    # MATLAB rounds a half up, Python to even.
    return index[:, None] + index[None] >= side - 1 - (side + 1) // 2


def split_bands(gray: Array) -> tuple[Array, Array]:
    """Low and high band of a square image; their sum is the image.

    Args:
        gray: (s, s).

    Returns:
        Two arrays (s, s), not rounded.

    Raises:
        InstallError: scipy is missing.
    """
    try:
        from scipy.fft import dctn, idctn
    except ImportError:
        raise InstallError("SF and SN need scipy: pip install 'sr_perceptual_loss[eval]'") from None
    coefficients = dctn(gray, norm="ortho")
    high = high_band(len(gray))
    return idctn(np.where(high, 0.0, coefficients), norm="ortho"), idctn(
        np.where(high, coefficients, 0.0), norm="ortho"
    )


def _cast(band: Array) -> NDArray[np.uint8]:
    """MATLAB's uint8(): rounded, and cut to 0..255."""
    return np.clip(np.floor(band + 0.5), 0, 255).astype(np.uint8)


def _entropy(band: NDArray[np.uint8]) -> float:
    """-sum p log2 p of the 256 grey levels."""
    from scipy.stats import entropy

    return abs(float(entropy(np.bincount(band.ravel(), minlength=256), base=2)))
