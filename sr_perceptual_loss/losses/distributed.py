"""Agreement between the ranks of ``torch.distributed``, so that no rank waits for one that has stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from sr_perceptual_loss.errors import NonFiniteError

__all__ = ["format_ranks", "gather_messages", "mean_over_ranks", "ranks_with_flag", "sync_errors", "world_size"]

T = TypeVar("T")


def world_size() -> int:
    """Number of ranks; 1 where ``torch.distributed`` is not running."""
    running = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if running else 1


def mean_over_ranks(sums: Tensor, count: int) -> Tensor:
    """Mean = sums / count, both added up over all ranks. A collective call.

    Args:
        sums: sums of this rank, (K,).
        count: number of items in these sums on this rank; may be 0.

    Returns:
        Means, (K,); zeros if no rank has any item.
    """
    packed = torch.cat([sums, sums.new_tensor([count])])
    if world_size() > 1:
        torch.distributed.all_reduce(packed)
    return packed[:-1] / packed[-1].clamp_min(1)


def ranks_with_flag(flag: bool | Tensor, device: torch.device) -> list[int]:
    """The ranks on which a flag is true, known to all of them. A collective call and one device sync.

    Args:
        flag: flag of this rank; a bool or a 0-d tensor.
        device: of the process group.

    Returns:
        Rank numbers, ascending; ``[0]`` or ``[]`` in a single process.
    """
    if world_size() == 1:
        return [0] if bool(flag) else []
    flags = torch.zeros(world_size(), device=device)
    flags[torch.distributed.get_rank()] = flag
    torch.distributed.all_reduce(flags)
    return [int(rank) for rank in flags.nonzero().flatten().tolist()]


def format_ranks(ranks: Sequence[int]) -> str:
    """`` on rank 3`` or `` on ranks 1, 3``, for messages; empty where there is one rank only."""
    if world_size() == 1 or not ranks:
        return ""
    return f" on rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def sync_errors(call: Callable[[], T], what: str, device: torch.device) -> T:
    """Call a function; an error of one rank becomes an error of all. A collective call.

    Args:
        call: function without arguments.
        what: name of the function, for the message on the ranks without the error.
        device: of the process group.

    Returns:
        The function's result.

    Raises:
        NonFiniteError: another rank has failed; the failing rank raises its original error.
    """
    if world_size() == 1:
        return call()
    error: Exception | None = None
    try:
        result = call()
    except Exception as raised:
        error = raised
    ranks = ranks_with_flag(error is not None, device)
    if error is not None:
        raise error
    if ranks:
        raise NonFiniteError(f"{what} failed{format_ranks(ranks)}; the message of that rank says why.")
    return result


def gather_messages(messages: Sequence[str]) -> list[str]:
    """The messages of all ranks, each with its rank. A collective call.

    Args:
        messages: messages of this rank.

    Returns:
        ``<message> on rank <number>``, in the order of the ranks; the plain messages in a single process.
    """
    if world_size() == 1:
        return list(messages)
    gathered: list[list[str]] = [[] for _ in range(world_size())]
    torch.distributed.all_gather_object(gathered, list(messages))
    return [f"{message}{format_ranks([rank])}" for rank, sent in enumerate(gathered) for message in sent]
