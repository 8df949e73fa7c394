"""RQI/AHIQ for weights that never change again: equal scores and gradients, less work and memory.

Layers that are not run are absent; batch norms are folded; 1x1 convolutions over the transformer's maps and the offset
convolution act on its tokens, before anything is joined or enlarged; wide convolutions take fewer products; the
transformer's MLPs keep their input alone; maps are channels-last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import Self

from sr_perceptual_loss.critics.base import Critic, TargetFeatures, normalise
from sr_perceptual_loss.critics.rqi_ahiq.network import KERNEL, NORMALISATIONS, DeformNet, RQIAhiq
from sr_perceptual_loss.ops.deform_mix import tap_weights
from sr_perceptual_loss.ops.deformable import deformable_taps
from sr_perceptual_loss.ops.fold import folded, frozen_copy
from sr_perceptual_loss.ops.vit import block_tokens, recompute_mlps
from sr_perceptual_loss.ops.winograd import with_winograd

__all__ = ["RQIAhiqInference"]


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


class TokenOffsets(nn.Module):
    """The offset convolution, mixed on the tokens' grid: both it and the enlargement by repetition are linear.

    Args:
        net: the original; not modified.
        taps: tapped transformer blocks, whose channels lie one after the other.
    """

    def __init__(self, net: DeformNet, taps: int) -> None:
        super().__init__()
        conv = net.conv_offset
        self.out = conv.out_channels
        # (blocks, 9 * out, width): rows ordered (kernel tap, output).
        weight = rearrange(conv.weight, "o (b c) y x -> b (y x o) c", b=taps)
        self.weight = _frozen(weight.contiguous())
        assert conv.bias is not None
        self.bias = _frozen(conv.bias)

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
    """Both backbones' features of one image to the regressor's channels.

    Args:
        critic: the original; not modified.
    """

    def __init__(self, critic: RQIAhiq) -> None:
        super().__init__()
        net, conv = critic.deform_net, critic.regressor.down_channel
        self.taps = _frozen(tap_weights([net.deform.weight]))
        self.bias = _frozen(net.deform.bias)
        self.conv1 = frozen_copy(net.conv1)
        width, blocks = critic.config["width"], len(critic.taps)
        weight = conv.weight.flatten(1)
        self.token_weight = _frozen(rearrange(weight[:, : blocks * width], "o (b c) -> b o c", b=blocks).contiguous())
        self.cnn_weight = _frozen(weight[:, blocks * width :].contiguous())
        assert conv.bias is not None
        self.down_bias = _frozen(conv.bias)

    def forward(self, tokens: list[Tensor], cnn_map: Tensor, offset: Tensor, kernels: str) -> Tensor:
        """(N, h*w, width) of each block and (N, C, H, W) -> (N, channels, h, w)."""
        sampled = deformable_taps(cnn_map, offset, self.taps, (KERNEL,), kernels) + self.bias.view(-1, 1, 1)
        sampled = self.conv1(sampled)
        reduced = F.linear(sampled.permute(0, 2, 3, 1).flatten(1, 2), self.cnn_weight, self.down_bias)
        for each, weight in zip(tokens, self.token_weight, strict=True):
            reduced = reduced + F.linear(each, weight)
        return rearrange(reduced, "n (h w) c -> n c h w", h=sampled.shape[2])


class RQIAhiqInference(Critic):
    """What ``RQIAhiq.inference_form()`` gives: frozen, in eval mode, with a state dict of its own.

    Args:
        critic: the original; not modified.
    """

    card = RQIAhiq.card

    def __init__(self, critic: RQIAhiq) -> None:
        super().__init__(config=critic.config, input_size=critic.input_size)
        self.autocast_dtype, self.kernels = critic.autocast_dtype, critic.kernels
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
        regressor = frozen_copy(critic.regressor)
        del regressor.down_channel
        self.regressor = regressor
        with_winograd(self)
        self.to(memory_format=torch.channels_last)
        self.eval()

    @classmethod
    def tiny(cls) -> Self:
        """The form of a tiny critic."""
        return cls(RQIAhiq.tiny())

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
