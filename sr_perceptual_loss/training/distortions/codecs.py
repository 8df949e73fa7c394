"""KADID-10k types 9 and 10: JPEG2000 and JPEG, by Pillow on the CPU (one image after the other, 8 bits)."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from sr_perceptual_loss._checks import InstallError
from sr_perceptual_loss.training.distortions.draws import Draws

__all__ = ["compress_jpeg", "compress_jpeg2000", "to_pictures", "to_tensor"]

# Below this side a JPEG2000 file is mostly header, so that a compression ratio would mean something else.
_SMALLEST_JPEG2000 = 256


def to_pictures(image: Tensor) -> list[Image.Image]:
    """(N, 3, H, W) in [0, 1] as 8-bit RGB pictures."""
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(one) for one in pixels]


def to_tensor(pictures: list[Image.Image], like: Tensor) -> Tensor:
    """Inverse of :func:`to_pictures`, with the type and device of ``like``."""
    pixels = np.stack([np.asarray(one.convert("RGB")) for one in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(like.device, like.dtype) / 255


def compress_jpeg(image: Tensor, quality: float, draws: Draws) -> Tensor:
    """JPEG of this quality (libjpeg's scale), chroma at half resolution."""
    decoded = []
    for picture in to_pictures(image):
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=int(quality), subsampling=2)
        decoded.append(_decoded(file))
    return to_tensor(decoded, image)


def compress_jpeg2000(image: Tensor, ratio: float, draws: Draws) -> Tensor:
    """Lossy JPEG2000 at this compression ratio.

    A side under 256 pixels is encoded within a mirrored surround, and the middle is kept.

    Raises:
        InstallError: this Pillow was built without OpenJPEG.
    """
    if not features.check("jpg_2000"):
        raise InstallError("this Pillow cannot write JPEG2000; install one of the wheels: pip install --force pillow")
    height, width = image.shape[-2:]
    rows, columns = _mirrored(height), _mirrored(width)
    decoded = []
    for picture in to_pictures(image[..., rows, :][..., columns]):
        file = io.BytesIO()
        picture.save(file, format="JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)
        decoded.append(_decoded(file))
    top, left = (len(rows) - height) // 2, (len(columns) - width) // 2
    return to_tensor(decoded, image)[..., top : top + height, left : left + width]


def _mirrored(length: int) -> list[int]:
    """Indices of a line of at least 256 pixels with the original in its middle, mirrored at the ends."""
    missing = max(0, _SMALLEST_JPEG2000 - length)
    before = missing // 2
    places = np.arange(-before, length + missing - before) % (2 * length)
    return np.where(places < length, places, 2 * length - 1 - places).tolist()


def _decoded(file: io.BytesIO) -> Image.Image:
    with Image.open(io.BytesIO(file.getvalue())) as picture:
        picture.load()
        return picture.copy()
