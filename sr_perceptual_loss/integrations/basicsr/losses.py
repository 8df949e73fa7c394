"""Our losses in BasicSR's LOSS_REGISTRY: for the stock ``perceptual_opt`` slot, and as a list.

Stock models call ``perceptual_opt`` as ``percep, style = loss(output, gt)`` and add ``pixel_opt`` as a tensor. The
registered forms return the pair; in ``pixel_opt`` they say so.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import torch
from basicsr.losses import build_loss
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from sr_perceptual_loss._checks import InputError, NonFiniteError, UnknownNameError, check_known_keys, nearest
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.critic_loss import CriticLoss, EfficientPBANLoss, RQILoss
from sr_perceptual_loss.losses.ssim_loss import SSIMLoss

__all__ = ["LossList", "SlotPair", "StockSlot", "build_entry", "entry_name"]


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


def build_entry(entry: Mapping[str, Any], where: str) -> nn.Module:
    """Build one entry of a losses list.

    Args:
        entry: ``type`` and the constructor's arguments; ours or BasicSR's.
        where: position, for messages.

    Returns:
        The loss module.

    Raises:
        InputError: no ``type``, or a key that the constructor does not know.
        UnknownNameError: ``type`` is not registered.
    """
    options = {key: value for key, value in entry.items() if key != "name"}
    kind = options.get("type")
    if not isinstance(kind, str):
        raise InputError(f"{where}: got {dict(entry)!r}, expected a mapping with `type: <loss name>`.")
    if kind not in LOSS_REGISTRY and f"{kind}_basicsr" not in LOSS_REGISTRY:
        raise UnknownNameError(f"{where}: no loss '{kind}' is registered.{nearest(kind, LOSS_REGISTRY.keys())}")
    cls = LOSS_REGISTRY.get(kind)
    parameters = inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if inspect.isclass(cls) and (issubclass(cls, StockSlot) or not open_ended):
        check_known_keys(f"{where} ({kind})", options, ["type", "name", *parameters_of(cls)])
    return build_loss(options)


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


class LossList(nn.Module):
    """The sum of any number of losses, each with its own name; our models build it from ``train.losses``.

    In a stock model: ``perceptual_opt: {type: LossList, losses: [...]}`` (one log value, the sum).

    Args:
        losses: entries ``{type, name?, <constructor arguments>}``; ours or BasicSR's, those that return a tensor and
            those that return BasicSR's pair.

    Raises:
        InputError: empty, doubled names, unknown keys.
    """

    def __init__(self, losses: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        if not isinstance(losses, list | tuple) or not losses:
            raise InputError(f"losses: got {losses!r}, expected a list of mappings, each with a `type`.")
        members: dict[str, nn.Module] = {}
        for position, entry in enumerate(losses):
            where = f"losses[{position}]"
            if not isinstance(entry, Mapping):
                raise InputError(f"{where}: got {entry!r}, expected a mapping with a `type`.")
            name = entry_name(entry)
            if name in members:
                raise InputError(f"{where}: a second entry would be logged as '{name}'; give it its own `name:`.")
            members[name] = build_entry(entry, where)
        # Not a ModuleDict attribute access: a name such as "type" would clash with nn.Module's own attributes.
        self.names = tuple(members)
        self.members = nn.ModuleList(members.values())
        #: Detached 0-d values of the last call, by name.
        self.parts: dict[str, Tensor] = {}

    def pair_losses(self) -> dict[str, PairLoss]:
        """Our own losses among the members, by name."""
        losses = {}
        for name, member in zip(self.names, self.members, strict=True):
            inner = member.loss if isinstance(member, StockSlot) else member
            if isinstance(inner, PairLoss):
                losses[name] = inner
        return losses

    def step(self, iteration: int) -> None:
        """Tell every loss of ours the global iteration."""
        for loss in self.pair_losses().values():
            loss.step(iteration)

    def terms(self) -> dict[str, Tensor]:
        """``score_<name>`` and the like of the last call, for logs; a zero where a loss was not called."""
        found = {}
        for name, loss in self.pair_losses().items():
            for term in loss.term_names:
                found[f"{term}_{name}"] = loss.terms.get(term, torch.zeros(()))
        return found

    def forward(self, output: Tensor, gt: Tensor) -> tuple[Tensor, None]:
        """(sum of the members, None).

        Raises:
            NonFiniteError: naming the member whose value or gradient is NaN or infinite.
        """
        total: Tensor | None = None
        self.parts = {}
        for name, member in zip(self.names, self.members, strict=True):
            value = self._value(name, member, output, gt)
            self.parts[name] = value.detach()
            total = value if total is None else total + value
        assert total is not None  # the list is not empty
        return total, None

    def _value(self, name: str, member: nn.Module, output: Tensor, gt: Tensor) -> Tensor:
        own = output.view_as(output)
        if own.requires_grad:
            own.register_hook(lambda gradient: _check_finite(gradient, f"{name}: the gradient to the SR output"))
        result = member(own, gt)
        values = [v for v in (result if isinstance(result, tuple) else (result,)) if v is not None]
        if not values or any(v.dim() != 0 for v in values):
            shapes = [tuple(v.shape) for v in values]
            raise InputError(f"losses: '{name}' returned shapes {shapes}, expected a 0-d tensor (reduction: mean).")
        value = values[0] if len(values) == 1 else values[0] + values[1]
        _check_finite(value, f"{name}: the loss")
        return value


def _check_finite(tensor: Tensor, what: str) -> None:
    if not bool(torch.isfinite(tensor.detach()).all()):
        raise NonFiniteError(f"{what} is NaN or infinite. Stopped before the optimizer step.")


def register() -> None:
    """Put the losses into LOSS_REGISTRY; a second call changes nothing."""
    for loss_class in (CriticLoss, RQILoss, EfficientPBANLoss, SSIMLoss):
        name = loss_class.__name__
        if name not in LOSS_REGISTRY:
            slot = type(name, (StockSlot,), {"loss_class": loss_class, "__doc__": loss_class.__doc__})
            slot.__module__ = __name__
            LOSS_REGISTRY.register(slot)
    if "LossList" not in LOSS_REGISTRY:
        LOSS_REGISTRY.register(LossList)


register()
