"""SF, SN and SFSN: structural fidelity of the low frequencies, statistical naturalness of the high ones.

An unofficial port, written from the paper's description. The last digits depend on details of MATLAB's ``imresize``,
``rgb2gray`` and MS-SSIM, and the authors published no expected values. Compare only numbers of this port.

SN grows with texture of any kind, so it rewards noise; alone it does not measure quality.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sr_perceptual_loss.errors import InputError, InstallError
from sr_perceptual_loss.lab.evaluation.sr_metrics import eight_bit

__all__ = ["MINIMUM_SIDE", "gray_square", "high_band", "sfsn", "split_bands"]

#: Five scales of MS-SSIM, the last with an 11-pixel window.
MINIMUM_SIDE = 161

Array = NDArray[np.float64]


def sfsn(sr: Tensor, hr: Tensor) -> dict[str, float]:
    """Structural fidelity and statistical naturalness of a pair, and both combinations of the two.

    ``sf``: MS-SSIM (standard five weights) of the two low bands, in [0, 1]. ``sn``: Shannon entropy in bits over 256
    bins of the high band of ``sr``, in [0, 8]. Both bands are cast to 8 bits, so that negative values become 0.
    ``sfsn`` = 0.9 SF + 0.1 SN reproduces every row of Tables 1 and 2 of the Efficient-PBAN paper (arXiv 2602.21482);
    ``sfsn_1_9`` = 1.9 SF + 0.1 SN is what the authors' demonstration prints.

    Args:
        sr: SR (distorted) image, (3, H, W) RGB in [0, 1], sides >= 161.
        hr: reference image, same shape. SN does not use it.

    Returns:
        The four values by name.

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
    sf = float(pytorch_msssim.ms_ssim(*pair, data_range=255, size_average=False))
    sn = _entropy(_cast(high))
    return {"sf": sf, "sn": sn, "sfsn": 0.9 * sf + 0.1 * sn, "sfsn_1_9": 1.9 * sf + 0.1 * sn}


def gray_square(image: Tensor) -> Array:
    """(3, H, W) RGB in [0, 1] -> (s, s) whole numbers in [0, 255], s = min(H, W).

    Gray is 0.2989 R + 0.5870 G + 0.1140 B; the longer side is reduced by an antialiased bicubic filter. Both steps
    round to 8 bits, as MATLAB's do.
    """
    weights = torch.tensor([0.2989, 0.5870, 0.1140], dtype=torch.float64).view(3, 1, 1)
    gray = (eight_bit(image) * weights).sum(0, keepdim=True)[None].round()
    side = min(gray.shape[2:])
    if gray.shape[2] != gray.shape[3]:
        gray = F.interpolate(gray, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return gray[0, 0].round().clamp(0, 255).numpy()


def high_band(side: int) -> NDArray[np.bool_]:
    """Which of (side, side) DCT coefficients are high: row + column >= side - 1 - round(side / 2), counted from 0."""
    index = np.arange(side)
    # MATLAB rounds a half up, Python to even.
    return index[:, None] + index[None] >= side - 1 - (side + 1) // 2


def split_bands(gray: Array) -> tuple[Array, Array]:
    """Low and high band of a square image (s, s), not rounded; their sum is the image.

    Raises:
        InstallError: scipy is missing.
    """
    try:
        from scipy.fft import dctn, idctn
    except ImportError as error:
        raise InstallError(f"SF and SN need scipy ({error}): pip install 'sr_perceptual_loss[lab]'") from None
    coefficients = dctn(gray, norm="ortho")
    high = high_band(len(gray))
    low_band, high_part = (np.where(mask, coefficients, 0.0) for mask in (~high, high))
    return idctn(low_band, norm="ortho"), idctn(high_part, norm="ortho")


def _cast(band: Array) -> NDArray[np.uint8]:
    """MATLAB's uint8(): rounded, and cut to 0..255."""
    return np.clip(np.floor(band + 0.5), 0, 255).astype(np.uint8)


def _entropy(band: NDArray[np.uint8]) -> float:
    """-sum p log2 p of the 256 grey levels."""
    from scipy.stats import entropy

    return abs(float(entropy(np.bincount(band.ravel(), minlength=256), base=2)))
