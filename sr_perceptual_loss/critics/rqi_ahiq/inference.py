"""RQI on AHIQ with fixed weights, made by ``RQIAhiq.inference_form()``.

Layers that are not run are absent, and batch norms are folded. 1x1 convolutions over the transformer's maps and the
offset convolution act on its tokens, before anything is concatenated or enlarged. Wide convolutions take fewer
products, the transformer's MLPs keep only their input, and maps are channels-last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sr_perceptual_loss.critics.base import InferenceForm, TargetFeatures, normalise
from sr_perceptual_loss.critics.rqi_ahiq.network import KERNEL, NORMALISATIONS, DeformNet, RQIAhiq
from sr_perceptual_loss.ops.backbones import block_tokens, recompute_mlps
from sr_perceptual_loss.ops.deform_mix import tap_weights
from sr_perceptual_loss.ops.deformable import deformable_taps
from sr_perceptual_loss.ops.fold import folded, frozen_copy, frozen_parameter
from sr_perceptual_loss.ops.winograd import with_winograd

__all__ = ["RQIAhiqInference"]


class TokenOffsets(nn.Module):
    """The offset convolution, mixed on the tokens' grid: it and the enlargement by repetition are both linear.

    The maps of the ``blocks`` tapped transformer blocks lie one after the other in its input channels.
    """

    def __init__(self, net: DeformNet, blocks: int) -> None:
        super().__init__()
        conv = net.conv_offset
        assert conv.bias is not None
        self.out = conv.out_channels
        # (blocks, 9 * out, width): rows ordered (kernel tap, output).
        self.weight = frozen_parameter(rearrange(conv.weight, "o (b c) y x -> b (y x o) c", b=blocks).contiguous())
        self.bias = frozen_parameter(conv.bias)

    def forward(self, tokens: list[Tensor], grid: int, size: int) -> Tensor:
        """(N, grid*grid, width) of each block -> (N, out, size, size)."""
        mixed = torch.stack([F.linear(each, weight) for each, weight in zip(tokens, self.weight, strict=True)]).sum(0)
        coarse = rearrange(mixed, "n (h w) k -> n k h w", h=grid)
        fine = F.pad(F.interpolate(coarse, size=(size, size), mode="nearest"), (1, 1, 1, 1))
        shifted = [
            fine[:, tap * self.out : (tap + 1) * self.out, tap // KERNEL :, tap % KERNEL :][..., :size, :size]
            for tap in range(KERNEL**2)
        ]
        return torch.stack(shifted).sum(0) + self.bias.view(-1, 1, 1)


class Reduction(nn.Module):
    """The features of both backbones for one image -> the regressor's channels."""

    def __init__(self, critic: RQIAhiq) -> None:
        super().__init__()
        net, conv = critic.deform_net, critic.regressor.down_channel
        assert conv.bias is not None
        self.taps = frozen_parameter(tap_weights([net.deform.weight]))
        self.bias = frozen_parameter(net.deform.bias)
        self.conv1 = frozen_copy(net.conv1)
        blocks = len(critic.taps)
        of_tokens, of_cnn = conv.weight.flatten(1).tensor_split([blocks * critic.config["width"]], dim=1)
        self.token_weight = frozen_parameter(rearrange(of_tokens, "o (b c) -> b o c", b=blocks).contiguous())
        self.cnn_weight = frozen_parameter(of_cnn.contiguous())
        self.down_bias = frozen_parameter(conv.bias)

    def forward(self, tokens: list[Tensor], cnn_map: Tensor, offset: Tensor, kernels: str) -> Tensor:
        """(N, h*w, width) of each block and (N, C, H, W) -> (N, channels, h, w)."""
        sampled = deformable_taps(cnn_map, offset, self.taps, (KERNEL,), kernels) + self.bias.view(-1, 1, 1)
        sampled = self.conv1(sampled)
        reduced = F.linear(sampled.permute(0, 2, 3, 1).flatten(1, 2), self.cnn_weight, self.down_bias)
        for each, weight in zip(tokens, self.token_weight, strict=True):
            reduced = reduced + F.linear(each, weight)
        return rearrange(reduced, "n (h w) c -> n c h w", h=sampled.shape[2])


class RQIAhiqInference(InferenceForm):
    """The inference form of :class:`RQIAhiq`.

    Args:
        critic: the original.
    """

    def __init__(self, critic: RQIAhiq) -> None:
        super().__init__(critic)
        self.block_taps = critic.taps
        self.vit = frozen_copy(critic.vit)
        self.vit.blocks = self.vit.blocks[: critic.taps[-1] + 1]
        del self.vit.norm, self.vit.head
        recompute_mlps(self.vit)
        resnet = frozen_copy(critic.resnet50)
        del resnet.layer2, resnet.layer3, resnet.layer4, resnet.fc
        self.resnet50 = folded(resnet)
        self.offsets = TokenOffsets(critic.deform_net, len(critic.taps))
        self.reduction = Reduction(critic)
        self.regressor = frozen_copy(critic.regressor)
        del self.regressor.down_channel
        with_winograd(self)
        self.to(memory_format=torch.channels_last)
        self.eval()

    def _maps(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Tokens of the tapped blocks, (N, h*w, width) each, and the CNN map."""
        image = normalise(image, *NORMALISATIONS[self.config["normalisation"]])
        image = image.contiguous(memory_format=torch.channels_last)
        return block_tokens(self.vit, image, self.block_taps), self.resnet50(image)

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        tokens, cnn_map = self._maps(hr)
        offset = self.offsets(tokens, hr.shape[2] // self.config["patch"], cnn_map.shape[2])
        return offset, self.reduction(tokens, cnn_map, offset, self.kernels)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        offset, reference = target
        scores: Tensor = self.regressor(self.reduction(*self._maps(sr), offset, self.kernels), reference)
        return scores
