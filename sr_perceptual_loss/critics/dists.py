"""DISTS: similarity of texture (means of features) and of structure (their correlations), over the whole image.

``dists`` uses EfficientNet-Lite0, which is in the package, and equal weights of all levels. ``dists_vgg`` is DISTS as
published: VGG16 with L2 pooling, and the weights alpha and beta that its authors fitted to people's judgements.

Source: Ding, Ma, Wang, Simoncelli, "Image quality assessment: unifying structure and texture similarity", TPAMI 2020,
arXiv 2004.07728.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sr_perceptual_loss.critics.base import IMAGENET, InferenceForm, TargetFeatures, normalise
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.imagenet import BUNDLED, TrunkCritic, from_torchvision, torchvision_weights
from sr_perceptual_loss.critics.maps import with_mean
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.ops.fold import frozen_copy, frozen_parameter
from sr_perceptual_loss.ops.trunks import L2Pool, Trunk
from sr_perceptual_loss.ops.winograd import with_winograd

if TYPE_CHECKING:
    pass

__all__ = ["Dists", "DistsVgg"]

#: Added to the numerators and denominators of both similarities.
C1 = C2 = 1e-6
CHANNELS = 3
FITTED = "alpha and beta fitted to KADID-10k and to textures (package DISTS-pytorch 0.1, MIT)"
AS_LOSS = "Beside L1 it draws a faint grid of period 4 with a pixel-shuffle head (docs/results.md)."
NOTES = (
    "The form of DISTS on another network and with equal weights of all levels, so its numbers are not those of the "
    "package DISTS-pytorch; those are dists_vgg.",
    "The network has TensorFlow's borders, right and below wider than left and above where a side is even, so turning "
    "both images changes the score a little.",
    "Nothing in it was fitted to judgements of quality.",
    "Statistics are those of the whole image: compare scores of images of one size.",
)
VGG_NOTES = (
    "score = 1 - DISTS of the package DISTS-pytorch for the same images.",
    "The published protocol reduces the shorter side to 256 pixels first, as piq does; nothing is resized here.",
    "alpha and beta are in this package. The network is not: weights: imagenet takes torchvision's file.",
    "Statistics are those of the whole image: compare scores of images of one size.",
)


class _Dists(TrunkCritic):
    """The form of both variants: a subclass weighs the similarities."""

    def _weighed(self, level: int, texture: Tensor, structure: Tensor) -> Tensor:
        """Similarities of one level by channel, (..., C) each -> (...)."""
        raise NotImplementedError

    def _levels(self, image: Tensor) -> Iterator[TargetFeatures]:
        """Of image and trunk: mean (N, C, 1, 1), deviations (N, C, h, w), variance (N, C, 1, 1)."""
        for maps in (image, *self.trunk(self._normalised(image))):
            maps = maps.to(image.dtype)
            mean = maps.mean((2, 3), keepdim=True)
            deviation = maps - mean
            yield mean, deviation, deviation.square().mean((2, 3), keepdim=True)

    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        return tuple(part for level in self._levels(hr) for part in level)

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        score = sr.new_zeros(len(sr))
        for level, (mean, deviation, variance) in enumerate(self._levels(sr)):
            hr_mean, hr_deviation, hr_variance = target[3 * level : 3 * level + 3]
            covariance = (deviation * hr_deviation).mean((2, 3), keepdim=True)
            texture = (2 * mean * hr_mean + C1) / (mean.square() + hr_mean.square() + C1)
            structure = (2 * covariance + C2) / (variance + hr_variance + C2)
            score = score + self._weighed(level, texture.flatten(1), structure.flatten(1))
        return score

    def _lost(self, sr: Tensor, target: TargetFeatures) -> Sequence[Tensor]:
        """1 - similarity; for texture, which has no place, in proportion to the difference of the features."""
        lost = []
        for level, (mean, deviation, variance) in enumerate(self._levels(sr)):
            hr_mean, hr_deviation, hr_variance = target[3 * level : 3 * level + 3]
            shift, difference = mean - hr_mean, deviation - hr_deviation
            texture = shift.square() / (mean.square() + hr_mean.square() + C1)
            texture = with_mean((difference + shift).abs(), texture.flatten(1))
            structure = difference.square() / (variance + hr_variance + C2)
            lost.append(self._weighed(level, texture.movedim(1, 3), structure.movedim(1, 3)).unsqueeze(1))
        return lost


@register_critic
class Dists(_Dists):
    """score = mean over levels of mean over channels of the similarity of structure; 1 for equal images.

    Levels are the image, the stem and the seven stages of EfficientNet-Lite0. Half of what the image and the stem count
    is the similarity of texture. The stages have none: their values have both signs, so a mean near 0 says nothing.
    """

    card = CriticCard(
        name="dists",
        paper="Ding et al., Image quality assessment: unifying structure and texture similarity, TPAMI 2020",
        input_size=SizeRule(minimum=32),
        score_range=(0.0, 1.0),
        relative=False,
        symmetric=True,
        notes=NOTES,
        weights={BUNDLED.tag: BUNDLED},
        learned_from="ImageNet labels",
        cost=".08",
        good_at="ordering GAN results as people do (.89 of pairs)",
        bad_at="as a loss: grids; it does not see dots",
        as_loss=AS_LOSS,
    )

    def _weighed(self, level: int, texture: Tensor, structure: Tensor) -> Tensor:
        similarity = (texture + structure) / 2 if level <= 1 else structure
        return similarity.mean(-1) / (1 + len(self.trunk.channels))


@register_critic
class DistsVgg(_Dists):
    """score = 1 - DISTS = (sum over levels and channels of alpha * texture + beta * structure) / sum(alpha + beta).

    Args:
        width: factor on the network's numbers of channels; 1 for the published weights, less for tests.

    Raises:
        InputError: a wrong width.
    """

    network = "vgg"
    trunk: Trunk
    card = dataclasses.replace(
        Dists.card,
        name="dists_vgg",
        input_size=SizeRule(minimum=16),
        notes=VGG_NOTES,
        weights=torchvision_weights("vgg", FITTED),
        learned_from="ImageNet labels; KADID-10k",
        as_loss="",
        cost=".80",
        good_at="DISTS values as in papers (without resizing)",
        bad_at="not tested as a loss here",
    )

    def __init__(self, width: float = 1.0) -> None:
        super().__init__(width)
        for number, layer in enumerate(self.trunk.features):
            if isinstance(layer, nn.MaxPool2d):
                self.trunk.features[number] = L2Pool()
        self.channels = [CHANNELS, *self.trunk.channels]
        self.alpha, self.beta = (nn.Parameter(torch.rand(sum(self.channels))) for _ in range(2))

    def _normalised(self, image: Tensor) -> Tensor:
        return normalise(image, *IMAGENET)

    @staticmethod
    def remap_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Torchvision's network -> this one, with the fitted alpha and beta."""
        return from_torchvision(state, "dists_alpha_beta.safetensors")

    def _weighed(self, level: int, texture: Tensor, structure: Tensor) -> Tensor:
        alpha, beta = (weights.split(self.channels)[level] for weights in (self.alpha, self.beta))
        return (texture @ alpha + structure @ beta) / (self.alpha.sum() + self.beta.sum())


class DistsVggInference(InferenceForm, DistsVgg):
    """:class:`DistsVgg` with fixed weights.

    Args:
        critic: the original.
    """

    def __init__(self, critic: DistsVgg) -> None:
        super().__init__(critic)
        self.trunk, self.channels = with_winograd(frozen_copy(critic.trunk)), critic.channels
        self.alpha, self.beta = frozen_parameter(critic.alpha), frozen_parameter(critic.beta)
        self.eval()


DistsVgg.inference_class = DistsVggInference
