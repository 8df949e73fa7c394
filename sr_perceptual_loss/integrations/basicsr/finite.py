"""Finite checks of a BasicSR step: flags are collected on the device and read once, before the optimizer step.

In a distributed run the reading is one collective call, so that what is wrong on one rank stops all ranks in the same
step, by name. Nothing raises before that call: the other ranks would wait for ever in the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sr_perceptual_loss.errors import NonFiniteError
from sr_perceptual_loss.losses.distributed import format_ranks, world_size

__all__ = ["FiniteChecks"]

#: What a flag says about a name, in the order in which it is reported; of one name only the first is.
KINDS = {
    "failed": "{} failed{}, whose message says why",
    "value": "{}: the loss is NaN or infinite{}",
    "gradient": "{}: the gradient to the SR output is NaN or infinite{}",
}
WEIGHTS = "the gradients of the network"


class FiniteChecks:
    """Flags of one step: is each value, and each gradient, finite?

    Attributes:
        names: of all losses that may be recorded; the same on every rank.
        deferred: the model calls :meth:`check` before the optimizer step. Without it, every gradient hook does.
        collective: the ranks agree in :meth:`check`; every rank has to call it equally often.
        device: where the process group works; needed for ``collective``.
        images: SR output and ground truth of the step, to name the cause.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.deferred = self.collective = False
        self.device: torch.device | None = None
        self.images: tuple[Tensor, Tensor] | None = None
        self._bad: dict[tuple[str, str], Tensor] = {}
        self._errors: dict[str, Exception] = {}

    def record(self, name: str, value: Tensor, kind: str = "value") -> None:
        """Note whether a value is finite; no device sync."""
        bad = ~torch.isfinite(value.detach()).all()
        before = self._bad.get((name, kind))
        self._bad[name, kind] = bad if before is None else before | bad

    def record_calls(self, loss: nn.Module, name: str) -> None:
        """Record what a stock loss returns from now on; calls for a discriminator under a name of their own."""
        discriminator = f"{name} (discriminator)"
        self.names += [name, discriminator] if name == "gan_opt" else [name]

        def record(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            for value in result if isinstance(result, tuple) else (result,):
                if isinstance(value, Tensor):
                    self.record(discriminator if kwargs.get("is_disc") else name, value)

        loss.register_forward_hook(record, with_kwargs=True)

    def watch(self, name: str, view: Tensor) -> None:
        """Note whether the gradient that arrives at a tensor is finite; the tensor must be this loss's own view."""
        if view.requires_grad:
            view.register_hook(partial(self._on_gradient, name))

    def _on_gradient(self, name: str, gradient: Tensor) -> None:
        self.record(name, gradient, "gradient")
        if not self.deferred:
            self.check()

    def call(self, name: str, function: Callable[[], Tensor], zero: Callable[[], Tensor]) -> Tensor:
        """Call something; in a distributed run its error waits for :meth:`check`, and ``zero()`` takes its place."""
        if not self.collective:
            return function()
        try:
            return function()
        except Exception as error:
            self._errors[name], value = error, zero()
            self._bad[name, "failed"] = torch.ones((), dtype=torch.bool, device=value.device)
            return value

    def check(self, parameters: Iterable[tuple[str, nn.Parameter]] = (), *, collective: bool = True) -> None:
        """Read all flags since the last check: one device sync, and one collective call where ranks must agree.

        Args:
            parameters: (name, parameter) of the network that is about to step; their gradients are checked as well.
            collective: False where only this rank may be calling.

        Raises:
            NonFiniteError: naming the losses and the ranks; the same on every rank.
            Exception: what a loss has raised on this rank.
        """
        gradients = [(name, p.grad) for name, p in parameters if p.grad is not None]
        if gradients:
            self.record(WEIGHTS, torch.nn.utils.get_total_norm([gradient for _, gradient in gradients]))
        bad, errors, images = self._bad, self._errors, self.images
        self._bad, self._errors, self.images = {}, {}, None
        collective = collective and self.collective
        if not bad and not collective:
            return
        ranks = self._bad_ranks(bad, collective)
        if errors:
            raise next(iter(errors.values()))
        problems = []
        for name in self.names:
            kind = next((kind for kind in KINDS if ranks.get((name, kind))), None)
            if kind is not None:
                problems.append(KINDS[kind].format(name, format_ranks(ranks[name, kind])))
        if problems:
            raise NonFiniteError(f"{'; '.join(problems)}. Stopped before the optimizer step.{_cause(images)}")
        if ranks.get((WEIGHTS, "value")):
            culprit = next((n for n, g in gradients if not bool(torch.isfinite(g).all())), "a parameter")
            raise NonFiniteError(
                f"the gradient of {culprit} is NaN or infinite although every loss was finite. Stopped before the "
                "optimizer step; lower the learning rate."
            )

    def _bad_ranks(self, bad: dict[tuple[str, str], Tensor], collective: bool) -> dict[tuple[str, str], list[int]]:
        """The ranks on which each flag is set."""
        keys = [*((name, kind) for name in self.names for kind in KINDS), (WEIGHTS, "value")]
        device = self.device or next(iter(bad.values())).device
        false = torch.zeros((), dtype=torch.bool, device=device)
        flags = torch.stack([bad.get(key, false).to(device) for key in keys]).float()
        rank = torch.distributed.get_rank() if world_size() > 1 else 0
        if collective:
            table = flags.new_zeros(world_size(), len(keys))
            table[rank] = flags
            torch.distributed.all_reduce(table)
            rows = dict(enumerate(table.tolist()))
        else:
            rows = {rank: flags.tolist()}
        return {key: [rank for rank, row in rows.items() if row[i]] for i, key in enumerate(keys)}


def _cause(images: tuple[Tensor, Tensor] | None) -> str:
    """What this rank can say about the cause."""
    if images is None:
        return ""
    if not bool(torch.isfinite(images[1]).all()):
        return " On this rank the ground truth holds NaN or infinity: check the data loader."
    if not bool(torch.isfinite(images[0]).all()):
        return " On this rank the SR output holds NaN or infinity: the network diverged before the losses."
    return " Lower the learning rate or the weight."
