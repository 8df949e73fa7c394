"""Critics by name: register, create, list. The module of a critic is imported when the critic is first asked for."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import torch

from sr_perceptual_loss.checks import nearest
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.card import CriticCard
from sr_perceptual_loss.critics.construction import plain_construction
from sr_perceptual_loss.critics.external import external, is_external
from sr_perceptual_loss.errors import InputError, UnknownNameError, WeightsError
from sr_perceptual_loss.weights import store
from sr_perceptual_loss.weights.convert import is_warm_start

__all__ = ["create_critic", "critic_class", "get_card", "list_critics", "register_critic", "which_critic"]

#: Critics of this package -> their module in ``critics/``. Some need torchvision and timm, which are slow to import.
_MODULES = {
    "dists": "dists",
    "dists_vgg": "dists",
    "efficient_pban": "efficient_pban",
    "haarpsi": "haarpsi",
    "lpips": "lpips",
    "lpips_alex": "lpips",
    "lpips_squeeze": "lpips",
    "lpips_vgg": "lpips",
    "rqi_ahiq": "rqi_ahiq",
    "rqi_maniqa": "rqi_maniqa",
    "rqi_topiq": "rqi_topiq",
    "ssimulacra2": "ssimulacra2",
    "texture_stats": "texture_stats",
}
_CRITICS: dict[str, type[Critic]] = {}

C = TypeVar("C", bound=type[Critic])


def register_critic(cls: C) -> C:
    """Class decorator: register a critic under ``cls.card.name``.

    The same class may be registered again, as a module reload does; another class needs another name.

    Raises:
        InputError: the name is taken.
    """
    name = cls.card.name
    ours = f"{__package__}.{_MODULES[name]}" if name in _MODULES else cls.__module__
    known = _CRITICS.get(name, cls)
    same = (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__)
    if not same or not f"{cls.__module__}.".startswith(f"{ours}."):
        place = ours if same else f"{known.__module__}.{known.__qualname__}"
        raise InputError(f"critic '{name}' is already registered by {place}.")
    _CRITICS[name] = cls
    return cls


def list_critics() -> list[str]:
    """Names of all critics, sorted: those of this package and those that were registered."""
    return sorted({*_MODULES, *_CRITICS})


def critic_class(name: str) -> type[Critic]:
    """The class registered under ``name``.

    Raises:
        UnknownNameError: with the nearest known name.
        InputError: not a string.
    """
    if not isinstance(name, str):
        raise InputError(f"critic: got {name!r}, expected the name of a critic.{nearest('', list_critics())}")
    if name not in _CRITICS and name in _MODULES:
        importlib.import_module(f"{__package__}.{_MODULES[name]}")
    if name not in _CRITICS:
        raise UnknownNameError(f"no critic '{name}'.{nearest(name, list_critics())}")
    return _CRITICS[name]


def get_card(name: str) -> CriticCard:
    """The card of a critic, without building it unless it is external; raises as :func:`create_critic`."""
    return external(name).card if is_external(name) else critic_class(name).card


def create_critic(name: str, *, weights: str | Path | None = "local", device: str | torch.device = "cpu") -> Critic:
    """Build a critic in eval mode and float32; the global random state stays as it is.

    The default dtype, the default device and modes such as ``inference_mode`` of the program around it have no effect.

    Args:
        name: one of :func:`list_critics`, or ``pyiqa:metric`` or ``package.module:metric``, see :func:`external`.
        weights: ``"local"`` (the card's default weights, only from this machine, never a download), a tag of the card
            such as ``"official"`` (downloads once), a path to a ``.safetensors`` file, or ``None``: random weights,
            whose scores are meaningless. A critic without weights accepts ``"local"`` and ``None``.
        device: device of the critic.

    Returns:
        The critic. Its parameters require gradients; the losses freeze them.

    Raises:
        UnknownNameError: unknown critic.
        InputError: ``name`` is not a string.
        WeightsError: weights missing, damaged, of another network, or given for a critic without weights.
    """
    if is_external(name):
        if weights not in ("local", None):
            raise WeightsError(f"{name} has its own weights; leave `weights` out (got {weights!r}).")
        return external(name).eval().to(device)
    cls = critic_class(name)
    if not cls.card.needs_weights and weights not in ("local", None):
        raise WeightsError(f"{name} is a formula and has no weights; leave `weights` out (got {weights!r}).")
    with plain_construction(), torch.random.fork_rng(devices=[]):
        critic = cls() if weights is None or not cls.card.needs_weights else _with_weights(cls, weights)
        critic.origin = cls.RANDOM if weights is None and cls.card.needs_weights else critic.origin
        return critic.eval().to(device)


def _with_weights(cls: type[Critic], weights: str | Path) -> Critic:
    name = cls.card.name
    path = store.locate(name, cls.card.weights, weights, remap=cls.remap_official, build=cls)
    file = store.read(path)
    if file.critic not in ("", name):
        raise WeightsError(f"{path} holds weights of the critic '{file.critic}', not '{name}'; use that critic.")
    if is_warm_start(file.metadata):
        warnings.warn(
            f"{path}: a warm start, not trained under the RQI scheme: its scores are not relative quality. Train it "
            "first (srpl train, critic.weights) before using it as a loss or a metric.",
            stacklevel=3,
        )
    try:
        critic = cls(**file.config)
    except Exception as error:  # a damaged or forged header may raise anything
        raise WeightsError(
            f"{path}: no {name} can be built with the constructor arguments in its header ({type(error).__name__}: "
            f"{str(error)[:200]}). The file is damaged, or made by another version of this package: fetch or convert "
            "it again."
        ) from error
    store.load_state(critic, file.state, source=str(path), suggest=which_critic)
    # A name that is a link stays one: its target may have another suffix.
    critic.weights_file = path.parent.resolve() / path.name
    critic.origin = f"weights='{weights}' [sha {file.sha256[:8]}]"
    return critic


def which_critic(keys: Collection[str]) -> str | None:
    """The registered critic whose state dict shares most keys, and more than half; for error messages."""
    best, best_share, given = None, 0.5, set(keys)
    for name in list_critics():
        cls = critic_class(name)
        if not cls.card.needs_weights:
            continue
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            known = set(cls().state_dict())
        share = len(known & given) / max(1, len(known | given))
        if share > best_share:
            best, best_share = name, share
    return best
