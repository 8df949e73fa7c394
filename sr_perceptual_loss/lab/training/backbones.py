"""Published ImageNet weights for the backbones of critics; opt-in, since timm downloads them once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import timm
from torch import Tensor

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.errors import InputError, WeightsError

__all__ = ["BACKBONES", "Backbone", "load_backbones"]


@dataclass(frozen=True)
class Backbone:
    """Where a critic's backbone comes from.

    Attributes:
        model: timm name with its tag; bare names change their meaning between timm versions.
        places: prefix in the timm model -> prefix in the critic.
    """

    model: str
    places: Mapping[str, str]


_VIT_PARTS = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.", "head.")

#: Backbones of each critic, as its paper names them.
BACKBONES: Mapping[str, tuple[Backbone, ...]] = {
    "efficient_pban": (
        Backbone(
            "resnet34.tv_in1k",
            {
                "conv1.": "stem.0.",
                "bn1.": "stem.1.",
                "layer1.": "stem.4.",
                "layer2.": "stem.5.",
                "layer3.": "layer2_1.",
            },
        ),
    ),
    "rqi_maniqa": (Backbone("vit_base_patch8_224.augreg_in21k_ft_in1k", {p: f"vit.{p}" for p in _VIT_PARTS}),),
    "rqi_ahiq": (
        Backbone("vit_base_patch8_224.augreg_in21k_ft_in1k", {p: f"vit.{p}" for p in _VIT_PARTS}),
        Backbone("resnet50.a1_in1k", {p: f"resnet50.{p}" for p in ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.")}),
    ),
    "rqi_topiq": (
        Backbone(
            "resnet50.a1_in1k",
            {p: f"semantic_model.{p}" for p in ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")},
        ),
    ),
}


def load_backbones(critic: Critic) -> list[str]:
    """Fill the backbones of a full-size critic, in place.

    Args:
        critic: one of :data:`BACKBONES`.

    Returns:
        The timm models used.

    Raises:
        InputError: no backbone is known for this critic.
        WeightsError: not on this machine and no network, or of another size than the critic's backbone.
    """
    known = BACKBONES.get(critic.card.name)
    if known is None:
        raise InputError(f"critic.backbone: no published backbone is known for {critic.card.name}; use 'random'.")
    for backbone in known:
        _fill(critic, backbone, _published(backbone.model))
    return [backbone.model for backbone in known]


def _published(model: str) -> dict[str, Tensor]:
    try:
        return dict(timm.create_model(model, pretrained=True).state_dict())
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"critic.backbone: the weights of timm's {model} could not be had ({reason}). They are downloaded once to "
            "the Hugging Face cache (HF_HOME); run once with a network, or use critic.backbone: random."
        ) from None


def _fill(critic: Critic, backbone: Backbone, published: Mapping[str, Tensor]) -> None:
    own = critic.state_dict()
    filled = 0
    for key, value in published.items():
        place = next((theirs for theirs in backbone.places if key.startswith(theirs)), None)
        name = None if place is None else backbone.places[place] + key[len(place) :]
        if name is None or name not in own:
            continue
        if own[name].shape != value.shape:
            raise WeightsError(
                f"critic.backbone: {backbone.model} has '{key}' of shape {tuple(value.shape)}, {critic.card.name} was "
                f"built with {tuple(own[name].shape)}; published backbones fit the full-size critic only."
            )
        own[name].copy_(value)
        filled += 1
    if not filled:
        raise WeightsError(f"critic.backbone: {backbone.model} has no entry that {critic.card.name} uses.")
