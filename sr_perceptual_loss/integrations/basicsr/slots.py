"""Our losses in the shape that BasicSR's stock slots expect, and the entries of a losses list.

Stock models call ``perceptual_opt`` as ``percep, style = loss(output, gt)`` and add ``pixel_opt`` as a tensor. The
registered forms return the pair; in ``pixel_opt`` they say so.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from basicsr.losses import build_loss
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from sr_perceptual_loss.checks import check_known_keys, nearest
from sr_perceptual_loss.critics.registry import list_critics
from sr_perceptual_loss.errors import InputError, UnknownNameError
from sr_perceptual_loss.losses.base import PairLoss

__all__ = ["SlotPair", "StockSlot", "build_entry", "entry_name", "parameters_of", "takes_schedule"]


class SlotPair(tuple):
    """(loss, None), as ``perceptual_opt`` wants it; adding it like a tensor explains the slots."""

    label: str

    def _wrong_slot(self, other: object) -> NoReturn:
        raise InputError(
            f"{self.label} returns the pair (loss, None) of BasicSR's perceptual slot, but was used as one tensor: it "
            "stands in `pixel_opt`. Move it to `train.perceptual_opt`, or to the list `train.losses` of our models "
            "(model_type: PerceptualSRModel, PerceptualSRGANModel, ...)."
        )

    __add__ = __radd__ = __mul__ = __rmul__ = _wrong_slot  # type: ignore[assignment]

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("backward", "mean", "detach"):
            self._wrong_slot(name)
        raise AttributeError(name)


class StockSlot(nn.Module):
    """One of our losses under its own name in LOSS_REGISTRY, returning what ``perceptual_opt`` expects.

    Args:
        options: the YAML keys = the constructor's arguments of ``loss_class``; unknown ones are refused by name.
    """

    loss_class: ClassVar[type[PairLoss]]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        check_known_keys(self.loss_class.__name__, options, parameters_of(self.loss_class))
        check_complete(self.loss_class.__name__, options, self.loss_class)
        self.loss = self.loss_class(**options)

    def forward(self, output: Tensor, gt: Tensor) -> SlotPair:
        """(loss, None); the arguments are BasicSR's (prediction, target)."""
        pair = SlotPair((self.loss(output, gt), None))
        pair.label = self.loss.label
        return pair


def parameters_of(cls: type) -> list[str]:
    """Argument names of a constructor; for a class registered by us, those of the loss that it wraps."""
    target = cls.loss_class if issubclass(cls, StockSlot) else cls
    return [name for name in inspect.signature(target.__init__).parameters if name != "self"]


def check_complete(where: str, options: Mapping[str, Any], loss_class: type[PairLoss]) -> None:
    """Refuse options without an argument that has no default, by name.

    Args:
        where: what they belong to, for the message.
        options: YAML keys.
        loss_class: one of our losses.

    Raises:
        InputError: with the possible values where it is the critic.
    """
    for name, parameter in inspect.signature(loss_class).parameters.items():
        if parameter.default is parameter.empty and name not in options:
            hint = f"; one of {', '.join(list_critics())}" if name == "critic" else ""
            raise InputError(f"{where}: `{name}` is missing{hint}.")


def build_entry(entry: Mapping[str, Any], where: str) -> nn.Module:
    """Build one entry of a losses list.

    Args:
        entry: ``type`` and the constructor's arguments; ours or BasicSR's. A ``schedule`` reaches only those losses
            that have such an argument.
        where: position, for messages.

    Returns:
        The loss module.

    Raises:
        InputError: no ``type``, a key that the constructor does not know, or a missing one.
        UnknownNameError: ``type`` is not registered.
    """
    options = {key: value for key, value in entry.items() if key != "name"}
    kind = options.get("type")
    if not isinstance(kind, str):
        raise InputError(f"{where}: got {dict(entry)!r}, expected a mapping with `type: <loss name>`.")
    if kind not in LOSS_REGISTRY and f"{kind}_basicsr" not in LOSS_REGISTRY:
        raise UnknownNameError(f"{where}: no loss '{kind}' is registered.{nearest(kind, LOSS_REGISTRY.keys())}")
    cls = LOSS_REGISTRY.get(kind)
    if not takes_schedule(kind):
        options.pop("schedule", None)
    parameters = inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if inspect.isclass(cls) and (issubclass(cls, StockSlot) or not open_ended):
        check_known_keys(f"{where} ({kind})", options, ["type", "name", "schedule", *parameters_of(cls)])
        if issubclass(cls, StockSlot):
            check_complete(f"{where} ({kind})", options, cls.loss_class)
    return build_loss(options)


def takes_schedule(kind: str) -> bool:
    """Whether a registered loss has a ``schedule`` of its own; for the others :class:`LossList` applies it."""
    cls = LOSS_REGISTRY.get(kind)
    return inspect.isclass(cls) and "schedule" in parameters_of(cls)


def entry_name(entry: Mapping[str, Any]) -> str:
    """Log name of an entry: its ``name``, or the critic, or the type without "Loss", in lower case."""
    if "name" in entry:
        name = str(entry["name"])
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise InputError(f"losses: the name {name!r} must be a letter followed by letters, digits or '_'.")
        return name
    kind = str(entry.get("type", "loss"))
    if kind == "CriticLoss" and isinstance(entry.get("critic"), str):
        return str(entry["critic"])
    return re.sub(r"Loss$", "", kind).lower() or "loss"
