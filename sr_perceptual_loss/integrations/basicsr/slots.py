"""Our losses in BasicSR's registry, and the entries of the list ``train.losses``.

Stock models call ``perceptual_opt`` as ``percep, style = loss(output, gt)`` and add ``pixel_opt`` as a tensor. Our
registered classes return the pair, and an error in ``pixel_opt`` says where they belong.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from basicsr.losses import build_loss
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from sr_perceptual_loss.checks import check_known_keys, nearest
from sr_perceptual_loss.errors import InputError, UnknownNameError
from sr_perceptual_loss.integrations.host import HostLoss

__all__ = ["BasicSRLoss", "SlotPair", "build_entry", "entry_name"]


class SlotPair(tuple):
    """(loss, None), as ``perceptual_opt`` wants it; using it as a tensor raises an error that explains the slots."""

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


class BasicSRLoss(HostLoss):
    """One of our losses under its own name in LOSS_REGISTRY, returning what ``perceptual_opt`` expects."""

    how_to_step = (
        "Use our models (model_type: PerceptualSRModel, PerceptualSRGANModel, ...), which tell it; stock models cannot."
    )

    def forward(self, output: Tensor, gt: Tensor) -> SlotPair:  # type: ignore[override]
        """(loss, None); the arguments are BasicSR's (prediction, target)."""
        pair = SlotPair((super().forward(output, gt), None))
        pair.label = self.loss.label
        return pair


def build_entry(entry: object, where: str) -> tuple[nn.Module, bool]:
    """Build one entry of ``train.losses``.

    Args:
        entry: a mapping with ``type`` and the constructor's arguments; one of our losses or of BasicSR's.
        where: position, for messages.

    Returns:
        The loss, and whether it takes a ``schedule`` itself; it is not handed to a constructor that does not.

    Raises:
        InputError: no mapping with a ``type``, or a key that the constructor does not know.
        UnknownNameError: ``type`` is not registered.
    """
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(kind, str):
        raise InputError(f"{where}: got {entry!r}, expected a mapping with `type: <loss name>`.")
    if kind not in LOSS_REGISTRY and f"{kind}_basicsr" not in LOSS_REGISTRY:
        raise UnknownNameError(f"{where}: no loss '{kind}' is registered.{nearest(kind, LOSS_REGISTRY.keys())}")
    cls = LOSS_REGISTRY.get(kind)
    arguments = {key: value for key, value in entry.items() if key not in ("type", "name")}
    if inspect.isclass(cls) and issubclass(cls, HostLoss):
        cls.check_options(f"{where} ({kind})", arguments)
        return build_loss({"type": kind, **arguments}), True
    parameters = inspect.signature(cls).parameters
    if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        check_known_keys(f"{where} ({kind})", arguments, ["schedule", *parameters])
    if "schedule" not in parameters:
        arguments.pop("schedule", None)
    return build_loss({"type": kind, **arguments}), "schedule" in parameters


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
