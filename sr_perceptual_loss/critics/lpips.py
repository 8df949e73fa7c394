"""LPIPS: distance of the directions of a network's features, pixel by pixel.

``lpips`` uses EfficientNet-Lite0, which is in the package, and equal weights. ``lpips_alex``, ``lpips_vgg`` and
``lpips_squeeze`` are LPIPS v0.1 as published, with the heads that its authors fitted to people's judgements.

Source: Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a perceptual metric",
CVPR 2018, arXiv 1801.03924.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sr_perceptual_loss.critics.base import InferenceForm, TargetFeatures, normalise
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.imagenet import BUNDLED, TrunkCritic, from_torchvision, torchvision_weights
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.ops.fold import frozen_copy
from sr_perceptual_loss.ops.winograd import with_winograd

if TYPE_CHECKING:
    pass

__all__ = ["Lpips", "LpipsAlex", "LpipsSqueeze", "LpipsVgg", "PublishedLpips"]

#: Added to the square of a norm, whose root has an infinite slope at 0.
EPS = 1e-20
#: Mean and standard deviation of ImageNet for images in [-1, 1], as LPIPS rounds them.
SCALING = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
HEADS = "heads of LPIPS v0.1 fitted to the BAPPS judgements (package lpips 0.1.4, BSD-2-Clause)"
NOTES = (
    "The form of LPIPS on another network and with equal weights of all levels, so its numbers are not those of the "
    "package lpips; those are lpips_alex, lpips_vgg and lpips_squeeze.",
    "The network has TensorFlow's borders, right and below wider than left and above where a side is even, so turning "
    "both images changes the score a little.",
    "Nothing in it was fitted to judgements of quality.",
)
AS_LOSS = "Beside L1 it draws grids of period 2 and 4, above all with a pixel-shuffle head (docs/results.md)."
PUBLISHED_NOTES = (
    "score = -LPIPS v0.1 of the package lpips for the same images with normalize=True: images are in [0, 1] here.",
    "The paper reports agreement in triplets (2AFC), where a pair counts by the share of people who agree.",
    "The heads are in this package. The network is not: weights: imagenet takes torchvision's file.",
)


def unit(maps: Tensor) -> Tensor:
    """Features f / |f|, the norm over channels at each position; (N, C, H, W) -> the same shape."""
    return maps / (maps.square().sum(1, keepdim=True) + EPS).sqrt()


class _Lpips(TrunkCritic):
    """The form of all variants: a subclass weighs its levels."""

    def _weighed(self, level: int, squares: Tensor) -> Tensor:
        """Squared differences of one level by channel (..., C) -> (...)."""
        raise NotImplementedError

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return tuple(unit(maps.to(hr.dtype)) for maps in self.trunk(self._normalised(hr)))

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        score = sr.new_zeros(len(sr))
        for level, (maps, reference) in enumerate(zip(self._encode_target(sr), target, strict=True)):
            score = score - self._weighed(level, (maps - reference).square().mean((2, 3)))
        return score

    def _lost(self, sr: Tensor, target: TargetFeatures) -> Sequence[Tensor]:
        levels = enumerate(zip(self._encode_target(sr), target, strict=True))
        return [self._weighed(k, (maps - hr).square().movedim(1, 3)).unsqueeze(1) for k, (maps, hr) in levels]


@register_critic
class Lpips(_Lpips):
    """score = -mean over levels and positions of |u(sr) - u(hr)|^2, u = features of the network over their norm."""

    card = CriticCard(
        name="lpips",
        paper="Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, CVPR 2018",
        input_size=SizeRule(minimum=32),
        score_range=(-4.0, 0.0),
        relative=False,
        symmetric=True,
        notes=NOTES,
        weights={BUNDLED.tag: BUNDLED},
        learned_from="ImageNet labels",
        cost=".08-.09",
        good_at="ordering GAN results as people do (.89 of pairs)",
        bad_at="as a loss: it draws fine grids",
        as_loss=AS_LOSS,
    )

    def _weighed(self, level: int, squares: Tensor) -> Tensor:
        return squares.sum(-1) / len(self.trunk.channels)


class PublishedLpips(_Lpips):
    """score = -sum over levels and channels of w * mean over positions of (u(sr) - u(hr))^2.

    Args:
        width: factor on the network's numbers of channels; 1 for the published weights, less for tests.

    Raises:
        InputError: a wrong width.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__(width)
        self.heads = nn.ParameterList(torch.rand(channels) / channels for channels in self.trunk.channels)

    def _normalised(self, image: Tensor) -> Tensor:
        return normalise(2 * image - 1, *SCALING)

    def _weighed(self, level: int, squares: Tensor) -> Tensor:
        return squares @ self.heads[level]

    @classmethod
    def remap_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Torchvision's network -> this one, with the fitted heads."""
        return from_torchvision(state, "lpips_heads.safetensors", f"{cls.network}.")


def _card(network: str, minimum: int, cost: str, bad_at: str = "not tested as a loss here") -> CriticCard:
    return dataclasses.replace(
        Lpips.card,
        name=f"lpips_{network}",
        input_size=SizeRule(minimum=minimum),
        notes=PUBLISHED_NOTES,
        weights=torchvision_weights(network, HEADS),
        learned_from="ImageNet labels; BAPPS judgements",
        cost=cost,
        good_at="LPIPS values as in papers",
        bad_at=bad_at,
        as_loss="",
    )


@register_critic
class LpipsAlex(PublishedLpips):
    """LPIPS v0.1 on AlexNet; see :class:`PublishedLpips`."""

    network = "alex"
    card = _card(network, 31, ".06")


@register_critic
class LpipsVgg(PublishedLpips):
    """LPIPS v0.1 on VGG16; see :class:`PublishedLpips`."""

    network = "vgg"
    card = _card(network, 16, ".81", "GAN results: as people in .84 of pairs (lpips .89)")


@register_critic
class LpipsSqueeze(PublishedLpips):
    """LPIPS v0.1 on SqueezeNet 1.1; see :class:`PublishedLpips`."""

    network = "squeeze"
    card = _card(network, 17, ".07")


class LpipsVggInference(InferenceForm, LpipsVgg):
    """:class:`LpipsVgg` with fixed weights.

    Args:
        critic: the original.
    """

    def __init__(self, critic: LpipsVgg) -> None:
        super().__init__(critic)
        self.trunk, self.heads = with_winograd(frozen_copy(critic.trunk)), frozen_copy(critic.heads)
        self.eval()


LpipsVgg.inference_class = LpipsVggInference
