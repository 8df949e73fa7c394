"""How one image pair becomes one score: scales, aligned crops, and the mean over them.

The RQI paper and the code released with it differ; both are here, under names that say which. The released code fails
or cuts wrongly where a side equals the input size; here such an image is simply its own only crop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.checks import as_int, check_choice, nearest
from sr_perceptual_loss.critics.base import Critic, SizeRule
from sr_perceptual_loss.errors import InputError, NonFiniteError, UnknownNameError
from sr_perceptual_loss.ops.crops import crop_boxes

__all__ = ["PROTOCOLS", "Protocol", "get_protocol", "scales_used", "score_pair"]

WEIGHTINGS = ("patches", "scales")
POSITIONS = ("random", "centre", "whole")


@dataclass(frozen=True)
class Protocol:
    """Which parts of a pair a critic sees and how their scores are averaged.

    Attributes:
        name: for tables and files.
        scales: factors of the image side, largest first; a scaled side is rounded down. A scale at which the image is
            smaller than the crop is left out.
        crops: how many crops at each scale.
        weighting: ``patches``: mean over all crops, so a scale counts as often as it has crops; ``scales``: mean of
            the means of the scales. An image that is exactly as large as the crop is scored once and counts as often as
            the protocol asks for crops, since all of them would be the same.
        position: ``random`` (seeded), ``centre``, or ``whole`` (no crop).
        successive: each scale is made from the one before it (released code), not from the original.
        source: where it comes from.
    """

    name: str
    scales: tuple[float, ...]
    crops: tuple[int, ...]
    weighting: str = "patches"
    position: str = "random"
    successive: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be carried out."""
        check_choice("protocol.weighting", self.weighting, WEIGHTINGS)
        check_choice("protocol.position", self.position, POSITIONS)
        if not self.scales or len(self.scales) != len(self.crops):
            raise InputError(
                f"protocol '{self.name}': got {len(self.scales)} scales and {len(self.crops)} numbers of crops, "
                "expected as many of the one as of the other, at least one."
            )
        if any(not 0 < s <= 1 for s in self.scales) or list(self.scales) != sorted(set(self.scales), reverse=True):
            raise InputError(f"protocol '{self.name}': scales {self.scales}; expected falling factors in (0, 1].")
        for count in self.crops:
            as_int(f"protocol '{self.name}': crops", count, minimum=1)

    def as_dict(self) -> dict[str, object]:
        """Plain values that the score depends on, for files; ``source`` is talk and left out."""
        return {key: value for key, value in asdict(self).items() if key != "source"}


