"""Agreement between the ranks of ``torch.distributed``, so that no rank waits for one that has stopped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["format_ranks", "mean_over_ranks", "ranks_with_flag", "world_size"]


def world_size() -> int:
    """Number of ranks; 1 if ``torch.distributed`` is not initialised."""
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
        device: device of the process group.

    Returns:
        Rank numbers, ascending; ``[0]`` or ``[]`` in a single process.
    """
    if world_size() == 1:
        return [0] if bool(flag) else []
    flags = torch.zeros(world_size(), dtype=torch.float32, device=device)
    flags[torch.distributed.get_rank()] = flag
    torch.distributed.all_reduce(flags)
    return [int(rank) for rank in flags.nonzero().flatten().tolist()]


def format_ranks(ranks: Sequence[int]) -> str:
    """`` on rank 3`` or `` on ranks 1, 3``, for messages; empty if there is one rank only."""
    if world_size() == 1 or not ranks:
        return ""
    return f" on rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
