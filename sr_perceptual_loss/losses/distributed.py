"""What the ranks of ``torch.distributed`` have to know of each other, so that none waits for one that stopped."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["format_ranks", "mean_over_ranks", "ranks_with_flag", "world_size"]


def world_size() -> int:
    """Number of ranks; 1 where ``torch.distributed`` is not running."""
    running = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if running else 1


def mean_over_ranks(sums: Tensor, count: int) -> Tensor:
    """Mean = sums / count, both added up over the ranks of ``torch.distributed`` if it is running.

    A collective call: every rank has to make it.

    Args:
        sums: this rank's sums, (K,).
        count: what they are sums of, on this rank; may be 0.

    Returns:
        (K,); zeros if there is nothing anywhere.
    """
    packed = torch.cat([sums, sums.new_tensor([count])])
    if world_size() > 1:
        torch.distributed.all_reduce(packed)
    return packed[:-1] / packed[-1].clamp_min(1)


def ranks_with_flag(flag: bool | Tensor, device: torch.device) -> list[int]:
    """The ranks on which something is true, known to all of them.

    A collective call (one number per rank) and a device sync: every rank has to make it.

    Args:
        flag: what is true here; a bool or a 0-d tensor.
        device: where the process group works.

    Returns:
        Rank numbers, ascending; ``[0]`` or ``[]`` where nothing is distributed.
    """
    if world_size() == 1:
        return [0] if bool(flag) else []
    votes = torch.zeros(world_size(), device=device)
    votes[torch.distributed.get_rank()] = flag
    torch.distributed.all_reduce(votes)
    return [int(rank) for rank in votes.nonzero().flatten().tolist()]


def format_ranks(ranks: list[int]) -> str:
    """`` on rank 3`` or `` on ranks 1, 3``, for messages; nothing where there is one rank only."""
    if world_size() == 1 or not ranks:
        return ""
    return f" on rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
