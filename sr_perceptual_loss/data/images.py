"""Image files as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sr_perceptual_loss._checks import InputError

__all__ = ["SUFFIXES", "read_image"]

#: Suffixes that count as images when a folder is searched.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_image(path: str | Path) -> Tensor:
    """(3, H, W) float32 RGB in [0, 1]; gray is repeated, an alpha channel is dropped.

    Args:
        path: an image file with 8 bits per channel.

    Raises:
        InputError: not there, not an image, or more than 8 bits per channel.
    """
    try:
        with Image.open(path) as image:
            # Pillow cuts 16-bit gray to 8 bits without scaling, so it is refused here.
            if image.mode.startswith("I"):
                raise InputError(f"{path}: a {image.mode} image; expected 8 bits per channel, as the metrics use.")
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"{path}: no readable image ({str(error).splitlines()[0]}).") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
