"""Image pairs of a training step: decoding, resizing, aligned crop, flips; both images alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.images import ImageCache, check_same_size
from sr_perceptual_loss.lab.training.config import InputConfig
from sr_perceptual_loss.lab.training.pairs import ContentPairs, ShuffledPairs, pair_generator

__all__ = ["Batch", "Samples", "aligned_crop", "collate", "resize"]


class Batch(NamedTuple):
    """Input of a training step."""

    image: Tensor  # (N, 3, H, W) in [0, 1]
    reference: Tensor  # same shape
    label: Tensor  # (N,)
    pair_index: Tensor  # (N,) indices of the pairs in the epoch


def resize(image: Tensor, side: int) -> Tensor:
    """(3, H, W) to (3, side, side), bilinear and antialiased; the aspect ratio is not kept."""
    return F.interpolate(image[None], size=(side, side), mode="bilinear", antialias=True, align_corners=False)[0]


def aligned_crop(
    image: Tensor, reference: Tensor, side: int | None, flip: str, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The same random square of two images (3, H, W), flipped in the same way.

    ``side`` is at most min(H, W), or None for the whole image; ``flip`` is "none", "horizontal" or "both".
    """
    height, width = image.shape[-2:]
    # All are drawn in every case, so that one option does not shift the random numbers of another.
    place, flips = random.random(2), random.random(2) < 0.5
    images = torch.stack([image, reference])
    if side is not None:
        top, left = (int(p * (length - side + 1)) for p, length in zip(place, (height, width), strict=True))
        images = images[..., top : top + side, left : left + side]
    if flip != "none" and flips[0]:
        images = images.flip(-1)
    if flip == "both" and flips[1]:
        images = images.flip(-2)
    return images[0], images[1]


class Samples(Dataset[tuple[Tensor, Tensor, float, int]]):
    """The pairs of one epoch as tensors; call :meth:`choose_epoch` before each epoch.

    Args:
        pairs: what is compared.
        options: resizing, flips and cache.
        seed: of crops and flips.
        side: of the aligned random crop; None for whole images.
        exact: True if a smaller image is an error (critics of one size); else its shorter side is used.
    """

    def __init__(
        self, pairs: ContentPairs | ShuffledPairs, options: InputConfig, *, seed: int, side: int | None, exact: bool
    ) -> None:
        self.pairs, self.options, self.seed, self.side, self.exact = pairs, options, seed, side, exact
        self._images = ImageCache(options.cache)
        self.epoch = 0

    # Not named set_epoch: Accelerate would call that with its own count, which begins at 0 in a continued run.
    def choose_epoch(self, epoch: int) -> None:
        """Set the epoch that the pairs belong to."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Pairs per epoch."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, float, int]:
        """(image, reference, label, index)."""
        pair = self.pairs.pair(self.epoch, index)
        image, reference = self._images.read(pair.image), self._images.read(pair.reference)
        check_same_size(image, reference, names=(str(pair.image), str(pair.reference)))
        if self.options.resize is not None:
            image, reference = (resize(i, self.options.resize) for i in (image, reference))
        side, shorter = self.side, min(image.shape[-2:])
        if side is not None and shorter < side:
            if self.exact:
                raise InputError(
                    f"{pair.image}: {image.shape[2]}x{image.shape[1]} pixels (width x height), smaller than the "
                    f"critic's input {side}. Set input.resize, or build a smaller network (critic.config)."
                )
            side = shorter
        random = pair_generator(self.seed, self.epoch, index, 1)
        image, reference = aligned_crop(image, reference, side, self.options.flip, random)
        return image, reference, pair.label, index


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
    images, references, labels, indices = (list(column) for column in zip(*samples, strict=True))
    return Batch(
        torch.stack(images), torch.stack(references), torch.tensor(labels, dtype=torch.float32), torch.tensor(indices)
    )
