"""One loss of an option file: its keys, its construction, its name, and what its ``forward`` takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

from sr_perceptual_loss.checks import as_weight, check_known_keys, nearest
from sr_perceptual_loss.errors import InputError, UnknownNameError, WeightsError
from sr_perceptual_loss.integrations.host import HostLoss
from sr_perceptual_loss.losses.schedule import Schedule

__all__ = ["build_entry", "check_arguments", "entry_name", "is_ours", "registered", "takes_output_only"]


def registered(registry: Any, name: str) -> bool:
    """Whether BasicSR's ``registry.get`` finds a name; its own classes may have a suffix."""
    return name in registry or f"{name}_basicsr" in registry


def is_ours(kind: str) -> bool:
    """Whether a registered name is that of one of our losses, or of the list."""
    cls = LOSS_REGISTRY.get(kind)
    return kind == "LossList" or (inspect.isclass(cls) and issubclass(cls, HostLoss))


def check_arguments(where: str, kind: str, options: Mapping[str, Any], further: Sequence[str] = ()) -> None:
    """Refuse options that the constructor of a registered loss does not take; ``further`` ones are not its own.

    Raises:
        InputError: naming the key.
    """
    cls = LOSS_REGISTRY.get(kind)
    if is_ours(kind) and where in ("train.pixel_opt", "train.ldl_opt", "train.gan_opt"):
        raise InputError(
            f"{where} ({kind}): it returns the pair (loss, None) of BasicSR's perceptual slot. Move it to "
            "`train.perceptual_opt`, or to the list `train.losses` of our models (Perceptual<Name>)."
        )
    where = f"{where} ({kind})"
    options = {key: value for key, value in options.items() if key not in ("type", *further)}
    if is_ours(kind) and kind != "LossList":
        cls.check_options(where, options)
        return
    if cls.__module__.startswith("basicsr."):
        for key in options.keys() & {"loss_weight", "perceptual_weight", "style_weight"}:
            as_weight(f"{where}: {key}", options[key])
    parameters = inspect.signature(cls).parameters.values()
    if all(p.kind is not p.VAR_KEYWORD for p in parameters):
        check_known_keys(where, options, [*further, *(p.name for p in parameters)])
    for p in parameters:
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in options:
            raise InputError(f"{where}: `{p.name}` is missing.")


def build_entry(entry: object, where: str) -> tuple[nn.Module, Schedule]:
    """One entry of ``train.losses``, and its schedule."""
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(kind, str):
        raise InputError(f"{where}: got {entry!r}, expected a mapping such as `- {{type: L1Loss, loss_weight: 1.0}}`.")
    if not registered(LOSS_REGISTRY, kind):
        raise UnknownNameError(f"{where}: no loss '{kind}' is registered.{nearest(kind, LOSS_REGISTRY.keys())}")
    if kind == "LossList":
        raise InputError(f"{where}: a LossList inside of a list; put its entries into the list itself.")
    # Another's argument of this name is its own business.
    takes_schedule = "schedule" in inspect.signature(LOSS_REGISTRY.get(kind)).parameters
    left_out = ["name"] if takes_schedule or is_ours(kind) else ["name", "schedule"]
    check_arguments(where, kind, entry, left_out)
    where = f"{where} ({kind})"
    try:
        # Not by build_loss, which writes to a log that may not be set up yet.
        member = LOSS_REGISTRY.get(kind)(**{k: v for k, v in deepcopy(entry).items() if k not in ("type", *left_out)})
    except (InputError, UnknownNameError, WeightsError) as error:
        raise type(error)(f"{where}: {error}") from None
    except (TypeError, ValueError) as error:  # of a loss that is not ours
        raise InputError(f"{where}: {error}") from error
    if not isinstance(member, nn.Module):
        raise InputError(f"{where}: got a {type(member).__name__}, expected a class of torch.nn.Module.")
    return member, Schedule() if takes_schedule else Schedule.from_config(entry.get("schedule"))


#: Names of first arguments that are no prediction, and of second arguments that are no ground truth.
NO_OUTPUT = re.compile(r"(gt|hr|hq|target|real|ref|y_true|net|model|disc)", re.I)
NO_TARGET = re.compile(r".*(weight|mask|is_real|is_disc)|(lr|lq|map|pred|sr|fake|output|iter)", re.I)


def takes_output_only(loss: nn.Module, where: str) -> bool:
    """From the signature: False for ``loss(output, gt)``, True for ``loss(output)``; InputError for anything else."""
    try:
        parameters = list(inspect.signature(loss.forward).parameters.values())
    except (TypeError, ValueError):  # a compiled function shows none
        return False
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    images = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    further = [*images[2:], *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]
    takes = f"{where}: its forward takes ({', '.join(map(str, parameters))}), expected (output, ground truth)"
    needed = any(p.default is p.empty for p in further)
    if needed or not (images or several) or (images and NO_OUTPUT.match(images[0].name)):
        raise InputError(f"{takes}. Wrap it in a class of your own that is called so.")
    if len(images) < 2:
        return not several
    second = images[1]
    odd_default = second.default not in (second.empty, None)
    if not (NO_TARGET.match(second.name) or second.annotation in (bool, "bool") or odd_default):
        return False
    if second.default is second.empty:
        raise InputError(f"{takes}: `{second.name}` is not the ground truth.")
    return True


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
