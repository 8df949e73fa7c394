"""Aligned crops of an image pair: how many, how large, at which scales, and how to enlarge small patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.checks import as_int, check_choice, check_known_keys
from sr_perceptual_loss.errors import InputError

__all__ = ["CropPlan", "crop_boxes", "crop_pairs", "enlarge"]

SMALL_POLICIES = ("error", "reflect", "resize")
POSITIONS = ("random", "grid", "center")

#: (top, left) of the crop in each image of the batch.
Box = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class CropPlan:
    """Which aligned crops of a pair a critic scores.

    Attributes:
        size: side of the square crop; None takes the critic's fixed size, or the whole image if it has none.
        count: crops per scale.
        scales: factors by which the image is reduced; factors that make it smaller than the crop are skipped.
        small: treatment of patches smaller than the crop: ``error``, ``reflect`` (mirror at the borders) or ``resize``
            (antialiased bicubic enlargement of both images).
        position: ``random`` (private generator, one box per image), ``grid`` (evenly spaced over the image, the same
            for every image) or ``center``.
        seed: seed of the private generator; the global random state is not used.

    Raises:
        InputError: a wrong value.
    """

    size: int | None = None
    count: int = 1
    scales: tuple[int, ...] = (1,)
    small: str = "error"
    position: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        """Convert numbers that YAML delivers as text, and validate."""
        scales = self.scales if isinstance(self.scales, list | tuple) else (self.scales,)
        if not scales:
            raise InputError("crops.scales: got an empty list, expected factors such as [1, 2, 3].")
        numbers: dict[str, object] = {
            "size": None if self.size is None else as_int("crops.size", self.size, minimum=1),
            "count": as_int("crops.count", self.count, minimum=1),
            "scales": tuple(as_int("crops.scales", scale, minimum=1) for scale in scales),
            "seed": as_int("crops.seed", self.seed),
        }
        for name, number in numbers.items():
            object.__setattr__(self, name, number)
        check_choice("crops.small", self.small, SMALL_POLICIES)
        check_choice("crops.position", self.position, POSITIONS)
        if self.seed and self.position != "random":
            raise InputError(f"crops.seed: got {self.seed}, which has no effect with position: {self.position}.")
        if self.count > 1 and self.position == "center":
            raise InputError(f"crops.count: got {self.count}, but position: center has one crop; use random or grid.")

    def check_whole_images(self, critic: str) -> None:
        """Raise InputError for a field that has no effect without a crop size; ``critic`` takes images of any size."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "scales" and value != field.default:
                raise InputError(
                    f"crops.{field.name}: got {value!r}, which has no effect on whole images, and {critic} takes them "
                    "whole. Give the side of the crops too, such as crops: {size: 224}, or leave `crops` out."
                )

    @classmethod
    def from_config(cls, value: CropPlan | Mapping[str, object] | int | None) -> CropPlan:
        """A plan from the value of a YAML key: a plan, a mapping of its fields, a crop size, or None.

        Raises:
            InputError: unknown key or wrong value.
        """
        if value is None:
            return cls()
        if isinstance(value, CropPlan):
            return value
        if isinstance(value, Mapping):
            check_known_keys("crops", value, [f.name for f in fields(cls)])
            return cls(**value)  # type: ignore[arg-type]
        return cls(size=as_int("crops", value, minimum=1))


def _wide(image: Tensor) -> Tensor:
    """Cast to float32 or wider: not every device has antialiased interpolation in half precision."""
    return image.to(torch.promote_types(image.dtype, torch.float32))


