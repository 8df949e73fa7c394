"""Sliced Wasserstein likeness of two pictures: marginals of band-pass channels, window by window.

Source: after He et al., "Multiscale sliced Wasserstein distances as perceptual color difference measures" (MS-SWD),
ECCV 2024: sorted projections over a pyramid; here the projections are oriented band-pass channels and fixed
mixtures of them, and the sorting is local, so that texture must sit where it belongs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["sliced_likeness", "slices"]


def slices(bands: Tensor, window: int, mixtures: int = 4) -> Tensor:
    """Sorted values of every channel, and of mixtures of channels, in overlapping windows.

    Args:
        bands: (N, C, H, W) band-pass channels.
        window: side of the windows, which overlap by half.
        mixtures: number of fixed directions between the channels (Hadamard signs), beside the channels themselves.

    Returns:
        (N, C + mixtures, windows, window^2), ascending along the last axis.
    """
    channels = bands.shape[1]
    signs = [[1.0 if bin(i & j).count("1") % 2 == 0 else -1.0 for i in range(channels)] for j in range(1, mixtures + 1)]
    mixed = torch.einsum("mc,nchw->nmhw", bands.new_tensor(signs) / channels**0.5, bands)
    x = torch.cat([bands, mixed], 1)
    patches = F.unfold(x, window, stride=window // 2)
    n, _, places = patches.shape
    return patches.view(n, x.shape[1], window * window, places).transpose(2, 3).sort(-1).values


def sliced_likeness(sr: Tensor, hr: Tensor, soft: float) -> Tensor:
    """1 - sum |a - b| / (sum |a| + sum |b| + n soft) over sorted values, mean over channels and windows.

    Args:
        sr: :func:`slices` of the judged picture.
        hr: the same of the reference.
        soft: mean magnitude below which a difference stops to matter.

    Returns:
        (N,) in (0, 1], 1 for equal marginals.
    """
    difference = (sr - hr).abs().mean(-1)
    size = sr.abs().mean(-1) + hr.abs().mean(-1) + soft
    return 1 - (difference / size).mean((1, 2))
