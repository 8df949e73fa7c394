"""Image files as tensors: the one place that reads them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sr_perceptual_loss.errors import InputError

__all__ = ["SUFFIXES", "ImageCache", "check_same_size", "image_size", "read_image", "read_pair", "read_pixels"]

#: Suffixes that count as images when a folder is searched, and the formats that are read whatever the suffix says.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
#: Pillow's names of the pixel types that are read.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

#: EXIF orientation -> what turns the stored pixels upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | Path) -> Tensor:
    """Read an image file, as BasicSR does with ``cv2.imread``.

    * EXIF orientation is applied; colour profiles are not.
    * Gray (also with 1, 2 or 4 bits) is repeated; a palette is resolved; alpha and transparent colours are dropped.
    * CMYK becomes (1 - C)(1 - K), (1 - M)(1 - K), (1 - Y)(1 - K).
    * Refused, unlike OpenCV: more than 8 bits per channel, which would be cut; animations and files with several pages;
      more than twice ``PIL.Image.MAX_IMAGE_PIXELS`` (179 megapixels). Of the several pictures of a photograph (MPO,
      such as depth maps) the first is read.
    * Other values than OpenCV's: BMP with 5 bits per channel (up to 7/255), and TIFF with alpha, whose colours OpenCV
      multiplies by alpha.

    Args:
        path: a PNG, JPEG, WebP, BMP or TIFF file.

    Returns:
        (3, H, W) float32 RGB in [0, 1].

    Raises:
        InputError: missing, damaged, or not an image of this kind; one sentence with the path.
    """
    return _as_tensor(read_pixels(path))


def read_pixels(path: str | Path) -> NDArray[np.uint8]:
    """As :func:`read_image`, but (H, W, 3) RGB in 0..255."""
    with _opened(path) as image:
        image.load()  # metadata may follow the pixels
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # Pillow warns of a palette with transparency that becomes RGB at once
        upright = _UPRIGHT.get(_orientation(image))
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return np.array(rgb if upright is None else rgb.transpose(upright))


def image_size(path: str | Path) -> tuple[int, int]:
    """The two sides of an image file in pixels as they are stored; orientation, which may exchange them, is not read.

    Raises:
        InputError: as :func:`read_image`.
    """
    with _opened(path) as image:
        return image.height, image.width


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file of the allowed kind; whatever goes wrong while it is open is an InputError that names it."""
    kinds = "PNG, JPEG, WebP, BMP or TIFF"
    try:
        if Path(path).is_fifo():  # Pillow would wait for ever
            raise InputError(f"{path}: a pipe, expected a file.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large photograph is no attack
            file = Image.open(path, formats=FORMATS)
        with file as image:
            if image.mode not in MODES or _bits(image) > 8:
                raise InputError(
                    f"{path}: got {image.mode} with {_bits(image)} bits per channel, expected gray, RGB, palette or "
                    "CMYK with at most 8; convert the file."
                )
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise InputError(f"{path}: an animation or a file of several pages, expected one image.")
            yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: not a readable image, expected {kinds}.") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: too many pixels ({error}); cut it into parts.") from None
    except Exception as error:  # for a damaged file Pillow raises errors of many classes
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{path}: not a readable image ({' '.join(reason.split())}).") from None


def _bits(image: Image.Image) -> int:
    """Bits per channel of the file; Pillow's mode does not tell, since it cuts colours of 16 bits to 8."""
    if image.format == "PNG":
        return 16 if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) else 8
    bits = getattr(image, "tag_v2", {}).get(258, 8)  # BitsPerSample of TIFF
    return int(max(bits) if isinstance(bits, tuple) else bits)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; Pillow turns TIFF upright on its own. OpenCV ignores a damaged EXIF block, so it is 1 then."""
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(0x0112, 1))
    except Exception:  # as above
        return 1


def read_pair(sr: Path, hr: Path) -> tuple[Tensor, Tensor]:
    """Read two image files: (3, H, W) float32 RGB in [0, 1] each, on the CPU.

    Raises:
        InputError: unreadable, or sizes that differ.
    """
    images = read_image(sr), read_image(hr)
    check_same_size(*images, names=(sr.name, hr.name))
    return images


def check_same_size(sr: Tensor, hr: Tensor, *, names: tuple[str, str]) -> None:
    """Raise an InputError that gives the names unless two images (3, H, W) have the same size."""
    if sr.shape != hr.shape:
        sizes = " and ".join(f"{image.shape[2]}x{image.shape[1]}" for image in (sr, hr))
        raise InputError(
            f"{names[0]} and {names[1]} differ in size (width x height): {sizes}; they must show the same region of "
            "the same image (check the scale, or crop the reference)."
        )


def _as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255)


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
            pixels = read_pixels(path)
            if pixels.nbytes <= self._free:
                self._free -= pixels.nbytes
                self._cached[path] = pixels
        return _as_tensor(pixels)
