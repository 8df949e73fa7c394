"""Any number of losses as one: the list ``train.losses`` of our models, plain or balanced."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import check_choice, check_known_keys
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.integrations.basicsr.finite import check_finite, sync_errors
from sr_perceptual_loss.integrations.basicsr.slots import StockSlot, build_entry, entry_name, takes_schedule
from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.distributed import world_size
from sr_perceptual_loss.losses.frozen import share_critics
from sr_perceptual_loss.losses.schedule import Schedule
from sr_perceptual_loss.monitor.guard import HackingGuard

__all__ = ["LossList"]

#: Values of ``balance.type``.
BALANCES = ("grad_norm",)


class LossList(nn.Module):
    """The sum of any number of losses, each with its own name; our models build it from ``train.losses``.

    In a stock model: ``perceptual_opt: {type: LossList, losses: [...]}`` (one log value, the sum).

    Args:
        losses: entries ``{type, name?, schedule?, <constructor arguments>}``; ours or BasicSR's, those that return a
            tensor and those that return BasicSR's pair. ``schedule`` may stand in any of them; see :class:`Schedule`.
        balance: ``{type: grad_norm, shares: {name: number, ...}}`` and further arguments of :class:`GradNormBalancer`:
            the gradients of the named entries at the SR output get norms in these shares, whatever their
            ``loss_weight``; entries without a share are added as they are. None: a plain sum.

    Raises:
        InputError: empty, doubled names, unknown keys.
    """

    def __init__(self, losses: Sequence[Mapping[str, Any]], balance: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if not isinstance(losses, list | tuple) or not losses:
            raise InputError(f"losses: got {losses!r}, expected a list of mappings, each with a `type`.")
        members: dict[str, nn.Module] = {}
        #: Of members that take none themselves.
        self._schedules: dict[str, Schedule] = {}
        for position, entry in enumerate(losses):
            where = f"losses[{position}]"
            if not isinstance(entry, Mapping):
                raise InputError(f"{where}: got {entry!r}, expected a mapping with a `type`.")
            name = entry_name(entry)
            if name in members:
                raise InputError(f"{where}: a second entry would be logged as '{name}'; give it its own `name:`.")
            members[name] = build_entry(entry, where)
            schedule = Schedule.from_config(entry.get("schedule"))
            if not schedule.constant and not takes_schedule(entry["type"]):
                self._schedules[name] = schedule
        # Not a ModuleDict attribute access: a name such as "type" would clash with nn.Module's own attributes.
        self.names = tuple(members)
        self.members = nn.ModuleList(members.values())
        # Two entries with the same critic and weights hold it once.
        share_critics(self)
        self.balancer = None if not balance else build_balancer(balance, self.names)
        #: Detached 0-d values of the last call, by name.
        self.parts: dict[str, Tensor] = {}
        self._called: set[str] = set()
        #: Bad gradients of this rank in the last step.
        self.notes: list[str] = []
        #: Set by our models.
        self.guard: HackingGuard | None = None
        self._iteration: int | None = None

    def pair_losses(self) -> dict[str, PairLoss]:
        """Our own losses among the members, by name."""
        losses = {}
        for name, member in zip(self.names, self.members, strict=True):
            inner = member.loss if isinstance(member, StockSlot) else member
            if isinstance(inner, PairLoss):
                losses[name] = inner
        return losses

    def agree(self) -> None:
        """Let a NaN in one of our losses on one rank stop all ranks; every rank has to call the list equally often."""
        for loss in self.pair_losses().values():
            if loss.on_nonfinite == "raise":
                loss.on_nonfinite = "raise_all"

    def step(self, iteration: int) -> None:
        """Tell every loss of ours the global iteration."""
        self._iteration = iteration
        if self.balancer is not None:
            self.balancer.step(iteration)
        for loss in self.pair_losses().values():
            loss.step(iteration)

    def terms(self) -> dict[str, Tensor]:
        """``score_<name>`` and the like of the last call, for logs; a zero where a loss was not called.

        A member with a schedule adds ``weight_<name>``: the factor of this iteration, from schedule and guard.
        """
        found = {}
        for name, loss in self.pair_losses().items():
            for term in loss.term_names:
                found[f"{term}_{name}"] = loss.terms[term] if name in self._called else torch.zeros(())
            if not loss.schedule.constant:
                found[f"weight_{name}"] = torch.tensor(loss.factor)
        for name in self._schedules:
            found[f"weight_{name}"] = torch.tensor(self._factor(name))
        if self.balancer is not None:
            for term in self.balancer.term_names:
                found[f"balance_{term}"] = self.balancer.terms[term] if self._called else torch.zeros(())
        return found

    def training_state(self) -> dict[str, Any]:
        """What a resumed run needs: the state of our losses and of the list itself, by name; mostly empty.

        BasicSR's own losses have none worth keeping (the VGG of PerceptualLoss would be 80 MB).
        """
        ours, prefixes = self.pair_losses(), {f"members.{i}.": name for i, name in enumerate(self.names)}
        state = {}
        for key, value in self.state_dict().items():
            prefix = next((p for p in prefixes if key.startswith(p)), None)
            if prefix is None or prefixes[prefix] in ours:
                state[key if prefix is None else f"{prefixes[prefix]}/{key.removeprefix(prefix)}"] = value
        return state

    def load_training_state(self, state: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Put back a :meth:`training_state`.

        Returns:
            Keys of this list that the state lacks, and keys of the state that this list does not have.
        """
        places = {name: f"members.{i}." for i, name in enumerate(self.names)}
        known = self.training_state()
        found = {key: value for key, value in state.items() if key in known}
        self.load_state_dict({_place(key, places): value for key, value in found.items()}, strict=False)
        return sorted(known.keys() - found.keys()), sorted(state.keys() - found.keys())

    def _factor(self, name: str) -> float:
        """Factor of a member that takes no schedule itself."""
        schedule = self._schedules.get(name)
        if schedule is None:
            return 1.0
        if self._iteration is None:
            raise InputError(
                f"losses: '{name}' has a schedule, but the list was never told the iteration. Use our models "
                "(model_type: PerceptualSRModel, PerceptualSRGANModel, ...), which do it; stock models cannot."
            )
        return schedule.factor(self._iteration)

    def forward(self, output: Tensor, gt: Tensor) -> tuple[Tensor, None]:
        """(sum of the members, None).

        Raises:
            NonFiniteError: naming the member whose value or gradient is NaN or infinite.
            HackingError: the guard stops the run.
        """
        if self.guard is not None and self._iteration is not None:
            self.guard.step(self._iteration, output, gt, self.pair_losses())
        self.begin()
        members = dict(zip(self.names, self.members, strict=True))
        shares = {} if self.balancer is None else self.balancer.shares
        plain = [self._value(name, member, output, gt) for name, member in members.items() if name not in shares]
        if self.balancer is not None:
            plain.append(self._balanced({name: members[name] for name in self.names if name in shares}, output, gt))
        return torch.stack(plain).sum(), None

    def begin(self) -> None:
        """Forget the last call: what is not called from now on is logged as zero."""
        self.parts, self._called, self.notes = {}, set(), []

    def _balanced(self, members: Mapping[str, nn.Module], output: Tensor, gt: Tensor) -> Tensor:
        """The balanced part; schedules act on the shares, since a factor on a loss would be balanced away."""
        assert self.balancer is not None
        ours = self.pair_losses()
        factors = {name: ours[name].factor if name in ours else self._factor(name) for name in members}
        functions = {
            name: lambda image, name=name, member=member: self._value(name, member, image, gt)
            for name, member in members.items()
        }
        value = self.balancer.combine(output, functions, factors=factors)
        for name, factor in factors.items():
            if factor == 0:
                self.parts[name] = torch.zeros((), device=output.device)
        return value

    def _value(self, name: str, member: nn.Module, output: Tensor, gt: Tensor) -> Tensor:
        """Value of one member, checked, and kept for the log."""
        factor = self._factor(name)
        if factor == 0:
            self.parts[name] = torch.zeros((), device=output.device)
            return output[:0].float().sum()  # a zero on the graph, whatever output holds
        own = output.view_as(output)
        ours = self.pair_losses().get(name)
        agreed = ours is not None and ours.on_nonfinite == "raise_all"
        if own.requires_grad and not agreed:
            own.register_hook(lambda gradient: self._check_gradient(gradient, name))
        result = member(own, gt) if agreed else sync_errors(lambda: member(own, gt), name, output.device)
        self._called.add(name)
        values = [v for v in (result if isinstance(result, tuple) else (result,)) if v is not None]
        if not values or any(v.dim() != 0 for v in values):
            shapes = [tuple(v.shape) for v in values]
            raise InputError(f"losses: '{name}' returned shapes {shapes}, expected a 0-d tensor (reduction: mean).")
        value = values[0] if len(values) == 1 else values[0] + values[1]
        value = value if factor == 1 else factor * value
        if not agreed:
            check_finite(value, f"{name}: the loss")
        self.parts[name] = value.detach()
        return value.float()

    def _check_gradient(self, gradient: Tensor, name: str) -> None:
        """Stop, or with several ranks leave a note for the check before the optimizer step (see agreeing.py)."""
        what = f"{name}: the gradient to the SR output"
        if world_size() == 1:
            check_finite(gradient, what)
        elif not bool(torch.isfinite(gradient).all()):
            self.notes.append(f"{what} is NaN or infinite")


def build_balancer(balance: Mapping[str, Any], names: Sequence[str]) -> GradNormBalancer:
    """The balancer of ``train.balance``.

    Args:
        balance: ``type``, ``shares`` and further arguments of :class:`GradNormBalancer`.
        names: the entries of the list.

    Returns:
        The balancer.

    Raises:
        InputError: unknown key or type, shares missing, or a share for no entry.
    """
    if not isinstance(balance, Mapping):
        raise InputError(f"balance: got {balance!r}, expected a mapping such as {{type: grad_norm, shares: {{...}}}}.")
    options = dict(balance)
    known = list(inspect.signature(GradNormBalancer).parameters)
    check_known_keys("balance", options, ["type", *known])
    check_choice("balance.type", options.pop("type", BALANCES[0]), BALANCES)
    shares = options.pop("shares", None)
    if not isinstance(shares, Mapping):
        raise InputError(f"balance.shares: got {shares!r}, expected a mapping from entry names to numbers.")
    check_known_keys("balance.shares", shares, names)
    return GradNormBalancer(shares, **options)


def _place(key: str, places: Mapping[str, str]) -> str:
    name, slash, rest = key.partition("/")
    return places[name] + rest if slash else key
