"""Which keys of the section ``train`` a model reads: what it does not read would be ignored without a word."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import yaml
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils import get_root_logger
from basicsr.utils.options import ordered_yaml
from torch import nn

from sr_perceptual_loss.checks import nearest
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.integrations.basicsr.losses import BasicSRLoss, LossList
from sr_perceptual_loss.losses.base import PairLoss

__all__ = ["CLOSE", "OWN_KEYS", "ReadKeys", "check_model", "is_loss", "record_reads"]

#: Keys of ``train:`` that our models read.
OWN_KEYS = ("losses", "balance", "guard")
#: Keys that BasicSR's loop reads instead of the model.
LOOP_KEYS = ("total_iter", "warmup_iter")
CLOSE = 0.8  # of difflib, for what is surely a spelling mistake


def _noting(method: Callable[..., Any], whole: bool = False) -> Callable[..., Any]:
    def call(self: ReadKeys, *arguments: Any) -> Any:
        self.asked.update(dict.keys(self) if whole else arguments[:1])
        return method(self, *arguments)

    return call


class ReadKeys(dict):
    """A section that notes which keys are asked for; who takes all of it at once may read any of them.

    Copies share the note. A pickle and a YAML dump are those of a dict.
    """

    def __init__(self, items: Mapping[str, Any], asked: set[Any] | None = None) -> None:
        super().__init__(items)
        self.asked: set[Any] = set() if asked is None else asked

    __getitem__, __contains__, get = _noting(dict.__getitem__), _noting(dict.__contains__), _noting(dict.get)
    pop, setdefault = _noting(dict.pop), _noting(dict.setdefault)
    __iter__, __or__ = _noting(dict.__iter__, whole=True), _noting(dict.__or__, whole=True)
    keys, values, items = (_noting(method, whole=True) for method in (dict.keys, dict.values, dict.items))

    def plain(self) -> dict[Any, Any]:
        """The same items, without a note."""
        return dict(zip(dict.keys(self), dict.values(self), strict=True))

    def unread(self) -> list[Any]:
        """Keys that neither the model nor BasicSR's loop has asked for."""
        return [key for key in dict.keys(self) if key not in self.asked and key not in LOOP_KEYS]

    def copy(self) -> ReadKeys:
        """A copy with the same note."""
        return ReadKeys(self.plain(), self.asked)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> ReadKeys:
        return ReadKeys(deepcopy(self.plain(), memo), self.asked)

    def __reduce__(self) -> Any:
        return dict, (self.plain(),)


for _dumper in {yaml.SafeDumper, yaml.Dumper, getattr(yaml, "CSafeDumper", yaml.Dumper), ordered_yaml()[1]}:
    _dumper.add_representer(ReadKeys, lambda dumper, data: dumper.represent_dict(data.plain()))


def record_reads(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The option tree with a ``train`` that notes what is read, where something is trained."""
    train = opt.get("train")
    if opt.get("is_train") and isinstance(train, Mapping) and not isinstance(train, ReadKeys):
        return {**opt, "train": ReadKeys(train)}
    return dict(opt)


def is_loss(key: object, value: Any) -> bool:
    """Whether who wrote this key and value meant a loss."""
    if value in (None, False) or str(key).startswith(("optim", "scheduler")):
        return False
    entries = [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, Mapping)]
    return key in OWN_KEYS or str(key).endswith("_opt") or any({"type", "loss_weight"} & e.keys() for e in entries)


def check_model(model: Any, train: ReadKeys) -> None:
    """Refuse keys of ``train`` that a finished model has not read, and losses that its step never calls or informs.

    What is no loss may be read in the first step; if it was not by then, the log says so.

    Raises:
        InputError: naming the key.
    """
    source = _source(type(model))
    # A key that the code mentions may be read later.
    for key in (key for key in train.unread() if not re.search(rf"""["']{re.escape(str(key))}["']""", source)):
        _refuse_if_meant(key, type(model).__name__, train)
    _check_losses(model, source)
    handles: list[Any] = []

    def report(*_: object) -> None:
        while handles:
            handles.pop().remove()
        if unread := ", ".join(map(str, train.unread())):
            get_root_logger().warning(f"train: {type(model).__name__} has not read {unread}.")

    handles += [optimizer.register_step_post_hook(report) for optimizer in getattr(model, "optimizers", ())]


def _refuse_if_meant(key: Any, model: str, train: ReadKeys) -> None:
    """Raise for an unread key that is a loss, or nearly the name of a key that is read."""
    given = train.plain()
    where = f"train.{key}: {model} does not read this key"
    if key in OWN_KEYS:
        raise InputError(f"{where}, so it would be ignored. Set `model_type: Perceptual{model}`, which does.")
    if is_loss(key, given[key]):
        slots = nearest(str(key), [k for k in map(str, train.asked) if k.endswith("_opt")])
        raise InputError(
            f"{where}, so the loss would be ignored.{slots} Further losses belong into the list `losses` of our models "
            "(model_type: Perceptual<Name>)."
        )
    others = map(str, {*train.asked, *LOOP_KEYS} - given.keys())
    if likely := difflib.get_close_matches(str(key), others, 1, CLOSE):
        raise InputError(f"{where}. Did you mean '{likely[0]}'?")


def _check_losses(model: Any, source: str) -> None:
    """Raise for a loss that is missing, never called, or never told the iteration by BasicSR's own classes."""
    name = type(model).__name__
    losses = {key: loss for key, loss in vars(model).items() if isinstance(loss, nn.Module) and key[:4] == "cri_"}
    if isinstance(model, SRGANModel) and not hasattr(model, "cri_gan"):
        raise InputError(f"train.gan_opt is missing; {name} trains against a discriminator.")
    stock = all(c.__module__.startswith(("basicsr.", __package__, "builtins")) for c in type(model).__mro__)
    for key in losses if stock else ():
        # An access by a name that is put together might be to any attribute.
        mentioned = re.search(rf"\b{key}\b(?! = )|\bgetattr\b|\bvars\b|__dict__", source)
        if f"self.{key} = build_loss(" in source and not mentioned:
            raise InputError(
                f"train.{key[4:]}_opt: {name} builds this loss and never calls it. Remove the key, or take a model "
                "that calls it (ldl_opt: RealESRGANModel)."
            )
    parts = [part for loss in losses.values() for part in loss.modules()]
    scheduled = any(isinstance(part, PairLoss) and not part.schedule.constant for part in parts)
    scheduled = scheduled or any(isinstance(part, LossList) and part.schedules for part in parts)
    if scheduled and type(model).__module__.startswith("basicsr."):
        raise InputError(f"schedule: {name} never tells a loss the iteration. {BasicSRLoss.how_to_step}")


def _source(model: type) -> str:
    """The code of a model class and of those it is derived from, without ours; "" where Python cannot find it."""
    try:
        return "".join(inspect.getsource(c) for c in model.__mro__[:-1] if not c.__module__.startswith(__package__))
    except (OSError, TypeError):  # typed into a notebook
        return ""
