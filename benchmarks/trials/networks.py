"""x4 networks to fine-tune: small ones with the three kinds of up-sampling head, and RLFN with its published weights.

Each kind of head draws artefacts of its own. Our own code.

Source of RLFN: Kong et al., "Residual local feature network for efficient super-resolution", CVPR workshops 2022;
layers and names from the shapes in the published file.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["HEADS", "RLFN", "SmallSR"]

#: Sub-pixel shuffle (can write a period-4 grid with its biases), transposed convolution, enlargement and convolution.
HEADS = ("shuffle", "transposed", "interpolate")
SCALE = 4


def _head(kind: str, width: int) -> nn.Module:
    if kind == "shuffle":
        return nn.Sequential(nn.Conv2d(width, 3 * SCALE**2, 3, padding=1), nn.PixelShuffle(SCALE))
    layers: list[nn.Module] = []
    for _ in range(2):
        if kind == "transposed":
            layers.append(nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1))
        else:
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, width // 2, 3, padding=1)]
        layers.append(nn.LeakyReLU(0.1))
        width //= 2
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))


class SmallSR(nn.Module):
    """Bicubic enlargement plus what a residual body at LR size and one head add; 60 to 70 thousand parameters.

    Args:
        head: one of :data:`HEADS`.
        width: channels of the body, a multiple of 4.
        blocks: residual blocks of two convolutions.
    """

    def __init__(self, head: str = "shuffle", width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(blocks)
        )
        self.head = _head(head, width)
        last = [m for m in self.head.modules() if isinstance(m, nn.Conv2d)][-1]
        # It starts as bicubic, so that short trainings measure the loss and not the initialisation.
        nn.init.normal_(last.weight, std=1e-3)
        nn.init.zeros_(last.bias)

    def forward(self, lr: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, 3, 4 h, 4 w), not clamped."""
        x = F.leaky_relu(self.first(lr), 0.1)
        for block in self.body:
            x = x + block(x)
        return F.interpolate(lr, scale_factor=SCALE, mode="bicubic", align_corners=False) + self.head(x)


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
    """Six residual blocks of 52 channels, one pixel shuffle; images in [0, 1] outside, 0..255 inside as published."""

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

        The file is in https://github.com/bytedance/RLFN.
        """
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
