"""Scores of whole images, also by critics that take one size only.

A critic with a fixed input (224x224) scores evenly spaced crops, at the same places in both images, as few as cover the
image. The score is their mean. No paper publishes this protocol: compare only numbers that were computed in this way.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from sr_perceptual_loss.critics.base import Critic, SizeRule
from sr_perceptual_loss.errors import InputError, NonFiniteError

__all__ = ["score_whole_image", "tile_boxes"]

#: Crops that are scored at once: limits the memory for large images.
CROPS_AT_ONCE = 8


class FrozenLike(Protocol):
    """A wrapper around a critic, such as ``losses.FrozenCritic``."""

    critic: Critic

    def score(self, sr: Tensor, hr: Tensor) -> Tensor:
        """As :meth:`Critic.score`."""


def score_whole_image(critic: Critic | FrozenLike, sr: Tensor, hr: Tensor, name: str) -> float:
    """Score of the whole image if the critic takes its size, else the mean over crops that cover the image.

    Args:
        critic: a critic in eval mode, or a ``FrozenCritic``.
        sr: SR (distorted) image, (3, H, W) RGB in [0, 1], on the critic's device.
        hr: reference image, same shape.
        name: name of the image, for messages.

    Returns:
        The score; higher is better.

    Raises:
        InputError: the image is smaller than the critic's input.
        NonFiniteError: the score is NaN or infinite.
    """
    inner = critic if isinstance(critic, Critic) else critic.critic
    boxes = tile_boxes(inner.input_size, sr.shape[1], sr.shape[2], inner.card.name, name)
    scores = []
    with torch.no_grad():
        for start in range(0, len(boxes), CROPS_AT_ONCE):
            sr_crops, hr_crops = (
                torch.stack([image[:, y : y + h, x : x + w] for y, x, h, w in boxes[start : start + CROPS_AT_ONCE]])
                for image in (sr, hr)
            )
            scores.append(critic.score(sr_crops, hr_crops).double().cpu())
    value = float(torch.cat(scores).mean())
    if not math.isfinite(value):
        raise NonFiniteError(f"{name}: the score is {value}; the weights or the image are damaged.")
    return value


def tile_boxes(rule: SizeRule, height: int, width: int, critic: str, name: str) -> list[tuple[int, int, int, int]]:
    """Evenly spaced boxes of an allowed size that cover the image, as few as possible.

    Args:
        rule: sizes that the critic takes.
        height: image height.
        width: image width.
        critic: name of the critic, for the message.
        name: name of the image, for the message.

    Returns:
        (top, left, height, width) of each box; one box if the critic takes the whole image.

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
