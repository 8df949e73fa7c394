"""Efficient-PBAN with fixed weights, made by ``EfficientPBAN.inference_form()``.

Batch norms are folded into convolutions. Query, key and value of an image come from one convolution, the offsets of the
four deformable branches from another, and the taps of all branches are one table. Unused parts are absent, maps are
channels-last, and wide 3x3 convolutions take fewer products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sr_perceptual_loss.critics.base import Constants, InferenceForm, TargetFeatures, normalise
from sr_perceptual_loss.critics.efficient_pban.network import EfficientPBAN, MultiBranchDeformConv, PBABlock
from sr_perceptual_loss.ops.deform_mix import tap_weights
from sr_perceptual_loss.ops.deformable import deformable_taps
from sr_perceptual_loss.ops.fold import folded, frozen_copy, frozen_parameter, merge_convs
from sr_perceptual_loss.ops.winograd import with_winograd

__all__ = ["EfficientPBANInference"]


class MergedBranches(nn.Module):
    """The four deformable branches and the 1x1 convolution after them, with merged tensors."""

    def __init__(self, branches: MultiBranchDeformConv) -> None:
        super().__init__()
        self.sides = tuple(weight.shape[-1] for weight in branches.weights)
        self.offsets = merge_convs(*(conv for conv in branches.param_generators if isinstance(conv, nn.Conv2d)))
        self.taps = frozen_parameter(tap_weights(list(branches.weights)))
        self.merge_conv = frozen_copy(branches.merge_conv)
        with torch.no_grad():
            # M (y + b) + m = M y + (M b + m)
            weight, bias = branches.merge_conv.weight.flatten(1), branches.merge_conv.bias
            assert bias is not None
            merged = weight @ torch.cat(list(branches.biases)) + bias
        self.merge_conv.bias = frozen_parameter(merged)

    def forward(self, x: Tensor, kernels: str) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        out: Tensor = self.merge_conv(deformable_taps(x, self.offsets(x), self.taps, self.sides, kernels))
        return out


class MergedBlock(nn.Module):
    """The attention block with merged projections."""

    def __init__(self, block: PBABlock) -> None:
        super().__init__()
        self.sr_projections = merge_convs(block.q1, block.k1, block.v1)
        self.hr_projections = merge_convs(block.q2, block.k2, block.v2)
        self.br1, self.br2 = MergedBranches(block.br1), MergedBranches(block.br2)
        rest = frozen_copy(block)
        for name in ("q1", "k1", "v1", "q2", "k2", "v2", "br1", "br2", "after_block3", "after_block4"):
            delattr(rest, name)
        del rest.SE.subchannel, rest.SE.shuffle.conv
        self.rest = folded(rest)

    def encode_target(self, hr: Tensor, kernels: str) -> TargetFeatures:
        """(HR features, query, key, value)."""
        query, key, value = self.hr_projections(hr).chunk(3, dim=1)
        return hr, self.br2(query, kernels), key, value

    def forward(self, sr: Tensor, target: TargetFeatures, kernels: str) -> tuple[Tensor, Tensor]:
        """SR features (N, C, H, W) and :meth:`encode_target`'s result -> (N, 2C, h, w) of SR and of HR."""
        query, key, value = self.sr_projections(sr).chunk(3, dim=1)
        return self.rest.fuse(sr, (self.br1(query, kernels), key, value), target)


class EfficientPBANInference(InferenceForm, EfficientPBAN):
    """The inference form of :class:`EfficientPBAN`.

    Args:
        critic: the original.
    """

    def __init__(self, critic: EfficientPBAN) -> None:
        super().__init__(critic)
        self.sr_constants, self.hr_constants = critic.sr_constants, critic.hr_constants
        self.trunk = nn.Sequential(folded(critic.stem), folded(critic.layer2_1))
        self.block2: Any = MergedBlock(critic.block2)
        for name in ("fc11", "fc12", "fc21", "fc22", "fc", "out"):
            setattr(self, name, frozen_copy(getattr(critic, name)))
        for name in ("drop11", "drop12", "drop21", "drop22"):
            setattr(self, name, nn.Identity())
        with torch.no_grad():  # no activation stands between the last two linear layers
            weight, bias = self.out.weight @ self.fc.weight, self.out.weight @ self.fc.bias + self.out.bias
        self.fc: Any = nn.Identity()
        self.out.weight, self.out.bias = frozen_parameter(weight), frozen_parameter(bias)
        with_winograd(self)
        self.to(memory_format=torch.channels_last)
        self.eval()

    def _features(self, image: Tensor, constants: Constants) -> Tensor:
        features: Tensor = self.trunk(normalise(image, *constants).contiguous(memory_format=torch.channels_last))
        return features
