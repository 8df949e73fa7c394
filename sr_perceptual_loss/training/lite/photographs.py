"""Photographs as bytes in memory, some of them held out, and crops that are a function of what is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from sr_perceptual_loss._checks import InputError, as_path
from sr_perceptual_loss.data.images import SUFFIXES, read_image

__all__ = ["Photographs", "find_photographs", "numpy_generator", "split_photographs"]


def find_photographs(folders: Sequence[str | Path]) -> list[Path]:
    """Image files of the folders in the order of their names; sub-folders are not read.

    Raises:
        InputError: a folder without pictures.
    """
    found: list[Path] = []
    for name in folders:
        folder = as_path(name)
        if not folder.is_dir():
            raise InputError(f"data.photos: got {folder}, expected a folder of photographs ({', '.join(SUFFIXES)}).")
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise InputError(f"data.photos: {folder} holds no picture that ends in {', '.join(SUFFIXES)}.")
        found += files
    return found


def split_photographs(files: Sequence[Path], held_out: float) -> tuple[list[Path], list[Path]]:
    """Training and held-out photographs, by a hash of the file names: the same split on every machine and seed.

    Args:
        files: all of them.
        held_out: share of the second part; at least one photograph if it is above 0.

    Returns:
        Training files and held-out files, both in the given order.

    Raises:
        InputError: nothing is left to train on.
    """
    count = min(len(files), max(1, round(held_out * len(files)))) if held_out else 0
    order = sorted(files, key=lambda p: hashlib.sha256(p.name.encode()).hexdigest())
    chosen = set(order[:count])
    train = [p for p in files if p not in chosen]
    if not train:
        raise InputError(f"data.photos: {len(files)} photographs with {count} held out leave none to train on.")
    return train, [p for p in files if p in chosen]


class Photographs:
    """Pictures as bytes.

    Args:
        files: image files.
        side: smallest side that a picture needs.

    Raises:
        InputError: a picture that is smaller.
    """

    def __init__(self, files: Sequence[Path], side: int) -> None:
        self.names = [p.name for p in files]
        self.images = [(read_image(p) * 255).round().byte() for p in files]
        for name, image in zip(self.names, self.images, strict=True):
            if min(image.shape[1:]) < side:
                raise InputError(
                    f"{name}: got {image.shape[2]}x{image.shape[1]} pixels, expected sides of at least {side} "
                    "(groups.sides, validation.side); take it away."
                )

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.images)

    def crop(self, random: Generator, side: int, shrink: float, number: int | None = None) -> Tensor:
        """One crop with a random place, reduction, flip and turn.

        Args:
            random: numpy generator; the same state gives the same crop.
            side: of the result.
            shrink: smallest factor of the reduction, as far as the picture is large enough.
            number: of the photograph; drawn if None.

        Returns:
            (3, side, side) in [0, 1].
        """
        drawn = int(random.integers(len(self.images)))
        image = self.images[drawn if number is None else number % len(self.images)]
        factor = max(float(random.uniform(shrink, 1.0)), side / min(image.shape[1:]))
        reach = min(round(side / factor), *image.shape[1:])
        top, left = (int(random.integers(0, size - reach + 1)) for size in image.shape[1:])
        crop = image[None, :, top : top + reach, left : left + reach].float() / 255
        if reach != side:
            crop = F.interpolate(crop, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
        crop = crop.clamp(0, 1)[0]
        crop = crop.flip(2) if random.random() < 0.5 else crop
        return torch.rot90(crop, int(random.integers(4)), (1, 2)).contiguous()


def numpy_generator(*key: int) -> Generator:
    """Random numbers that are a function of these whole numbers alone."""
    return np.random.default_rng(list(key))
