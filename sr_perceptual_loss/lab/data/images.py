"""Image files as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sr_perceptual_loss.errors import InputError

__all__ = ["SUFFIXES", "ImageCache", "read_image"]

#: Suffixes that count as images when a folder is searched.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_image(path: str | Path) -> Tensor:
    """(3, H, W) float32 RGB in [0, 1]; gray is repeated, an alpha channel is dropped.

    Args:
        path: an image file with 8 bits per channel.

    Raises:
        InputError: not there, not an image, or more than 8 bits per channel.
    """
    return _as_tensor(_pixels(path))


def _as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _pixels(path: str | Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            # Pillow cuts 16-bit gray to 8 bits without scaling, so it is refused here.
            if image.mode.startswith("I"):
                raise InputError(f"{path}: a {image.mode} image; expected 8 bits per channel, as the metrics use.")
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"{path}: no readable image ({str(error).splitlines()[0]}).") from None


class ImageCache:
    """:func:`read_image` that remembers pixels until a limit is reached; files must not change meanwhile.

    Args:
        megabytes: limit in 2^20 bytes; 0 remembers nothing. Each loader process has its own.
    """

    def __init__(self, megabytes: float) -> None:
        self._left = int(megabytes * 2**20)
        self._known: dict[Path, NDArray[np.uint8]] = {}

    def read(self, path: Path) -> Tensor:
        """As :func:`read_image`."""
        pixels = self._known.get(path)
        if pixels is None:
            pixels = _pixels(path)
            if pixels.nbytes <= self._left:
                self._left -= pixels.nbytes
                self._known[path] = pixels
        return _as_tensor(pixels)
