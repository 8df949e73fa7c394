"""RQI on AHIQ: how much better (> 0) or worse (< 0) an image looks than its reference; the one with two backbones.

ViT-B/8 features for the content, ResNet-50 features sampled at offsets that come from the reference's ViT features, a
weighted mean of positions. Only the sampling and the regressor are trained; the backbones keep their ImageNet values.
Module names are those of the published key layout.

Differences from the reference: see ``RQIAhiq.card.notes``. Written from a description of the published network,
not from its code.

Source: Su et al., "Bridging the Perception Gap in Image Super-Resolution Evaluation" (RQI), arXiv 2503.13074, and its
supplement; Lao et al., "Attentions Help CNNs See Better" (AHIQ), arXiv 2204.10485.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from sr_perceptual_loss.checks import as_int, check_choice
from sr_perceptual_loss.critics.base import IMAGENET, Constants, Critic, TargetFeatures, normalise
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops.backbones import CLASSES, block_maps, init_convolutions, make_vit, residual_stage
from sr_perceptual_loss.ops.deformable import DeformableConv2d

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["NORMALISATIONS", "RQIAhiq"]

KERNEL = 3
# One level of the ResNet (side / 4) meets the ViT's tokens (side / patch).
CNN_STRIDE = 4

#: (mean, standard deviation) for both backbones: of the published code, and of its widespread port.
NORMALISATIONS: Mapping[str, Constants] = {"half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), "imagenet": IMAGENET}


class ResNet(nn.Module):
    """ResNet of bottlenecks of which only the stem and ``layer1`` are run; the rest keeps the published key layout."""

    def __init__(self, stem: int, layers: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = stem
        for number, blocks in enumerate(layers):
            planes = stem * 2**number
            stage = residual_stage(Bottleneck, channels, planes, blocks, stride=1 if number == 0 else 2)
            setattr(self, f"layer{number + 1}", stage)
            channels = planes * Bottleneck.expansion
        self.fc = nn.Linear(channels, CLASSES)
        init_convolutions(self)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, blocks of layer1 * 4 * stem, S/4, S/4): all outputs of layer1's blocks."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        outputs = []
        for block in self.get_submodule("layer1").children():
            x = block(x)
            outputs.append(x)
        return torch.cat(outputs, dim=1)


class DeformNet(nn.Module):
    """CNN features sampled at offsets that come from ViT features, then brought to the ViT's grid by a stride."""

    def __init__(self, vit_channels: int, cnn_channels: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.conv_offset = nn.Conv2d(vit_channels, 2 * KERNEL**2, 3, padding=1)
        self.deform = DeformableConv2d(cnn_channels, cnn_channels, KERNEL)
        self.conv1 = nn.Sequential(
            nn.Conv2d(cnn_channels, hidden, 3, stride, 1), nn.ReLU(), nn.Conv2d(hidden, cnn_channels, 3, padding=1)
        )

    def offsets(self, vit_map: Tensor, size: torch.Size) -> Tensor:
        """Sampling offsets (N, 18, *size) from a ViT map (N, C, h, w)."""
        offset: Tensor = self.conv_offset(F.interpolate(vit_map, size=size, mode="nearest"))
        return offset

    def forward(self, cnn_map: Tensor, offset: Tensor, kernels: str = "auto") -> Tensor:
        """(N, C, H, W) and its offsets -> (N, C, h, w)."""
        out: Tensor = self.conv1(self.deform(cnn_map, offset, kernels))
        return out


class Regressor(nn.Module):
    """Features of both images -> scores: sum(f * w) / sum(w) over positions, w in (0, 1)."""

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.down_channel = nn.Conv2d(features, channels, 1)
        # No ReLU between the last convolution here and conv1's first, as published.
        self.feat_smoothing = nn.Sequential(
            nn.Conv2d(3 * channels, 4 * channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4 * channels, 2 * channels, 3, padding=1),
        )
        self.conv1 = nn.Sequential(nn.Conv2d(2 * channels, channels, 3, padding=1), nn.ReLU())
        self.conv_attent = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())
        self.conv = nn.Sequential(nn.Conv2d(channels, 1, 1))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """``down_channel`` of both images' features, (N, C, h, w) each -> (N,)."""
        x = self.conv1(self.feat_smoothing(torch.cat([sr - hr, sr, hr], dim=1)))
        score, weight = self.conv(x), self.conv_attent(x)
        pooled: Tensor = (score * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
        return pooled


@register_critic
class RQIAhiq(Critic):
    """Relative Quality Index, the AHIQ variant: 0 means "as good as the reference", positive better, negative worse.

    That holds after training under the RQI scheme; no weights of this variant are published. The score is not bounded,
    and f(a, b) = -f(b, a) is learned, not built in. The backbones stay in eval mode in ``train()``, so their
    batch statistics never move; training freezes them (:attr:`published_frozen`).

    Args:
        normalisation: how images in [0, 1] are normalised for both backbones, a name of :data:`NORMALISATIONS`: "half"
            as published, "imagenet" as in its widespread port. Weights trained with one are not for the other.
        side: image side; the only size that the instance takes.
        patch: side of a ViT patch, a multiple of 4.
        width: channels of the ViT.
        depth: blocks of the ViT.
        heads: attention heads of the ViT.
        taps: ViT blocks whose outputs are used, from 0; later blocks only keep the published key layout.
        stem: channels of the ResNet's stem.
        layers: blocks of the ResNet's four stages; all blocks of the first are used, the others never.
        deform_channels: hidden channels after the deformable convolution.
        channels: width of the regressor.
    """

    card = CriticCard(
        name="rqi_ahiq",
        paper="Su et al., Bridging the Perception Gap in Image Super-Resolution Evaluation (RQI), arXiv 2503.13074",
        input_size=SizeRule(fixed=224),
        # The labels, differences of scores scaled to [0, 1].
        score_range=(-1.0, 1.0),
        relative=True,
        symmetric=False,
        notes=(
            "The four networks that the published code keeps apart (two backbones, deform_net, regressor) are parts of "
            "one module, and one file holds all four.",
            "One crop of exactly 224x224 is scored; cutting and averaging crops is up to the caller.",
            "Stages after ResNet layer1 and ViT blocks after the last used one are not run, which does not change the "
            "score.",
            "The offsets are computed once from the reference and serve both images; the published code computes the "
            "same ones twice.",
            "The supplement removes a last activation; the published score branch has none, so nothing is removed.",
            "f(a, b) = -f(b, a), which the paper states, is a trained tendency; nothing enforces it.",
            "Weights start from random values, never from a download; srpl convert --backbone brings pretrained ones.",
        ),
        learned_from="your training",
        cost="4.1",
        good_at="quality of SR relative to GT, as its paper reports",
        bad_at="no weights published: train it first; slow",
        # RQI was published with its MANIQA variant only.
        weights={},
    )
    unused = (
        *(f"vit.blocks.{number}." for number in range(5, 12)),
        "vit.norm.",
        "vit.head.",
        "resnet50.layer2.",
        "resnet50.layer3.",
        "resnet50.layer4.",
        "resnet50.fc.",
    )
    # Kept at their ImageNet values.
    published_frozen = ("vit.", "resnet50.")

    def __init__(
        self,
        *,
        normalisation: str = "half",
        side: int = 224,
        patch: int = 8,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        taps: Sequence[int] = (0, 1, 2, 3, 4),
        stem: int = 64,
        layers: Sequence[int] = (3, 4, 6, 3),
        deform_channels: int = 512,
        channels: int = 256,
    ) -> None:
        check_choice("normalisation", normalisation, tuple(NORMALISATIONS))
        sizes = {"side": side, "patch": patch, "width": width, "depth": depth, "heads": heads, "stem": stem}
        sizes |= {"deform_channels": deform_channels, "channels": channels}
        sizes = {name: as_int(name, value, minimum=1) for name, value in sizes.items()}
        side, patch, width, depth, heads, stem, deform_channels, channels = sizes.values()
        taps = tuple(as_int("taps", tap) for tap in taps)
        layers = tuple(as_int("layers", blocks, minimum=1) for blocks in layers)
        if len(layers) != 4:
            raise InputError(f"layers: got {layers}, expected four numbers of blocks.")
        if patch % CNN_STRIDE or side % patch:
            raise InputError(
                f"side, patch: got {side}, {patch}; expected a side that is a multiple of the patch, and a patch that "
                f"is a multiple of {CNN_STRIDE}."
            )
        config = {"normalisation": normalisation, **sizes, "taps": taps, "layers": layers}
        super().__init__(config=config, input_size=SizeRule(fixed=side))
        self.taps = taps
        vit_channels = len(taps) * width
        cnn_channels = layers[0] * Bottleneck.expansion * stem
        self.resnet50 = ResNet(stem, layers)
        self.vit = make_vit(side, patch, width, depth, heads, taps)
        self.deform_net = DeformNet(vit_channels, cnn_channels, deform_channels, stride=patch // CNN_STRIDE)
        self.regressor = Regressor(vit_channels + cnn_channels, channels)
        self.train()

    @classmethod
    def tiny(cls) -> Self:
        """32x32 images, 4x4 tokens, 16 ViT channels, a ResNet of 4 channels, and an unused ViT block."""
        return cls(
            side=32, patch=8, width=16, depth=6, heads=2, stem=4, layers=(3, 1, 1, 1), deform_channels=8, channels=8
        )

    def train(self, mode: bool = True) -> Self:
        """As of ``nn.Module``, except that the backbones stay in eval mode: their batch statistics never move."""
        super().train(mode)
        self.vit.eval()
        self.resnet50.eval()
        return self

    def backbone_maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the frozen backbones for an image (N, 3, side, side) in [0, 1].

        Returns:
            ViT map (N, taps * width, side/patch, side/patch) and CNN map (N, 12 * stem, side/4, side/4) for three
            blocks of layer1.
        """
        image = normalise(image, *NORMALISATIONS[self.config["normalisation"]])
        return block_maps(self.vit, image, self.taps), self.resnet50(image)

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return self.encode_maps(*self.backbone_maps(hr))

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        return self.compare_maps(*self.backbone_maps(sr), target)

    def encode_maps(self, vit_map: Tensor, cnn_map: Tensor) -> TargetFeatures:
        """(offsets, reduced features) of the reference, from its :meth:`backbone_maps`."""
        offset = self.deform_net.offsets(vit_map, cnn_map.shape[2:])
        return offset, self._reduced(vit_map, cnn_map, offset)

    def compare_maps(self, vit_map: Tensor, cnn_map: Tensor, target: TargetFeatures) -> Tensor:
        """Scores (N,) from :meth:`backbone_maps` of the SR image and :meth:`encode_maps` of the reference."""
        # The reference's offsets are used for the SR image too: both are sampled at the same places.
        offset, reference = target
        scores: Tensor = self.regressor(self._reduced(vit_map, cnn_map, offset), reference)
        return scores

    def _reduced(self, vit_map: Tensor, cnn_map: Tensor, offset: Tensor) -> Tensor:
        sampled = self.deform_net(cnn_map, offset, self.kernels)
        reduced: Tensor = self.regressor.down_channel(torch.cat([vit_map, sampled], dim=1))
        return reduced
