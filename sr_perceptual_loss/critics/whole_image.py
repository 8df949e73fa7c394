"""Scores of whole images: large ones in little memory, and by critics that take one size only.

* A critic with a fixed input (224x224) scores evenly spaced crops, at the same places in both images, as few as cover
  the image. The score is their mean. No paper publishes this protocol: compare only numbers that were computed in this
  way.
* A :class:`LocalCritic` scores large images in horizontal strips. The score is that of the whole image.
* Any other critic takes the whole image at once; its memory grows with the image.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sr_perceptual_loss.checks import check_pair
from sr_perceptual_loss.critics.base import Critic, TargetFeatures
from sr_perceptual_loss.critics.card import SizeRule
from sr_perceptual_loss.errors import InputError, NonFiniteError

__all__ = [
    "PIXELS_AT_ONCE",
    "LocalCritic",
    "map_whole_image",
    "score_boxes",
    "score_whole_image",
    "strips",
    "unit_range",
]

#: Crops that are scored at once: limits the memory for large images.
CROPS_AT_ONCE = 8
#: Larger images are scored in strips of about this size.
PIXELS_AT_ONCE = 2**20
#: (top, left, height, width).
Box = tuple[int, int, int, int]


class LocalCritic(Critic):
    """A critic that makes maps of both images, each position from a neighbourhood, and pools them to a score.

    A map of ``h`` rows has h = ceil(H / r) or floor(H / r) with a whole number r of its own.

    Attributes:
        halo: rows above and below on which a row of a map depends; a multiple of ``align``.
        align: multiple of every r; strips start at multiples of it.
        pools_sums: whether the score depends on the sums of the maps over positions only, which saves memory.
    """

    halo: int
    align: int
    pools_sums: ClassVar[bool] = False

    @abstractmethod
    def _maps(self, sr: Tensor, target: TargetFeatures) -> dict[str, Tensor]:
        """Maps (N, C, h, w) by name, from the SR image and the result of ``_encode_target(hr)``."""

    @abstractmethod
    def pool(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Scores (N,) from the maps; if ``pools_sums``, also from their sums (N, C, 1, 1)."""

    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        return self.pool(self._maps(sr, target))

    def maps(self, sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """The maps by name, (N, C, h, w); arguments and errors as of :meth:`score`."""
        check_pair(sr, hr)
        self._check_range(sr, hr)
        dtype = self.compute_dtype(sr)
        with torch.autocast(sr.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            return self._maps(sr.to(dtype), self.encode_target(hr))


def strips(height: int, rows: int, least: int, align: int = 1) -> Iterator[tuple[int, int]]:
    """(top, bottom) of strips of about ``rows`` rows, ``least`` or more, that start at multiples of ``align``."""
    rows = -(-max(rows, least, 1) // align) * align
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _score_in_strips(critic: LocalCritic, sr: Tensor, hr: Tensor) -> float:
    """The score of the whole image, up to rounding, from the maps of its strips."""
    height, width = sr.shape[1:]
    parts: dict[str, list[Tensor]] = {}
    ratios: dict[str, int] = {}
    with torch.no_grad():
        for top, bottom in strips(height, PIXELS_AT_ONCE // width - 2 * critic.halo, critic.halo, critic.align):
            first, last = max(0, top - critic.halo), min(height, bottom + critic.halo)
            for name, part in critic.maps(*(unit_range(image[None, :, first:last]) for image in (sr, hr))).items():
                # The rows of the first strip are a multiple of `align`.
                ratio = ratios.setdefault(name, (last - first) // part.shape[2])
                end = (bottom - first) // ratio if bottom < height else None
                part = part[:, :, (top - first) // ratio : end]
                part = part.double().sum((2, 3), keepdim=True) if critic.pools_sums else part.clone()
                parts.setdefault(name, []).append(part)
        return float(critic.pool({name: torch.cat(part, 2) for name, part in parts.items()}))


def unit_range(image: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]; other images unchanged."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image


class FrozenLike(Protocol):
    """A wrapper around a critic, such as ``losses.FrozenCritic``."""

    critic: Critic

    def score(self, sr: Tensor, hr: Tensor) -> Tensor:
        """As :meth:`Critic.score`."""


def score_whole_image(critic: Critic | FrozenLike, sr: Tensor, hr: Tensor, name: str) -> float:
    """Score of the whole image if the critic takes its size, else the mean over crops that cover the image.

    Large images are scored in strips by critics that can (:class:`LocalCritic`).

    Args:
        critic: a critic in eval mode, or a ``FrozenCritic``.
        sr: SR (distorted) image, (3, H, W) RGB in [0, 1], or uint8, on the critic's device.
        hr: reference image, same shape.
        name: name of the image, for messages.

    Returns:
        The score; higher is better.

    Raises:
        InputError: the image is smaller than the critic's input, or the images differ in size.
        NonFiniteError: the score is NaN or infinite.
    """
    inner = critic if isinstance(critic, Critic) else critic.critic
    if sr.shape != hr.shape:
        raise InputError(f"{name}: got shapes {tuple(sr.shape)} and {tuple(hr.shape)}, expected two equal ones.")
    boxes = tile_boxes(inner.input_size, sr.shape[1], sr.shape[2], inner.card.name, name)
    if isinstance(inner, LocalCritic) and len(boxes) == 1 and sr.shape[1] * sr.shape[2] > PIXELS_AT_ONCE:
        value = _score_in_strips(inner, sr, hr)
    else:
        with torch.no_grad():
            scores = score_boxes(critic, sr, hr, boxes)
        value = sum(scores) / len(scores)
    if not math.isfinite(value):
        raise NonFiniteError(f"{name}: the score is {value}; the weights or the image are damaged.")
    return value


def map_whole_image(critic: Critic, sr: Tensor, hr: Tensor, name: str) -> Tensor:
    """:meth:`Critic.score_map` of the whole image if the critic takes its size, else of crops that cover the image.

    Arguments and errors are those of :func:`score_whole_image`; a metric without gradient is an InputError too.

    Returns:
        (H, W); the mean of the maps where crops overlap.
    """
    total, number = (torch.zeros(sr.shape[1:], device=sr.device) for _ in range(2))
    for y, x, h, w in tile_boxes(critic.input_size, sr.shape[1], sr.shape[2], critic.card.name, name):
        crops = (unit_range(image[None, :, y : y + h, x : x + w]) for image in (sr, hr))
        total[y : y + h, x : x + w] += critic.score_map(*crops)[0, 0]
        number[y : y + h, x : x + w] += 1
    return total / number


def score_boxes(
    critic: Critic | FrozenLike, sr: Tensor, hr: Tensor, boxes: Sequence[Box], at_once: int = CROPS_AT_ONCE
) -> list[float]:
    """Score of each box of two images (3, H, W), RGB in [0, 1] or uint8; ``at_once`` limits the memory."""
    scores: list[float] = []
    for start in range(0, len(boxes), at_once):
        batch = boxes[start : start + at_once]
        crops = (torch.stack([image[:, y : y + h, x : x + w] for y, x, h, w in batch]) for image in (sr, hr))
        scores += critic.score(*map(unit_range, crops)).double().cpu().tolist()
    return scores


def tile_boxes(rule: SizeRule, height: int, width: int, critic: str, name: str) -> list[Box]:
    """Evenly spaced boxes of an allowed size that cover the image, as few as possible; one if it is taken as a whole.

    ``critic`` is the name of the critic and ``name`` that of the image, for the message.

    Raises:
        InputError: the image is smaller than the critic's input.
    """
    step = rule.multiple_of
    box_height, box_width = (rule.fixed or length // step * step for length in (height, width))
    smallest = rule.fixed or max(rule.minimum, step)
    if min(height, width) < smallest or min(box_height, box_width) < rule.minimum:
        raise InputError(
            f"{name}: {width}x{height} pixels (width x height), but {critic} takes {rule.describe()}. Score larger "
            "images, or enlarge both images before scoring and report that with the score."
        )
    tops, lefts = _starts(height, box_height), _starts(width, box_width)
    return [(top, left, box_height, box_width) for top in tops for left in lefts]


def _starts(length: int, side: int) -> list[int]:
    """Evenly spaced starts of segments that cover a line."""
    count = -(-length // side)
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]
