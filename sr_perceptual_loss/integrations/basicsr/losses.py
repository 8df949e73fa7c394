"""Our losses in BasicSR's slots, and the list ``train.losses`` of our models: any number of losses as one.

Stock models call ``perceptual_opt`` as ``percep, style = loss(output, gt)`` and add ``pixel_opt`` as a tensor. Our
registered classes return the pair, and are refused in ``pixel_opt``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from basicsr.losses import build_loss
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from sr_perceptual_loss.checks import check_choice, check_known_keys, nearest
from sr_perceptual_loss.errors import InputError, UnknownNameError, WeightsError
from sr_perceptual_loss.integrations.basicsr.finite import FiniteChecks
from sr_perceptual_loss.integrations.host import HostLoss
from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.frozen import share_critics
from sr_perceptual_loss.losses.schedule import Schedule
from sr_perceptual_loss.monitor.guard import HackingGuard

__all__ = ["BasicSRLoss", "LossList", "check_arguments", "describe", "entry_name", "registered"]


class BasicSRLoss(HostLoss):
    """One of our losses under its own name in LOSS_REGISTRY, returning what ``perceptual_opt`` expects."""

    how_to_step = (
        "Use our models (model_type: PerceptualSRModel, PerceptualSRGANModel, ...), which tell it; stock models cannot."
    )

    def forward(self, output: Tensor, gt: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """(loss, None); the arguments are BasicSR's (prediction, target)."""
        return super().forward(output, gt), None


def registered(registry: Any, name: str) -> bool:
    """Whether BasicSR's ``registry.get`` finds a name; its own classes may have a suffix."""
    return name in registry or f"{name}_basicsr" in registry


def check_arguments(where: str, kind: str, options: Mapping[str, Any], further: Sequence[str] = ()) -> None:
    """Refuse options that the constructor of a registered loss does not take; ``further`` ones are not its own.

    Raises:
        InputError: naming the key.
    """
    cls, where = LOSS_REGISTRY.get(kind), f"{where} ({kind})"
    options = {key: value for key, value in options.items() if key not in ("type", *further)}
    if where.startswith(("train.pixel_opt", "train.ldl_opt")) and issubclass(cls, HostLoss | LossList):
        raise InputError(
            f"{where}: it returns the pair (loss, None) of BasicSR's perceptual slot, and this slot takes one tensor. "
            "Move it to `train.perceptual_opt`, or to the list `train.losses` of our models (Perceptual<Name>)."
        )
    if inspect.isclass(cls) and issubclass(cls, HostLoss):
        cls.check_options(where, options)
        return
    parameters = inspect.signature(cls).parameters.values()
    if all(p.kind is not p.VAR_KEYWORD for p in parameters):
        check_known_keys(where, options, [*further, *(p.name for p in parameters)])
    for p in parameters:
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in options:
            raise InputError(f"{where}: `{p.name}` is missing.")


def _build_entry(entry: object, where: str) -> tuple[nn.Module, bool]:
    """One entry of ``train.losses``, and whether it takes a ``schedule`` itself; it is not handed on otherwise."""
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(kind, str):
        raise InputError(f"{where}: got {entry!r}, expected a mapping such as `- {{type: L1Loss, loss_weight: 1.0}}`.")
    if not registered(LOSS_REGISTRY, kind):
        raise UnknownNameError(f"{where}: no loss '{kind}' is registered.{nearest(kind, LOSS_REGISTRY.keys())}")
    if kind == "LossList":
        raise InputError(f"{where}: a LossList inside of a list; put its entries into the list itself.")
    cls = LOSS_REGISTRY.get(kind)
    parameters, ours = inspect.signature(cls).parameters, inspect.isclass(cls) and issubclass(cls, HostLoss)
    takes_schedule = ours or "schedule" in parameters
    left_out = ["name"] if takes_schedule else ["name", "schedule"]
    check_arguments(where, kind, entry, left_out)
    try:
        member = build_loss({key: value for key, value in entry.items() if key not in left_out})
    except (InputError, UnknownNameError, WeightsError) as error:
        raise type(error)(f"{where} ({kind}): {error}") from None
    except (TypeError, ValueError) as error:  # of a loss that is not ours
        raise InputError(f"{where} ({kind}): {error}") from error
    if not isinstance(member, nn.Module):
        raise InputError(f"{where} ({kind}): got a {type(member).__name__}, expected a class of torch.nn.Module.")
    return (OutputLoss(member) if _takes_output_only(member, f"{where} ({kind})") else member), takes_schedule


