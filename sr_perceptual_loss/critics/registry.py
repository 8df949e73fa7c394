"""Critics by name: register, create, list."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from sr_perceptual_loss.checks import check_choice, nearest
from sr_perceptual_loss.critics.base import Critic, CriticCard
from sr_perceptual_loss.errors import InputError, UnknownNameError, WeightsError
from sr_perceptual_loss.weights import store
from sr_perceptual_loss.weights.warm_start import is_warm_start

__all__ = ["create_critic", "critic_class", "get_card", "list_critics", "register_critic", "which_critic"]

_CRITICS: dict[str, type[Critic]] = {}

C = TypeVar("C", bound=type[Critic])


def register_critic(cls: C) -> C:
    """Class decorator: make a critic known under ``cls.card.name``.

    Registering the same class again (a reload) is fine; another class under a taken name is not.

    Raises:
        InputError: the name is taken.
    """
    name = cls.card.name
    known = _CRITICS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise InputError(f"critic '{name}' is already registered by {known.__module__}.{known.__qualname__}.")
    _CRITICS[name] = cls
    return cls


def list_critics() -> list[str]:
    """Names of all registered critics, sorted."""
    return sorted(_CRITICS)


def critic_class(name: str) -> type[Critic]:
    """The class registered under ``name``.

    Raises:
        UnknownNameError: with the nearest known name.
        InputError: no text at all.
    """
    if not isinstance(name, str):
        raise InputError(f"critic: got {name!r}, expected the name of one.{nearest('', _CRITICS)}")
    try:
        return _CRITICS[name]
    except KeyError:
        raise UnknownNameError(f"no critic '{name}'.{nearest(name, _CRITICS)}") from None


def get_card(name: str) -> CriticCard:
    """The card of a critic, without building it.

    Raises:
        UnknownNameError: with the nearest known name.
    """
    return critic_class(name).card


def create_critic(
    name: str,
    *,
    weights: str | Path | None = "local",
    device: str | torch.device = "cpu",
    size: str = "full",
) -> Critic:
    """Build a critic in eval mode.

    Args:
        name: one of :func:`list_critics`.
        weights: ``"local"`` (the card's default weights, only from this machine, never a download), a tag of the card
            such as ``"official"`` (downloads once), a path to a ``.safetensors`` file, or ``None``: random weights,
            which must be written out because their scores mean nothing. A weight-free critic ignores the first and the
            last.
        device: where to put it.
        size: ``"full"``, or ``"tiny"`` for tests (random weights only).

    Returns:
        The critic; its parameters still require gradients, since freezing belongs to the losses.

    Raises:
        UnknownNameError: unknown critic.
        WeightsError: weights missing, damaged or of another network.
        InputError: a combination that cannot be.
    """
    cls = critic_class(name)
    check_choice("size", size, ("full", "tiny"))
    if not cls.card.needs_weights:
        if weights not in ("local", None):
            raise WeightsError(f"{name} is a formula and has no weights; leave `weights` out (got {weights!r}).")
    elif size == "tiny" and weights is not None:
        raise InputError(f"{name}: the size 'tiny' has random weights only; write weights=None with it.")
    with preserved_rng():
        if size == "tiny":
            critic: Critic = cls.tiny()
        elif cls.card.needs_weights and weights is not None:
            critic = _with_weights(cls, weights)
        else:
            critic = cls()
    return critic.eval().to(device)


def _with_weights(cls: type[Critic], weights: str | Path) -> Critic:
    path = store.locate(cls.card.name, cls.card.weights, weights, remap=cls.remap_official, build=cls)
    file = store.read(path)
    if file.critic not in ("", cls.card.name):
        raise WeightsError(
            f"{path} holds weights of the critic '{file.critic}', not '{cls.card.name}'; use critic: {file.critic}."
        )
    if is_warm_start(file.metadata):
        warnings.warn(
            f"{path}: a warm start, not RQI-trained: its scores are no relative quality. Train it first (srpl train, "
            "critic.weights) before it serves as a loss or a metric.",
            stacklevel=3,
        )
    try:
        critic = cls(**file.config)
    except Exception as error:  # whatever a damaged or made-up header leads to
        raise WeightsError(
            f"{path}: no {cls.card.name} can be built with the constructor arguments in its header "
            f"({type(error).__name__}: {str(error)[:200]}). The file is damaged, or made by another version of this "
            "package: fetch or convert it again."
        ) from error
    store.load_state(critic, file.state, source=str(path), suggest=which_critic)
    return critic


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Initialise a network and leave the host's global random state as it was."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def which_critic(keys: Collection[str]) -> str | None:
    """The registered critic whose state dict has most of these keys, or None if none has more than half.

    Used to improve error messages only.
    """
    best, best_share = None, 0.5
    for name, cls in sorted(_CRITICS.items()):
        if not cls.card.needs_weights:
            continue
        with preserved_rng(), torch.device("meta"):
            own = set(cls().state_dict())
        share = len(own & set(keys)) / max(1, len(own | set(keys)))
        if share > best_share:
            best, best_share = name, share
    return best
