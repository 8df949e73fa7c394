"""From a drawn comparison to tensors: resize, aligned crop, flips; both images alike."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.images import ImageCache
from sr_perceptual_loss.lab.training.pairs import Draws, generator_for

__all__ = ["Batch", "Samples", "aligned_crop", "collate", "resize"]


class Batch(NamedTuple):
    """A training step's input.

    Attributes:
        judged: (N, 3, H, W) in [0, 1].
        reference: same shape.
        label: (N,).
        number: (N,) numbers of the draws, to find a sample again.
    """

    judged: Tensor
    reference: Tensor
    label: Tensor
    number: Tensor


def resize(image: Tensor, side: int) -> Tensor:
    """(3, H, W) to (3, side, side), bilinear and antialiased; the aspect ratio is not kept."""
    return F.interpolate(image[None], size=(side, side), mode="bilinear", antialias=True, align_corners=False)[0]


def aligned_crop(
    first: Tensor, second: Tensor, side: int | None, flip: str, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The same square of both images, flipped in the same way.

    Args:
        first: (3, H, W).
        second: (3, H, W).
        side: of the square, at most min(H, W); None for the whole image.
        flip: "none", "horizontal" or "both".
        random: decides place and flips.

    Returns:
        Two tensors (3, side, side), or (3, H, W).
    """
    height, width = first.shape[-2:]
    # All are drawn in every case, so that one option does not shift the random numbers of another.
    place, flips = random.random(2), random.random(2) < 0.5
    images = torch.stack([first, second])
    if side is not None:
        top, left = (int(p * (length - side + 1)) for p, length in zip(place, (height, width), strict=True))
        images = images[..., top : top + side, left : left + side]
    if flip != "none" and flips[0]:
        images = images.flip(-1)
    if flip == "both" and flips[1]:
        images = images.flip(-2)
    return images[0], images[1]


class Samples(Dataset[tuple[Tensor, Tensor, float, int]]):
    """The comparisons of one epoch as tensors; call :meth:`choose_epoch` before each epoch.

    Args:
        draws: what is compared.
        seed: of crops and flips.
        side: of the aligned random crop; None for whole images.
        exact: True if a smaller image is an error (critics of one size); else it is used whole where it is smaller.
        resize_to: side to which images are resized first; None for their own size.
        flip: "none", "horizontal" or "both".
        cache: megabytes of decoded images that are kept.
    """

    def __init__(
        self,
        draws: Draws,
        *,
        seed: int,
        side: int | None,
        exact: bool,
        resize_to: int | None,
        flip: str,
        cache: float = 0.0,
    ) -> None:
        self.draws, self.seed, self.side, self.exact = draws, seed, side, exact
        self.resize_to, self.flip = resize_to, flip
        self._images = ImageCache(cache)
        self.epoch = 0

    # Not named set_epoch: Accelerate would call that with its own count, which begins at 0 in a continued run.
    def choose_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draws are given."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Draws per epoch."""
        return len(self.draws)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, float, int]:
        """(judged, reference, label, index)."""
        item = self.draws.draw(self.epoch, index)
        first, second = self._images.read(item.judged), self._images.read(item.reference)
        if first.shape != second.shape:
            sizes = " and ".join(f"{i.shape[2]}x{i.shape[1]}" for i in (first, second))
            raise InputError(f"{item.judged} and {item.reference} differ in size (width x height): {sizes}.")
        if self.resize_to is not None:
            first, second = resize(first, self.resize_to), resize(second, self.resize_to)
        side = self.side
        if side is not None and min(first.shape[-2:]) < side:
            if self.exact:
                raise InputError(
                    f"{item.judged}: {first.shape[2]}x{first.shape[1]} pixels (width x height), smaller than the "
                    f"critic's input {side}. Set input.resize, or build a smaller network (critic.config)."
                )
            side = min(first.shape[-2:])
        random = generator_for(self.seed, self.epoch, index, 1)
        first, second = aligned_crop(first, second, side, self.flip, random)
        return first, second, item.label, index


def collate(samples: list[tuple[Tensor, Tensor, float, int]]) -> Batch:
    """Samples of one size as a batch.

    Raises:
        InputError: sizes differ.
    """
    sizes = {tuple(sample[0].shape[-2:]) for sample in samples}
    if len(sizes) > 1:
        raise InputError(
            f"images of different sizes in one batch: {sorted(sizes)}; set input.crop or input.resize, or batch: 1."
        )
    columns: Any = list(zip(*samples, strict=True))
    return Batch(
        torch.stack(columns[0]),
        torch.stack(columns[1]),
        torch.tensor(columns[2], dtype=torch.float32),
        torch.tensor(columns[3]),
    )
