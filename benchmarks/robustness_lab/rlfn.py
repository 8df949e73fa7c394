"""RLFN x4, a small network with good published weights, as a starting point of fine-tunes.

Source: Kong et al., "Residual local feature network for efficient super-resolution", CVPR workshops 2022; layers and
names from the shapes in the published file. Our own code.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_perceptual_loss.errors import WeightsError

__all__ = ["RLFN"]


class _Attention(nn.Module):
    """Enhanced spatial attention: a mask from strongly pooled features and from the features themselves."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 1)
        self.conv_f = nn.Conv2d(inner, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=2)
        self.conv3 = nn.Conv2d(inner, inner, 3, padding=1)
        self.conv4 = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(x)
        pooled = self.conv3(F.max_pool2d(self.conv2(narrow), 7, stride=3))
        pooled = F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(pooled + self.conv_f(narrow)))


class _Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.c1_r, self.c2_r, self.c3_r = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.c5 = nn.Conv2d(width, width, 1)
        self.esa = _Attention(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for convolution in (self.c1_r, self.c2_r, self.c3_r):
            out = F.leaky_relu(convolution(out), 0.05)
        return self.esa(self.c5(out + x))


class RLFN(nn.Module):
    """Six residual blocks of 52 channels, one pixel shuffle; pictures in [0, 1] outside, 0..255 inside as published."""

    def __init__(self, width: int = 52, blocks: int = 6) -> None:
        super().__init__()
        self.blocks = blocks
        self.conv_1 = nn.Conv2d(3, width, 3, padding=1)
        for number in range(1, blocks + 1):
            self.add_module(f"block_{number}", _Block(width, 16))
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1)
        self.upsampler = nn.Sequential(nn.Conv2d(width, 48, 3, padding=1), nn.PixelShuffle(4))

    @classmethod
    def published(cls, path: Path) -> RLFN:
        """With the weights of ``rlfn_x4.pth``.

        Raises:
            WeightsError: the file is missing or of another network.
        """
        if not path.is_file():
            raise WeightsError(f"{path}: not there; expected rlfn_x4.pth of https://github.com/bytedance/RLFN.")
        network = cls()
        network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
        return network

    def forward(self, lr: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, 3, 4 h, 4 w), not clamped."""
        first = self.conv_1(lr * 255)
        x = first
        for number in range(1, self.blocks + 1):
            x = self.get_submodule(f"block_{number}")(x)
        return self.upsampler(self.conv_2(x) + first) / 255