#: The named protocols.
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
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
                source="the code released with RQI, without its faults at sides equal to the input",
            ),
            Protocol("single_scale", (1.0,), (20,), source="RQI supplement, ablation of table 1"),
            Protocol("full", (1.0,), (1,), position="whole", source="the whole image; critics of free size only"),
            Protocol("centre", (1.0,), (1,), position="centre", source="one central crop: cheap, for validation"),
        )
    }
)


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

    The boxes depend on ``seed`` and the image size alone, so all versions of a scene are judged at the same places,
    whatever the order of the images or ``crops_at_once``. The global random state is not touched.

    Args:
        critic: used as it is; the caller sets eval mode.
        sr: judged image, (3, H, W) RGB in [0, 1], on the critic's device.
        hr: reference image, same shape and device.
        protocol: see :class:`Protocol`.
        seed: of the crop positions.
        crop_size: side of the crops for a critic of free size, which otherwise sees the whole image at every scale; an
            image smaller than it gets crops of its shorter side.
        crops_at_once: batch size; bounds the memory.

    Returns:
        The score; higher is better.

    Raises:
        InputError: wrong shapes, or an image or crop size that the critic does not take.
        NonFiniteError: NaN or infinite score.
    """
    if sr.dim() != 3 or sr.shape != hr.shape:
        raise InputError(
            f"sr and hr: got shapes {tuple(sr.shape)} and {tuple(hr.shape)}, expected one image (3, H, W) each, of "
            "equal size: the same region of the same picture."
        )
    crops_at_once = as_int("crops_at_once", crops_at_once, minimum=1)
    height, width = int(sr.shape[1]), int(sr.shape[2])
    side = _crop_side(critic, protocol, crop_size, height, width)
    # Numpy mixes the three numbers, so neighbouring seeds and sizes give unrelated boxes.
    mixed = np.random.default_rng((as_int("seed", seed), height, width)).integers(2**63)
    generator = torch.Generator().manual_seed(int(mixed))
    total, weight_sum = 0.0, 0.0
    # Not inference_mode: what a critic may keep from a call could never be used in training again.
    with torch.no_grad():
        scales = scales_used(critic, protocol, height, width, crop_size=crop_size)
        for a, b, count in _scaled(critic.input_size, sr, hr, protocol, side, scales):
            if side is None:
                boxes = [(0, 0, a.shape[1], a.shape[2])]
            else:
                position = "center" if protocol.position == "centre" else "random"
                corners = crop_boxes((1, a.shape[1], a.shape[2]), side, count, position, generator)
                boxes = [(top, left, side, side) for ((top, left),) in corners]
            scores = _scores(critic, a, b, boxes, crops_at_once)
            weight = float(count) if protocol.weighting == "patches" else 1.0
            total += weight * sum(scores) / len(scores)
            weight_sum += weight
    value = total / weight_sum
    if not math.isfinite(value):
        raise NonFiniteError(f"{critic.card.name}: the score is {value}; the weights or the image are damaged.")
    return value


def scales_used(
    critic: Critic, protocol: Protocol, height: int, width: int, *, crop_size: int | None = None
) -> tuple[float, ...]:
    """The protocol's scales at which an image of this size is large enough to be judged; (1.0,) is a single scale.

    Args:
        critic: that judges.
        protocol: as in :func:`score_pair`.
        height: of the image.
        width: of the image.
        crop_size: as in :func:`score_pair`.

    Returns:
        Scales, falling.

    Raises:
        InputError: the critic does not take such an image.
    """
    side = _crop_side(critic, protocol, crop_size, height, width)
    smallest = side or max(critic.input_size.minimum, critic.input_size.multiple_of)
    found = []
    for scale in protocol.scales:
        if scale < 1 and min(_shrunk(height, width, scale)) < smallest:
            break  # scales fall, so no later one is large enough
        found.append(scale)
    return tuple(found)


def _shrunk(height: int, width: int, scale: float) -> tuple[int, int]:
    # 1e-6: a third of a side that three divides must not fall short by rounding.
    return int(height * scale + 1e-6), int(width * scale + 1e-6)


def _scores(
    critic: Critic, sr: Tensor, hr: Tensor, boxes: list[tuple[int, int, int, int]], crops_at_once: int
) -> list[float]:
    """Score of each box, a few at once."""
    scores: list[float] = []
    for start in range(0, len(boxes), crops_at_once):
        some = boxes[start : start + crops_at_once]
        crops = [torch.stack([i[:, y : y + h, x : x + w] for y, x, h, w in some]) for i in (sr, hr)]
        scores += critic.score(crops[0], crops[1]).double().cpu().tolist()
    return scores


def _crop_side(critic: Critic, protocol: Protocol, crop_size: int | None, height: int, width: int) -> int | None:
    """Side of the square crops, or None where the critic sees the whole image."""
    rule, name, short = critic.input_size, critic.card.name, min(height, width)
    size = None if crop_size is None else as_int("crop_size", crop_size, minimum=1)
    if protocol.position == "whole" and rule.fixed is not None and not rule.accepts(height, width):
        raise InputError(
            f"protocol '{protocol.name}': {name} takes {rule.describe()} and the image is {height}x{width}; use a "
            "protocol with crops, such as 'paper' or 'centre', or a critic of free size."
        )
    if short < (rule.fixed or max(rule.minimum, rule.multiple_of)):
        raise InputError(
            f"{name} takes {rule.describe()} and the image is {height}x{width}. Score larger images, or enlarge both "
            "alike before scoring and say so beside the number."
        )
    if protocol.position == "whole" and size is not None:
        raise InputError(f"protocol '{protocol.name}' scores whole images, got crop_size {size}; leave crop_size out.")
    if rule.fixed is not None:
        if size not in (None, rule.fixed):
            raise InputError(f"crop_size: got {size}, but {name} takes {rule.describe()}; leave crop_size out.")
        return None if protocol.position == "whole" else rule.fixed
    if size is None:
        return None
    if size < rule.minimum or size % rule.multiple_of:
        raise InputError(f"crop_size: got {size}, but {name} takes {rule.describe()}.")
    return min(size, short // rule.multiple_of * rule.multiple_of)


def _scaled(
    rule: SizeRule, sr: Tensor, hr: Tensor, protocol: Protocol, side: int | None, scales: tuple[float, ...]
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """(sr, hr, number of crops) at each scale."""
    height, width = sr.shape[1], sr.shape[2]
    a, b = sr, hr
    for scale, count in zip(scales, protocol.crops, strict=False):
        if scale < 1:
            source, target = (a, b) if protocol.successive else (sr, hr), _shrunk(height, width, scale)
            a, b = (F.interpolate(i[None], size=target, mode="bilinear", align_corners=False)[0] for i in source)
        if side is None and rule.multiple_of > 1:
            yield _trim(a, rule.multiple_of), _trim(b, rule.multiple_of), count
        else:
            yield a, b, count


def _trim(image: Tensor, step: int) -> Tensor:
    """The central part whose sides are multiples of ``step``."""
    height, width = (length // step * step for length in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]
