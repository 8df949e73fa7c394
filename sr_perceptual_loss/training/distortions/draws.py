"""Random numbers that belong to one image each, so that an image never depends on its batch mates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Draws"]


class Draws:
    """One stream of random numbers per image of a batch, all derived from one generator.

    Image ``i`` sees the same numbers in every batch that is distorted with the same generator state, whatever its mates
    are. The numbers are drawn on the generator's device and moved to the image's: a CPU generator gives the same
    pictures on every device.

    Args:
        generator: its state moves on by one draw.
        count: number of images.
        device: where the numbers are needed.
        dtype: floating-point type of the numbers.
    """

    def __init__(self, generator: torch.Generator, count: int, device: torch.device, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        seeds = torch.randint(0, 2**62, (count,), generator=generator, device=generator.device).tolist()
        self._streams = [torch.Generator(generator.device).manual_seed(seed) for seed in seeds]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(N, *shape) standard normal numbers."""
        return self._moved([torch.randn(tuple(shape), generator=g, device=g.device) for g in self._streams])

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """(N, *shape) numbers in [0, 1)."""
        return self._moved([torch.rand(tuple(shape), generator=g, device=g.device) for g in self._streams])

    def _moved(self, parts: list[Tensor]) -> Tensor:
        return torch.stack(parts).to(self._device, self._dtype)
