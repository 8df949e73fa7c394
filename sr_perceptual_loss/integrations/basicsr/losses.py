"""Our losses in BasicSR's slots, and the list ``train.losses`` of our models: any number of losses as one.

Stock models call ``perceptual_opt`` as ``percep, style = loss(output, gt)`` and add ``pixel_opt`` as a tensor. Our
registered classes return the pair, and are refused in ``pixel_opt``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import check_choice, check_known_keys
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.integrations.basicsr.entries import build_entry, entry_name, takes_output_only
from sr_perceptual_loss.integrations.basicsr.finite import FiniteChecks
from sr_perceptual_loss.integrations.host import HostLoss
from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.frozen import share_critics
from sr_perceptual_loss.losses.schedule import Schedule
from sr_perceptual_loss.monitor.guard import HackingGuard

__all__ = ["GAN_NAMES", "GAN_SHARE", "BasicSRLoss", "LossList", "named_losses"]

#: What the GAN term of a model may be called, and why it has no share.
GAN_NAMES = ("gan", "l_gan", "l_g_gan", "gan_opt")
GAN_SHARE = (
    "a GAN term takes no share. The gradient of an untrained discriminator is noise, and a share would scale it up to "
    "full size, which ruins the start of a training. Remove the share, and give `train.gan_opt` a plain `loss_weight`; "
    "the term is added to the balanced losses."
)


class BasicSRLoss(HostLoss):
    """One of our losses under its own name in LOSS_REGISTRY, returning what ``perceptual_opt`` expects."""

    how_to_step = (
        "Use our models (model_type: PerceptualSRModel, PerceptualSRGANModel, ...), which tell it; stock models cannot."
    )

    def forward(self, output: Tensor, gt: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """(loss, None); the arguments are BasicSR's (prediction, target)."""
        return super().forward(output, gt), None


def named_losses(model: Any) -> dict[str, nn.Module]:
    """The losses of a BasicSR model by log name; the entries of a list one by one."""
    losses: dict[str, nn.Module] = {}
    for attribute, loss in vars(model).items():
        if isinstance(loss, LossList):
            losses |= zip(loss.names, loss.members, strict=True)
        elif attribute.startswith("cri_") and isinstance(loss, nn.Module):
            losses["percep" if attribute == "cri_perceptual" else attribute[4:]] = loss
    return losses


