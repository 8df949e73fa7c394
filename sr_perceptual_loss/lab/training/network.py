"""The critic that is trained: built, started, and its fixed parts fixed."""

from __future__ import annotations

import torch
from torch import nn

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.registry import create_critic, critic_class
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.training.backbones import load_backbones
from sr_perceptual_loss.lab.training.config import CriticConfig

__all__ = ["build_critic", "set_train_mode", "trainable"]


def build_critic(config: CriticConfig, *, seed: int, precision: str = "fp32") -> Critic:
    """A critic ready for training; random parts are a function of the seed, the global random state stays as it was.

    Args:
        config: network, start and what stays fixed.
        seed: of random weights.
        precision: "fp32" or "bf16".

    Returns:
        The critic on the CPU; parameters that are not trained have no gradient.

    Raises:
        InputError: a formula, or a freeze prefix that fits nothing.
        UnknownNameError: unknown critic.
        WeightsError: the start weights cannot be used.
    """
    cls = critic_class(config.name)
    if not cls.card.needs_weights:
        raise InputError(f"critic.name: {config.name} is a formula; there is nothing to train.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.weights is not None:
            critic = create_critic(config.name, weights=config.weights)
        else:
            critic = _construct(cls, config)
        if config.backbone == "imagenet":
            load_backbones(critic)
    # Not accelerate's own autocast: a critic keeps a host's autocast out of its arithmetic.
    critic.autocast_dtype = torch.bfloat16 if precision == "bf16" else None
    _freeze(critic, config)
    return critic


def _construct(cls: type[Critic], config: CriticConfig) -> Critic:
    import inspect

    from sr_perceptual_loss.checks import check_known_keys

    check_known_keys(f"critic.config of {config.name}", config.config, inspect.signature(cls).parameters)
    return cls(**config.config)


def _freeze(critic: Critic, config: CriticConfig) -> None:
    """No gradients for what is not trained, nor for what cannot reach the score (DDP would wait for those)."""
    prefixes = _fixed(critic, config)
    names = [name for name, _ in critic.named_parameters()]
    for prefix in prefixes if not isinstance(config.freeze, str) else ():
        if not any(name.startswith(prefix) for name in names):
            raise InputError(f"critic.freeze: no parameter of {config.name} starts with '{prefix}'.")
    for name, parameter in critic.named_parameters():
        if name.startswith((*prefixes, *critic.unused)):
            parameter.requires_grad_(False)
    if not trainable(critic):
        raise InputError(f"critic.freeze: leaves nothing of {config.name} to train.")


def _fixed(critic: Critic, config: CriticConfig) -> tuple[str, ...]:
    if not isinstance(config.freeze, str):
        return config.freeze
    return critic.published_frozen if config.freeze == "published" else ()


def trainable(critic: nn.Module) -> list[nn.Parameter]:
    """Parameters that are trained."""
    return [p for p in critic.parameters() if p.requires_grad]


def set_train_mode(critic: Critic, config: CriticConfig) -> None:
    """Train mode, but fixed parts in eval mode: their batch norms do not move."""
    critic.train()
    prefixes = _fixed(critic, config)
    if not (config.freeze_statistics and prefixes):
        return
    for name, module in critic.named_modules():
        if f"{name}.".startswith(prefixes):
            module.eval()
