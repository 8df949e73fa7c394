"""How one image pair becomes one score in published protocols: scales, aligned crops, and the mean over them.

The RQI paper and the code released with it differ; both are here, under different names. The released code fails or
crops wrongly where a side equals the input size; here such an image is scored once, as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.checks import as_int, nearest
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.card import SizeRule
from sr_perceptual_loss.critics.whole_image import score_boxes
from sr_perceptual_loss.errors import InputError, NonFiniteError, UnknownNameError
from sr_perceptual_loss.ops.crops import crop_boxes

__all__ = ["PROTOCOLS", "Protocol", "get_protocol", "scales_used", "score_pair"]


@dataclass(frozen=True)
class Protocol:
    """Which crops of a pair are scored. The score is the mean over all crops of all scales."""

    name: str  # for tables and files
    # Factors of the image side in (0, 1], largest first; a scaled side is rounded down. A scale at which the image is
    # smaller than the crop is left out.
    scales: tuple[float, ...]
    # Number of crops at each scale. An image that is exactly as large as the crop is scored once and counts as often as
    # the protocol asks for crops, since all of them would be the same.
    crops: tuple[int, ...]
    # Of the crops: ``random`` (seeded) or ``centre``; ``whole`` for no crops.
    position: Literal["random", "centre", "whole"] = "random"
    successive: bool = False  # each scale is made from the one before it (released code), not from the original
    source: str = ""  # where it comes from

    def as_dict(self) -> dict[str, object]:
        """Plain values that the score depends on, for files."""
        return {key: value for key, value in asdict(self).items() if key != "source"}


_ALL = (
    Protocol(
        "paper",
        (1.0, 1 / 2, 1 / 3),
        (20, 20, 20),
        source="RQI supplement, section 2 (its down-scaling filter is not stated; here bilinear)",
    ),
    Protocol(
        "released",
        (1.0, 1 / 2, 1 / 4),
        (20, 10, 5),
        successive=True,
        source="the code released with RQI, without its errors where a side equals the input size",
    ),
    Protocol("single_scale", (1.0,), (20,), source="RQI supplement, ablation of table 1"),
    Protocol("full", (1.0,), (1,), position="whole", source="the whole image; critics of free size only"),
    Protocol("centre", (1.0,), (1,), position="centre", source="one central crop: cheap, for validation"),
)

#: The protocols by name.
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def get_protocol(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        UnknownNameError: with the nearest known name.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError(f"no protocol '{name}'.{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def score_pair(
    critic: Critic,
    sr: Tensor,
    hr: Tensor,
    protocol: Protocol,
    *,
    seed: int,
    crop_size: int | None = None,
    crops_at_once: int = 8,
) -> float:
    """Mean score of the crops that the protocol asks for; the same crops in both images.

    The boxes depend on ``seed`` and the image size alone, so all versions of a reference are scored at the same places,
    whatever the order of the images or ``crops_at_once``. The global random state is not touched.

    Args:
        critic: used as it is; the caller sets eval mode.
        sr: SR (distorted) image, (3, H, W) RGB in [0, 1], on the critic's device.
        hr: reference image, same shape and device.
        protocol: see :class:`Protocol`.
        seed: of the crop positions.
        crop_size: side of the crops for a critic of free size, which otherwise sees the whole image at every scale; an
            image smaller than it gets crops of its shorter side.
        crops_at_once: batch size; limits the memory.

    Returns:
        The score; higher is better.

    Raises:
        InputError: wrong shapes, or an image or crop size that the critic does not take.
        NonFiniteError: NaN or infinite score.
    """
    if sr.dim() != 3 or sr.shape != hr.shape:
        shapes = f"{tuple(sr.shape)} and {tuple(hr.shape)}"
        raise InputError(f"sr and hr: got shapes {shapes}, expected two images (3, H, W) of equal size.")
    crops_at_once = as_int("crops_at_once", crops_at_once, minimum=1)
    height, width = int(sr.shape[1]), int(sr.shape[2])
    scales = scales_used(critic, protocol, height, width, crop_size=crop_size)
    side = _crop_side(critic, protocol, crop_size, height, width)
    # Numpy mixes the three numbers, so neighbouring seeds and sizes give unrelated boxes.
    mixed = np.random.default_rng((as_int("seed", seed), height, width)).integers(2**63)
    generator = torch.Generator().manual_seed(int(mixed))
    total, count_of_all = 0.0, 0
    # Not inference_mode: tensors that a critic caches in it could not be used in training.
    with torch.no_grad():
        for a, b, count in _scaled(critic.input_size, sr, hr, protocol, side, scales):
            if side is None:
                boxes = [(0, 0, a.shape[1], a.shape[2])]
            else:
                position = "center" if protocol.position == "centre" else "random"
                corners = crop_boxes((1, a.shape[1], a.shape[2]), side, count, position, generator)
                boxes = [(top, left, side, side) for ((top, left),) in corners]
            scores = score_boxes(critic, a, b, boxes, crops_at_once)
            total += count * sum(scores) / len(scores)
            count_of_all += count
    value = total / count_of_all
    if not math.isfinite(value):
        raise NonFiniteError(f"{critic.card.name}: the score is {value}; the weights or the image are damaged.")
    return value


def scales_used(
    critic: Critic, protocol: Protocol, height: int, width: int, *, crop_size: int | None = None
) -> tuple[float, ...]:
    """The protocol's scales at which an image of this size is large enough for the critic, largest first.

    The arguments are those of :func:`score_pair`.

    Raises:
        InputError: the critic does not take such an image.
    """
    side = _crop_side(critic, protocol, crop_size, height, width)
    smallest = side or max(critic.input_size.minimum, critic.input_size.multiple_of)
    return tuple(s for s in protocol.scales if s == 1 or min(_scaled_size(height, width, s)) >= smallest)


def _scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    # 1e-6: rounding must not make a third of a side that is a multiple of three too small.
    return int(height * scale + 1e-6), int(width * scale + 1e-6)


def _crop_side(critic: Critic, protocol: Protocol, crop_size: int | None, height: int, width: int) -> int | None:
    """Side of the square crops, or None where the critic sees the whole image."""
    rule, shorter, whole = critic.input_size, min(height, width), protocol.position == "whole"
    takes = f"{critic.card.name} takes {rule.describe()}"
    size = None if crop_size is None else as_int("crop_size", crop_size, minimum=1)
    if whole and rule.fixed is not None and not rule.accepts(height, width):
        raise InputError(
            f"protocol '{protocol.name}': {takes} and the image is {height}x{width}; use a protocol with crops, such "
            "as 'paper' or 'centre', or a critic of free size."
        )
    if shorter < (rule.fixed or max(rule.minimum, rule.multiple_of)):
        raise InputError(
            f"{takes} and the image is {height}x{width}. Score larger images, or enlarge both images before scoring "
            "and report that with the number."
        )
    if whole and size is not None:
        raise InputError(f"protocol '{protocol.name}' scores whole images, got crop_size {size}; leave crop_size out.")
    if size is not None and (size < rule.minimum or size % rule.multiple_of or rule.fixed not in (None, size)):
        raise InputError(f"crop_size: got {size}, but {takes}.")
    if whole:
        return None
    if rule.fixed is not None or size is None:
        return rule.fixed
    return min(size, shorter // rule.multiple_of * rule.multiple_of)


def _scaled(
    rule: SizeRule, sr: Tensor, hr: Tensor, protocol: Protocol, side: int | None, scales: tuple[float, ...]
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """(sr, hr, number of crops) at each scale."""
    height, width = sr.shape[1], sr.shape[2]
    a, b = sr, hr
    for scale, count in zip(scales, protocol.crops, strict=False):
        if scale < 1:
            source, size = (a, b) if protocol.successive else (sr, hr), _scaled_size(height, width, scale)
            a, b = (F.interpolate(i[None], size=size, mode="bilinear", align_corners=False)[0] for i in source)
        if side is None:
            yield _trimmed(a, rule.multiple_of), _trimmed(b, rule.multiple_of), count
        else:
            yield a, b, count


def _trimmed(image: Tensor, step: int) -> Tensor:
    """The central part whose sides are multiples of ``step``."""
    height, width = (length // step * step for length in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]
