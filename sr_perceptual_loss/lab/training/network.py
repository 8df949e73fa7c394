"""Builds the critic that is trained: its start weights, and which parts stay fixed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import timm
import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import check_known_keys
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.registry import create_critic, critic_class
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.lab.training.config import CriticConfig

__all__ = ["BACKBONES", "build_critic", "load_backbones", "set_train_mode", "trainable"]


def _inside(module: str, *parts: str) -> dict[str, str]:
    return {part: f"{module}.{part}" for part in parts}


_VIT_PARTS = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.", "head.")
_RESNET_PARTS = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.")
_PBAN_PARTS = {
    "conv1.": "stem.0.",
    "bn1.": "stem.1.",
    "layer1.": "stem.4.",
    "layer2.": "stem.5.",
    "layer3.": "layer2_1.",
}
#: Backbones of each critic, as its paper names them: timm model -> {prefix in it: prefix in the critic}. Models have
#: their tag, since names without a tag mean different weights in different timm versions.
BACKBONES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "efficient_pban": {"resnet34.tv_in1k": _PBAN_PARTS},
    "rqi_maniqa": {"vit_base_patch8_224.augreg_in21k_ft_in1k": _inside("vit", *_VIT_PARTS)},
    "rqi_ahiq": {
        "vit_base_patch8_224.augreg_in21k_ft_in1k": _inside("vit", *_VIT_PARTS),
        "resnet50.a1_in1k": _inside("resnet50", *_RESNET_PARTS),
    },
    "rqi_topiq": {"resnet50.a1_in1k": _inside("semantic_model", *_RESNET_PARTS, "layer4.")},
}


def build_critic(config: CriticConfig, *, seed: int, precision: str = "fp32") -> Critic:
    """A critic on the CPU, ready for training; what is not trained requires no gradient.

    Random parts depend on the seed only; the global random state does not change. ``precision``: "fp32" or "bf16".

    Raises:
        InputError: the critic has no weights, an unknown constructor argument, or a freeze prefix without parameters.
        UnknownNameError: unknown critic.
        WeightsError: the start weights cannot be used.
    """
    cls = critic_class(config.name)
    if not cls.card.needs_weights:
        raise InputError(f"critic.name: {config.name} is a formula; there is nothing to train.")
    check_known_keys(f"critic.config of {config.name}", config.config, inspect.signature(cls).parameters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.weights is not None:
            critic = create_critic(config.name, weights=config.weights)
        else:
            critic = cls(**config.config)
        if config.backbone == "imagenet":
            load_backbones(critic)
    # Not autocast of Accelerate: a critic switches autocast of its caller off.
    critic.autocast_dtype = torch.bfloat16 if precision == "bf16" else None
    _freeze(critic, config)
    return critic


def _freeze(critic: Critic, config: CriticConfig) -> None:
    """No gradients for what is not trained, nor for what cannot reach the score (DDP would wait for those)."""
    if isinstance(config.freeze, tuple):
        prefixes = config.freeze
        for prefix in prefixes:
            if not any(name.startswith(prefix) for name, _ in critic.named_parameters()):
                raise InputError(f"critic.freeze: no parameter of {config.name} starts with '{prefix}'.")
    else:
        prefixes = critic.published_frozen if config.freeze == "published" else ()
    for name, parameter in critic.named_parameters():
        if name.startswith((*prefixes, *critic.unused)):
            parameter.requires_grad_(False)
    if not trainable(critic):
        raise InputError(f"critic.freeze: leaves nothing of {config.name} to train.")


def trainable(critic: nn.Module) -> list[nn.Parameter]:
    """Parameters that are trained."""
    return [p for p in critic.parameters() if p.requires_grad]


def set_train_mode(critic: nn.Module) -> None:
    """Train mode; modules without a trained parameter stay in eval mode, so that their batch norms do not change."""
    critic.train()
    for module in critic.modules():
        if any(True for _ in module.parameters()) and not trainable(module):
            module.eval()


def load_backbones(critic: Critic) -> list[str]:
    """Fill the backbones of a full-size critic with published ImageNet weights, in place; returns the timm models.

    Raises:
        InputError: no backbone is known for this critic.
        WeightsError: the weights cannot be downloaded, or have other sizes than the critic's backbone.
    """
    backbones = BACKBONES.get(critic.card.name)
    if backbones is None:
        raise InputError(f"critic.backbone: no published backbone is known for {critic.card.name}; use 'random'.")
    for model, places in backbones.items():
        _fill(critic, model, places)
    return list(backbones)


def _fill(critic: Critic, model: str, places: Mapping[str, str]) -> None:
    state, filled = critic.state_dict(), 0
    for key, value in _published(model).items():
        prefix = next((prefix for prefix in places if key.startswith(prefix)), None)
        name = None if prefix is None else places[prefix] + key[len(prefix) :]
        if name is None or name not in state:
            continue
        if state[name].shape != value.shape:
            raise WeightsError(
                f"critic.backbone: '{key}' of {model} has shape {tuple(value.shape)}, that of {critic.card.name} "
                f"{tuple(state[name].shape)}; published backbones fit the full-size critic only."
            )
        state[name].copy_(value)
        filled += 1
    if not filled:
        raise WeightsError(f"critic.backbone: {model} has no entry that {critic.card.name} uses.")


def _published(model: str) -> dict[str, Tensor]:
    try:
        return dict(timm.create_model(model, pretrained=True).state_dict())
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"critic.backbone: cannot get the weights of timm's {model} ({reason}). They are downloaded once to the "
            "Hugging Face cache (HF_HOME); run once with a network, or use critic.backbone: random."
        ) from None
