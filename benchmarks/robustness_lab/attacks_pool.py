"""A persistent pool of attacked images with corrected labels, so that a critic does not forget what once fooled it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_int
from sr_perceptual_loss.errors import InputError

__all__ = ["AttackPool"]


class AttackPool:
    """Ring of attacked images, their references and label differences, in steps of 1/255 on the CPU.

    Args:
        capacity: number of entries; the oldest ones make room.
        side: of the square images.
    """

    def __init__(self, capacity: int, side: int) -> None:
        self.capacity = as_int("capacity", capacity, minimum=1)
        self.side = as_int("side", side, minimum=1)
        shape = (self.capacity, 3, self.side, self.side)
        self._images = torch.zeros(shape, dtype=torch.uint8)
        self._references = torch.zeros(shape, dtype=torch.uint8)
        self._labels = torch.zeros(self.capacity)
        self._next, self._filled = 0, 0

    def __len__(self) -> int:
        """Number of entries."""
        return self._filled

    def add(self, images: Tensor, references: Tensor, labels: Sequence[float]) -> None:
        """Put entries in.

        Args:
            images: attacked, (N, 3, side, side) in [0, 1].
            references: same shape.
            labels: N label differences, image less reference.

        Raises:
            InputError: images of another size, or labels of another number.
        """
        if images.shape[1:] != self._images.shape[1:] or images.shape != references.shape or len(labels) != len(images):
            raise InputError(
                f"pool: got images {tuple(images.shape)}, references {tuple(references.shape)}, {len(labels)} labels, "
                f"expected N x 3 x {self.side} x {self.side} twice and N labels."
            )
        places = [(self._next + i) % self.capacity for i in range(len(images))]
        self._images[places] = _bytes(images)
        self._references[places] = _bytes(references)
        self._labels[places] = torch.tensor([float(label) for label in labels])
        self._next = (self._next + len(images)) % self.capacity
        self._filled = min(self.capacity, self._filled + len(images))

    def draw(self, count: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Random entries.

        Args:
            count: number of them; fewer if the pool has fewer.
            generator: on the CPU.
            device: where they are needed.

        Returns:
            Images and references (N, 3, side, side) in [0, 1], label differences (N,).
        """
        chosen = torch.randperm(self._filled, generator=generator)[:count]
        images, references = (x[chosen].to(device).float() / 255 for x in (self._images, self._references))
        return images, references, self._labels[chosen].to(device)

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint; only the filled part."""
        kept = slice(0, self._filled)
        return {
            "images": self._images[kept].clone(),
            "references": self._references[kept].clone(),
            "labels": self._labels[kept].clone(),
            "next": self._next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As it was.

        Raises:
            InputError: a pool of another size.
        """
        filled = len(state["labels"])
        if filled > self.capacity or state["images"].shape[1:] != self._images.shape[1:]:
            raise InputError(
                f"pool: the state holds {filled} images of {tuple(state['images'].shape[1:])}, this pool takes "
                f"{self.capacity} of {tuple(self._images.shape[1:])}; use the settings of the first run."
            )
        for own, value in (
            (self._images, state["images"]),
            (self._references, state["references"]),
            (self._labels, state["labels"]),
        ):
            own[:filled] = value
        self._next, self._filled = int(state["next"]), filled


def _bytes(images: Tensor) -> Tensor:
    return (images.detach().clamp(0, 1) * 255).round().byte().cpu()