def enlarge(image: Tensor, size: int, policy: str) -> Tensor:
    """Enlarge an image so that both sides are at least ``size``; differentiable.

    Args:
        image: (N, C, H, W).
        size: minimum side.
        policy: ``reflect`` or ``resize``.

    Returns:
        The image itself if it is large enough, else (N, C, H', W'); ``resize`` works in float32 or wider.
    """
    height, width = image.shape[-2:]
    short = min(height, width)
    if short >= size:
        return image
    if policy == "resize":
        # Rounded to whole pixels; the aspect ratio is kept to within one pixel.
        target = (round(height * size / short), round(width * size / short))
        return F.interpolate(_wide(image), size=target, mode="bicubic", antialias=True, align_corners=False)
    for dim, side in ((2, height), (3, width)):
        if side < size:
            # F.pad(mode="reflect") adds at most side - 1 pixels; a triangle wave of indices mirrors as often as needed.
            period = max(1, 2 * (side - 1))
            index = (torch.arange(size, device=image.device) - (size - side) // 2).remainder(period)
            image = image.index_select(dim, torch.minimum(index, period - index) if side > 1 else index * 0)
    return image


def crop_boxes(
    shape: tuple[int, int, int], size: int, count: int, position: str, generator: torch.Generator | None
) -> list[Box]:
    """Corners of square crops inside images of equal size.

    Args:
        shape: (N, H, W).
        size: side of the crop, at most min(H, W).
        count: crops per image.
        position: ``random``, ``grid`` or ``center``.
        generator: CPU generator for ``random``.

    Returns:
        ``count`` boxes, each a list of N (top, left); a single one if the crop is the whole image. ``random`` draws
        uniformly from the corners that keep the crop inside; ``grid`` takes the smallest rows x columns >= count and
        keeps the first ``count``.
    """
    n, height, width = shape
    free = (height - size, width - size)
    if free == (0, 0):
        return [[(0, 0)] * n]
    if position == "center":
        return [[(free[0] // 2, free[1] // 2)] * n] * count
    if position == "grid":
        return [[corner] * n for corner in _grid(free, count)]
    corners = [torch.randint(0, f + 1, (count, n), generator=generator, device="cpu").tolist() for f in free]
    return [list(zip(top, left, strict=True)) for top, left in zip(*corners, strict=True)]


def _grid(free: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """``count`` evenly spaced corners; a single one is the centre."""
    rows = 1 if free[0] == 0 else min(count, max(1, round(count**0.5)))
    if free[1] == 0:
        rows = count
    columns = -(-count // rows)

    def spread(n: int, span: int) -> list[int]:
        return [span // 2] if n == 1 else [round(i * span / (n - 1)) for i in range(n)]

    return [(top, left) for top in spread(rows, free[0]) for left in spread(columns, free[1])][:count]


def crop_pairs(
    sr: Tensor, hr: Tensor, plan: CropPlan, size: int | None, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Aligned crops of a pair, scale by scale.

    Args:
        sr: SR images, (N, 3, H, W).
        hr: reference images, same shape.
        plan: number, scales and positions of the crops.
        size: side of the crop, or None for whole images.
        generator: CPU generator for random positions.

    Yields:
        Pairs (N, 3, size, size), or whole images if ``size`` is None; the same boxes in both images.

    Raises:
        InputError: the images are smaller than the crop and the policy is ``error``, or at every scale.
    """
    height, width = sr.shape[-2:]
    empty = True
    for scale in plan.scales:
        pair = (sr, hr)
        if scale > 1:
            target = (height // scale, width // scale)
            if min(target) < (size or 1):
                continue
            a, b = (F.interpolate(_wide(image), size=target, mode="bilinear", antialias=True) for image in pair)
            pair = (a, b)
        elif size is not None and min(height, width) < size:
            if plan.small == "error":
                raise InputError(
                    f"crops: got {height}x{width} patches, the crop needs {size}x{size}. Set gt_size: {size} or larger "
                    "in the YAML (or cut larger patches), or enlarge small patches with `crops: {small: resize}` or "
                    "`{small: reflect}`."
                )
            pair = (enlarge(sr, size, plan.small), enlarge(hr, size, plan.small))
        empty = False
        if size is None:
            yield pair
            continue
        shape = (len(sr), *pair[0].shape[-2:])
        for box in crop_boxes(shape, size, plan.count, plan.position, generator):
            yield _cut(pair[0], box, size), _cut(pair[1], box, size)
    if empty:
        raise InputError(
            f"crops: at none of the scales {list(plan.scales)} is a {height}x{width} image as large as the crop "
            f"({size or 1}); add scale 1 or use larger images."
        )


def _cut(images: Tensor, box: Box, size: int) -> Tensor:
    if tuple(images.shape[-2:]) == (size, size):
        return images
    if len(set(box)) == 1:
        top, left = box[0]
        return images[..., top : top + size, left : left + size]
    cuts = [image[:, t : t + size, left : left + size] for image, (t, left) in zip(images, box, strict=True)]
    return torch.stack(cuts)