class OutputLoss(nn.Module):
    """A loss of the output alone, such as total variation, called like the others."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss, self.loss_weight = loss, getattr(loss, "loss_weight", None)

    def forward(self, output: Tensor, gt: Tensor) -> Any:
        """``loss(output)``."""
        return self.loss(output)


#: Names of first arguments that are no prediction, and of second arguments that are no ground truth.
NO_OUTPUT = re.compile(r"(gt|hr|hq|target|real|ref|y_true|net|model|disc)", re.I)
NO_TARGET = re.compile(r".*(weight|mask|is_real|is_disc)|(lr|lq|map|pred|sr|fake|output|iter)", re.I)


def _takes_output_only(loss: nn.Module, where: str) -> bool:
    """From the signature: False for ``loss(output, gt)``, True for ``loss(output)``; InputError for anything else."""
    if isinstance(loss, HostLoss):
        return False
    parameters = list(inspect.signature(loss.forward).parameters.values())
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    images = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    needed += [p.name for p in images[2:] if p.default is p.empty]
    takes = f"{where}: its forward takes ({', '.join(map(str, parameters))}), expected (output, ground truth)"
    if needed or (not images and not several) or (images and NO_OUTPUT.match(images[0].name)):
        raise InputError(f"{takes}. Wrap it in a class of your own that is called so.")
    if len(images) < 2:
        return not several
    second = images[1]
    optional = second.default is not second.empty
    if (
        NO_TARGET.match(second.name)
        or second.annotation in (bool, "bool")
        or second.default not in (second.empty, None)
    ):
        if not optional:
            raise InputError(f"{takes}: `{second.name}` is not the ground truth.")
        return True
    return False


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


def describe(loss: nn.Module) -> str:
    """One line: ours with critic, weights, crops and form; of others the class and the weight."""
    loss = loss.loss if isinstance(loss, HostLoss | OutputLoss) else loss
    weights = [f"{key}={getattr(loss, key)}" for key in ("loss_weight", "perceptual_weight") if hasattr(loss, key)]
    return repr(loss) if isinstance(loss, PairLoss) else f"{type(loss).__name__}({', '.join(weights)})"


class LossList(nn.Module):
    """The sum of any number of losses, each with its own name; our models build it from ``train.losses``.

    In a stock model: ``perceptual_opt: {type: LossList, losses: [...]}`` (one log value, the sum).

    Args:
        losses: entries ``{type, name?, schedule?, <constructor arguments>}``; ours or BasicSR's, those that return a
            tensor and those that return BasicSR's pair. ``schedule`` may stand in any of them; see :class:`Schedule`.
        balance: ``{type: grad_norm, shares: {name: number, ...}}``: the gradients of the named entries at the SR output
            get norms in these shares, whatever their ``loss_weight`` (see :class:`GradNormBalancer`); entries without
            a share are added as they are. None: a plain sum.

    Attributes:
        names: of the entries.
        pair_losses: name -> loss, for those entries that are losses of this package.
        parts: name -> detached 0-d value of the last call.
        checks: the finite checks, one per entry; our models read them before the optimizer step.
        guard: set by our models.
    """

    def __init__(self, losses: Sequence[Mapping[str, Any]], balance: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if not isinstance(losses, list | tuple) or not losses:
            raise InputError(
                f"losses: got {losses!r}, expected a list. Put '- ' in front of each entry: `- {{type: L1Loss}}`, or "
                "remove the key."
            )
        members: dict[str, nn.Module] = {}
        #: Of entries that take no schedule themselves.
        self._schedules: dict[str, Schedule] = {}
        for position, entry in enumerate(losses):
            where = f"losses[{position}]"
            member, takes_schedule = _build_entry(entry, where)
            name = entry_name(entry)
            if name in members:
                raise InputError(f"{where}: a second entry would be logged as '{name}'; give it its own `name:`.")
            members[name] = member
            schedule = Schedule.from_config(entry.get("schedule"))
            if not schedule.constant and not takes_schedule:
                self._schedules[name] = schedule
        self.names = tuple(members)
        # A ModuleDict would refuse names such as "type".
        self.members = nn.ModuleList(members.values())
        ours = {name: member.loss if isinstance(member, HostLoss) else member for name, member in members.items()}
        self.pair_losses = {name: loss for name, loss in ours.items() if isinstance(loss, PairLoss)}
        for loss in self.pair_losses.values():
            loss.on_nonfinite = "ignore"  # this list checks all entries alike
        self.checks = FiniteChecks()
        self.checks.names += self.names
        # Two entries with the same critic and weights use one copy of it.
        share_critics(self)
        self.balancer = None if not balance else _build_balancer(balance, self.names)
        self.parts: dict[str, Tensor] = {}
        self.guard: HackingGuard | None = None
        self._called: set[str] = set()
        self._iteration: int | None = None

    def step(self, iteration: int) -> None:
        """Set the global iteration of all entries, and forget the last call: an entry not called now is logged as 0."""
        self._iteration = iteration
        self.parts, self._called = {}, set()
        for member in (*self.members, self.balancer):
            if isinstance(member, HostLoss | PairLoss | GradNormBalancer):
                member.step(iteration)

    def terms(self) -> dict[str, Tensor]:
        """``score_<name>`` and the like of the last call, for logs; zeros for entries that were not called.

        An entry with a schedule adds ``weight_<name>``: the factor of this iteration, from schedule and guard.
        """
        terms = {}
        for name, loss in self.pair_losses.items():
            for term in loss.term_names:
                terms[f"{term}_{name}"] = loss.terms[term] if name in self._called else torch.zeros(())
        for name in self.names:
            if name in self._schedules or (name in self.pair_losses and not self.pair_losses[name].schedule.constant):
                terms[f"weight_{name}"] = torch.tensor(self._factor(name))
        if self.balancer is not None:
            for term in self.balancer.term_names:
                terms[f"balance_{term}"] = self.balancer.terms[term] if self._called else torch.zeros(())
        return terms

    def described(self) -> dict[str, str]:
        """Name -> one line on the entry, for the log."""
        lines = {name: describe(member) for name, member in zip(self.names, self.members, strict=True)}
        return lines | {name: f"{lines[name]}, schedule={schedule}" for name, schedule in self._schedules.items()}

    def _stateful(self) -> dict[str, nn.Module]:
        """What has a state worth saving; BasicSR's own losses have none (the VGG of PerceptualLoss would be 80 MB)."""
        parts: dict[str, nn.Module] = dict(self.pair_losses)
        if self.balancer is not None:
            parts["train.balance"] = self.balancer  # no name of an entry has a dot
        return {name: part for name, part in parts.items() if part.state_dict()}

    def training_state(self) -> dict[str, Any]:
        """What a resumed run needs, by name of the entry; mostly empty."""
        return {name: part.state_dict() for name, part in self._stateful().items()}

    def load_training_state(self, state: Mapping[str, Any]) -> list[str]:
        """Put back a :meth:`training_state`; returns the names that it does not fit, which start anew."""
        parts = self._stateful()
        common = [name for name in parts if name in state and state[name].keys() == parts[name].state_dict().keys()]
        for name in common:
            parts[name].load_state_dict(state[name])
        return sorted((parts.keys() | state.keys()) - set(common))

    def _factor(self, name: str) -> float:
        """What schedule and guard multiply an entry by."""
        if name in self.pair_losses:
            return self.pair_losses[name].factor
        schedule = self._schedules.get(name)
        if schedule is None:
            return 1.0
        if self._iteration is None:
            raise InputError(
                f"losses: '{name}' has a schedule, but was never told the iteration. {BasicSRLoss.how_to_step}"
            )
        return schedule.factor(self._iteration)

    def forward(self, output: Tensor, gt: Tensor) -> tuple[Tensor, None]:
        """(sum of the entries, None); HackingError where the guard stops the run."""
        training = output.requires_grad and torch.is_grad_enabled()
        if self.guard is not None and self._iteration is not None and training:
            self.guard.step(self._iteration, output, gt, self.pair_losses)
        self.checks.images = (output.detach(), gt)
        shares = {} if self.balancer is None else self.balancer.shares
        members = dict(zip(self.names, self.members, strict=True))
        values = [self._checked(name, members[name], output, gt) for name in self.names if name not in shares]
        if self.balancer is not None:
            values.append(self._balanced({name: members[name] for name in shares}, output, gt))
        total = torch.stack(values).sum()
        if not training or not (self.checks.deferred or total.requires_grad):
            self.checks.check(collective=False)  # no backward pass will do it, and other ranks may not evaluate
        return total, None

    def _checked(self, name: str, member: nn.Module, output: Tensor, gt: Tensor) -> Tensor:
        """Value of an entry on its own view of the output, whose gradient is that of this entry alone."""
        if name in self._schedules and self._factor(name) == 0:
            return self._zero(name, output)
        view = output.view_as(output)
        self.checks.watch(name, view)
        value = self.checks.call(name, lambda: self._value(name, member, view, gt), lambda: self._zero(name, output))
        self.checks.record(name, value)
        return value

    def _zero(self, name: str, output: Tensor) -> Tensor:
        """A zero that stays on the graph, whatever the output holds."""
        self.parts[name] = torch.zeros((), device=output.device)
        return output[:0].float().sum()

    def _value(self, name: str, member: nn.Module, image: Tensor, gt: Tensor) -> Tensor:
        """Value of an entry, kept for the log."""
        result = member(image, gt)
        self._called.add(name)
        values = [v for v in (result if isinstance(result, tuple) else (result,)) if v is not None]
        if not values or any(v.dim() != 0 for v in values):
            shapes = [tuple(v.shape) for v in values]
            raise InputError(f"losses: '{name}' returned shapes {shapes}, expected a 0-d tensor (reduction: mean).")
        value = values[0] if len(values) == 1 else values[0] + values[1]
        if name in self._schedules:
            value = self._factor(name) * value
        self.parts[name] = value.detach()
        return value.float()

    def _balanced(self, members: Mapping[str, nn.Module], output: Tensor, gt: Tensor) -> Tensor:
        """The balanced part; schedules act on the shares, since a factor on a loss would be balanced away.

        The balancer reads the norm of each gradient, so it checks these entries itself, on all ranks.
        """
        assert self.balancer is not None
        factors = {name: self._factor(name) for name in members}
        for name, factor in factors.items():
            if factor == 0:
                self._zero(name, output)
        functions = {
            name: lambda image, name=name, member=member: self._value(name, member, image, gt)
            for name, member in members.items()
        }
        return self.balancer(output, functions, factors=factors)


def _build_balancer(balance: Mapping[str, Any], names: Sequence[str]) -> GradNormBalancer:
    if not isinstance(balance, Mapping):
        raise InputError(f"balance: got {balance!r}, expected a mapping such as {{type: grad_norm, shares: {{...}}}}.")
    check_known_keys("balance", balance, ("type", "shares"))
    check_choice("balance.type", balance.get("type", "grad_norm"), ("grad_norm",))
    shares = balance.get("shares")
    if not isinstance(shares, Mapping):
        raise InputError(f"balance.shares: got {shares!r}, expected a mapping from entry names to numbers.")
    check_known_keys("balance.shares", shares, names)
    return GradNormBalancer(shares)
