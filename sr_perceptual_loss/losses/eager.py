"""A function outside the graph of ``torch.compile``; a file of its own, since this import loads the compiler: 2 s."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["eagerly"]


@torch.compiler.disable
def eagerly(function: Callable[[Tensor, Tensor], Tensor], sr: Tensor, hr: Tensor) -> Tensor:
    """function(sr, hr), not traced."""
    return function(sr, hr)
