"""Image pairs for tests."""

from __future__ import annotations

import torch


def make_pair(n: int = 2, height: int = 48, width: int = 40, *, seed: int = 0, dtype=torch.float32):
    """A smooth random picture and a noisier, blurrier version of it: sr, hr in [0, 1], RGB."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 3, max(2, height // 8), max(2, width // 8), generator=generator, dtype=torch.float64)
    hr = torch.nn.functional.interpolate(low, size=(height, width), mode="bicubic", align_corners=False)
    hr = (hr + 0.05 * torch.randn(n, 3, height, width, generator=generator, dtype=torch.float64)).clamp(0, 1)
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(hr, (1, 1, 1, 1), mode="replicate"), 3, 1)
    sr = (blurred + 0.03 * torch.randn(n, 3, height, width, generator=generator, dtype=torch.float64)).clamp(0, 1)
    return sr.to(dtype), hr.to(dtype)
