"""Image files as tensors: the one place that reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sr_perceptual_loss.errors import InputError

__all__ = ["SUFFIXES", "ImageCache", "check_same_size", "read_image", "read_pair"]

#: Suffixes that count as images when a folder is searched.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_image(path: str | Path) -> Tensor:
    """Read an image file; gray is repeated, an alpha channel is dropped.

    Args:
        path: an image file with 8 bits per channel.

    Returns:
        (3, H, W) float32 RGB in [0, 1].

    Raises:
        InputError: missing, not an image, or more than 8 bits per channel.
    """
    return _as_tensor(_pixels(path))


def read_pair(sr: Path, hr: Path) -> tuple[Tensor, Tensor]:
    """Read two image files of the same size.

    Args:
        sr: SR (distorted) image.
        hr: reference image.

    Returns:
        (3, H, W) float32 RGB in [0, 1] each, on the CPU.

    Raises:
        InputError: unreadable, or sizes that differ.
    """
    images = read_image(sr), read_image(hr)
    check_same_size(*images, names=(sr.name, hr.name))
    return images


def check_same_size(sr: Tensor, hr: Tensor, *, names: tuple[str, str]) -> None:
    """Raise unless two images have the same size.

    Args:
        sr: (3, H, W).
        hr: (3, H, W).
        names: of the files, for the message.

    Raises:
        InputError: sizes that differ.
    """
    if sr.shape != hr.shape:
        sizes = " and ".join(f"{image.shape[2]}x{image.shape[1]}" for image in (sr, hr))
        raise InputError(
            f"{names[0]} and {names[1]} differ in size (width x height): {sizes}; they must show the same region of "
            "the same image (check the scale, or crop the reference)."
        )


def _as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _pixels(path: str | Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            # Pillow cuts 16-bit gray to 8 bits without scaling.
            if image.mode.startswith("I"):
                raise InputError(f"{path}: a {image.mode} image; expected 8 bits per channel.")
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path}: not a readable image ({str(error).splitlines()[0]}).") from None


class ImageCache:
    """:func:`read_image` that keeps decoded pixels up to a memory limit; the files must not change meanwhile.

    Args:
        megabytes: limit in 2^20 bytes; 0 keeps nothing. Each loader process has its own cache.
    """

    def __init__(self, megabytes: float) -> None:
        self._free = int(megabytes * 2**20)
        self._cached: dict[Path, NDArray[np.uint8]] = {}

    def read(self, path: Path) -> Tensor:
        """As :func:`read_image`."""
        pixels = self._cached.get(path)
        if pixels is None:
            pixels = _pixels(path)
            if pixels.nbytes <= self._free:
                self._free -= pixels.nbytes
                self._cached[path] = pixels
        return _as_tensor(pixels)
