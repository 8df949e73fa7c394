"""Finite checks of our BasicSR models: what stops one rank stops all of them in the same step, with the rank named.

In these models every rank calls every loss equally often, since only the iteration decides what is called; so each
check of a value may be a collective call. Otherwise the ranks without the fault would wait in DDP's next one.

Gradients are another matter: a loss of a project may be constant on one rank (nothing to judge in its batch), and its
hook is then not called there. A bad gradient is therefore noted and let through: DDP's mean carries it to all ranks,
where the check before the optimizer step finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sr_perceptual_loss.errors import NonFiniteError
from sr_perceptual_loss.losses.distributed import format_ranks, ranks_with_flag, world_size

__all__ = ["FiniteCheck", "sync_errors", "check_finite", "gather_messages"]

STOPPED = "Stopped before the optimizer step."


def check_finite(tensor: Tensor, what: str) -> None:
    """Raise on every rank if a tensor is not finite on any of them.

    Args:
        tensor: any shape.
        what: it is, for the message.

    Raises:
        NonFiniteError: with the ranks.
    """
    ranks = ranks_with_flag(~torch.isfinite(tensor.detach()).all(), tensor.device)
    if ranks:
        raise NonFiniteError(f"{what} is NaN or infinite{format_ranks(ranks)}. {STOPPED}")


def sync_errors(call: Callable[[], Any], what: str, device: torch.device) -> Any:
    """Call something; an error of one rank becomes an error of all.

    Args:
        call: without arguments.
        what: it is, for the message on the ranks without the error.
        device: where the process group works.

    Returns:
        What the call returns.

    Raises:
        NonFiniteError: another rank has failed; on that rank its own error is raised.
    """
    if world_size() == 1:
        return call()
    result, error = None, None
    try:
        result = call()
    except Exception as problem:
        error = problem
    ranks = ranks_with_flag(error is not None, device)
    if error is not None:
        raise error
    if ranks:
        raise NonFiniteError(f"{what} failed{format_ranks(ranks)}, whose message says why. {STOPPED}")
    return result


def gather_messages(own: Sequence[str]) -> list[str]:
    """What the ranks have noted, each with its rank; a collective call.

    Args:
        own: notes of this rank.

    Returns:
        ``<note> on rank <number>``, in the order of the ranks; the plain notes where nothing is distributed.
    """
    if world_size() == 1:
        return list(own)
    gathered: list[list[str]] = [[] for _ in range(world_size())]
    torch.distributed.all_gather_object(gathered, list(own))
    return [f"{note}{format_ranks([rank])}" for rank, notes in enumerate(gathered) for note in notes]


class FiniteCheck(nn.Module):
    """A stock loss that stops the run, by name, when its value is not finite.

    Args:
        loss: the loss to call.
        name: what to call it in the message.
    """

    def __init__(self, loss: nn.Module, name: str) -> None:
        super().__init__()
        self.loss = loss
        self.name = name

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Whatever the wrapped loss takes and returns."""
        value = self.loss(*args, **kwargs)
        if isinstance(value, Tensor):
            side = " (discriminator side)" if kwargs.get("is_disc") else ""
            check_finite(value, f"{self.name}{side}: the loss")
        return value
