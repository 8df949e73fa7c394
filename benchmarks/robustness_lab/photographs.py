"""Photographs in memory, and crops of them that are a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.images import SUFFIXES, read_image

__all__ = ["Photographs", "shrink", "x4_pairs"]


def shrink(hr: Tensor) -> Tensor:
    """Antialiased bicubic x1/4 in steps of 1/255; (N, 3, H, W), sides multiples of 4."""
    size = (hr.shape[-2] // 4, hr.shape[-1] // 4)
    lr = F.interpolate(hr, size=size, mode="bicubic", antialias=True, align_corners=False)
    return (lr.clamp(0, 1) * 255).round() / 255


class Photographs:
    """Pictures of a folder as bytes.

    Args:
        folder: of photographs; sub-folders are not read.
        limit: only so many, in the order of their names.

    Raises:
        InputError: no pictures there.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)[:limit]
        if not files:
            raise InputError(f"{folder}: no pictures; expected files ending in {', '.join(SUFFIXES)}.")
        self.names = [p.stem for p in files]
        self.images = [(read_image(p) * 255).round().byte() for p in files]

    def crops(self, seed: int, step: int, count: int, side: int) -> Tensor:
        """Random crops with flips and turns, (count, 3, side, side) in [0, 1]."""
        random = np.random.default_rng([seed, step])
        found = []
        for _ in range(count):
            image = self.images[int(random.integers(len(self.images)))]
            top, left = (int(random.integers(0, size - side + 1)) for size in image.shape[1:])
            crop = image[:, top : top + side, left : left + side]
            crop = crop.flip(2) if random.random() < 0.5 else crop
            found.append(crop.rot90(int(random.integers(4)), (1, 2)))
        return torch.stack(found).float() / 255


def x4_pairs(folder: Path) -> list[tuple[str, Tensor, Tensor]]:
    """(name, LR, HR), each (1, 3, H, W): ``HR/`` beside ``LR_bicubic/X4/``, or ``*_SRF_4_HR.png`` beside ``*_LR.png``.

    A folder of plain photographs is shrunk by :func:`shrink`.

    Raises:
        InputError: no pictures there.
    """
    if (folder / "HR").is_dir():
        files = [(folder / "LR_bicubic" / "X4" / f"{p.stem}x4.png", p) for p in sorted((folder / "HR").glob("*.png"))]
    else:
        files = [(p.with_name(p.name.replace("_HR", "_LR")), p) for p in sorted(folder.glob("*_SRF_4_HR.png"))]
    if files:
        found = []
        for low, high in files:
            lr, hr = read_image(low)[None], read_image(high)[None]
            found.append((high.stem, lr, hr[..., : lr.shape[-2] * 4, : lr.shape[-1] * 4]))
        return found
    photographs = Photographs(folder)
    return [(name, shrink(hr), hr) for name, hr in zip(photographs.names, _whole(photographs.images), strict=True)]


def _whole(images: Sequence[Tensor]) -> list[Tensor]:
    return [i[None, :, : i.shape[1] // 4 * 4, : i.shape[2] // 4 * 4].float() / 255 for i in images]