class LossList(nn.Module):
    """The sum of any number of losses, each with its own name; our models build it from ``train.losses``.

    In a stock model: ``perceptual_opt: {type: LossList, losses: [...]}`` (one log value, the sum).

    Args:
        losses: entries ``{type, name?, schedule?, <constructor arguments>}``; ours or BasicSR's, those that return a
            tensor and those that return BasicSR's pair. ``schedule`` may stand in any of them; see :class:`Schedule`.
        balance: ``{type: grad_norm, shares: {name: number, ...}}``: the gradients of the named entries at the SR output
            get norms in these shares, whatever their ``loss_weight`` (see :class:`GradNormBalancer`); entries without
            a share are added as they are, and so is the model's GAN term, which takes none. None: a plain sum.

    Attributes:
        names: of the entries.
        schedules: name -> schedule, for those entries that have one.
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
        self.schedules: dict[str, Schedule] = {}
        self._output_only: set[str] = set()
        for position, entry in enumerate(losses):
            where = f"losses[{position}]"
            member, schedule = build_entry(entry, where)
            name = entry_name(entry)
            if name in members:
                raise InputError(f"{where}: a second entry would be logged as '{name}'; give it its own `name:`.")
            members[name] = member
            if takes_output_only(member, f"{where} ({entry['type']})"):
                self._output_only.add(name)
            if not schedule.constant:
                self.schedules[name] = schedule
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
        #: Whether a gradient has come back through the sum yet.
        self.reached = False
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
        zero = torch.zeros((), dtype=torch.float32)  # whatever the default dtype is
        for name, loss in self.pair_losses.items():
            for term in loss.term_names:
                terms[f"{term}_{name}"] = loss.terms[term] if name in self._called else zero
        for name in self.names:
            if name in self.schedules:
                terms[f"weight_{name}"] = torch.tensor(self.factor(name), dtype=torch.float32)
        if self.balancer is not None:
            for term in self.balancer.term_names:
                terms[f"balance_{term}"] = self.balancer.terms[term] if self._called else zero
        return terms

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

    def factor(self, name: str) -> float:
        """What schedule and guard multiply an entry by."""
        if name in self.pair_losses:
            return self.pair_losses[name].factor
        schedule = self.schedules.get(name)
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
        values = [self._checked(name, output, gt) for name in self.names if name not in shares]
        if self.balancer is not None:
            values.append(self._balanced(self.balancer, output, gt))
        total = torch.stack(values).sum()
        if training and total.requires_grad and not self.reached:
            total.register_hook(lambda _: setattr(self, "reached", True))
        if not training or not (self.checks.deferred or total.requires_grad):
            self.checks.check(collective=False)  # no backward pass will do it, and other ranks may not evaluate
        return total, None

    def _checked(self, name: str, output: Tensor, gt: Tensor) -> Tensor:
        """Value of an entry on its own view of the output, whose gradient is that of this entry alone."""
        if name in self.schedules and self.factor(name) == 0:
            return self._zero(name, output)
        view = output.view_as(output)
        self.checks.watch(name, view)
        value = self.checks.call(name, lambda: self.value(name, view, gt), lambda: self._zero(name, output))
        self.checks.record(name, value)
        return value

    def _zero(self, name: str, output: Tensor) -> Tensor:
        """A zero that stays on the graph, whatever the output holds."""
        self.parts[name] = torch.zeros((), dtype=torch.float32, device=output.device)
        return output[:0].float().sum()

    def value(self, name: str, image: Tensor, gt: Tensor) -> Tensor:
        """Value of one entry with weight and schedule, a 0-d tensor; it is kept for the log."""
        member = self.members[self.names.index(name)]
        result = member(image) if name in self._output_only else member(image, gt)
        self._called.add(name)
        values = [v for v in (result if isinstance(result, tuple) else (result,)) if v is not None]
        if not values or any(v.dim() != 0 for v in values):
            shapes = [tuple(v.shape) for v in values]
            raise InputError(f"losses: '{name}' returned shapes {shapes}, expected a 0-d tensor (reduction: mean).")
        value = values[0] if len(values) == 1 else values[0] + values[1]
        if name in self.schedules and name not in self.pair_losses:
            value = self.factor(name) * value
        self.parts[name] = value.detach()
        return value.float()

    def _balanced(self, balancer: GradNormBalancer, output: Tensor, gt: Tensor) -> Tensor:
        """The balanced part; schedules act on the shares, since a factor on a loss would be balanced away.

        The balancer reads the norm of each gradient, so it checks these entries itself, on all ranks.
        """
        factors = {name: self.factor(name) for name in balancer.shares}
        for name, factor in factors.items():
            if factor == 0:
                self._zero(name, output)
        functions = {name: lambda image, name=name: self.value(name, image, gt) for name in balancer.shares}
        return balancer(output, functions, factors=factors)


def _build_balancer(balance: Mapping[str, Any], names: Sequence[str]) -> GradNormBalancer:
    if not isinstance(balance, Mapping):
        raise InputError(f"balance: got {balance!r}, expected a mapping such as {{type: grad_norm, shares: {{...}}}}.")
    check_known_keys("balance", balance, ("type", "shares"))
    check_choice("balance.type", balance.get("type", "grad_norm"), ("grad_norm",))
    shares = balance.get("shares")
    if not isinstance(shares, Mapping):
        raise InputError(f"balance.shares: got {shares!r}, expected a mapping from entry names to numbers.")
    if gan := [name for name in shares if name in GAN_NAMES and name not in names]:
        raise InputError(f"balance.shares.{gan[0]}: {GAN_SHARE}")
    check_known_keys("balance.shares", shares, names)
    return GradNormBalancer(shares)
