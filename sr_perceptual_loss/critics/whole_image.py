"""Scores of whole images by critics that may take one size only.

A critic with a fixed input (224x224) sees evenly spaced crops, at the same place in both images, as many as cover the
image and no more; the score is their mean. This is no published protocol of any critic: compare only numbers that were
made in the same way.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from sr_perceptual_loss.critics.base import Critic, SizeRule
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.lab.data.images import read_image

__all__ = ["CROPS_AT_ONCE", "check_same_size", "tile_boxes", "score_whole_image", "read_pair"]

#: Crops that are scored at once: bounds the memory for large images.
CROPS_AT_ONCE = 8


def read_pair(sr: Path, hr: Path) -> tuple[Tensor, Tensor]:
    """Two image files of the same size.

    Args:
        sr: judged image.
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
    """Raise unless two images have one size.

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
            f"{names[0]} and {names[1]} differ in size (width x height): {sizes}; they must be the same region "
            "of the same picture (check the scale, or crop the reference)."
        )


def score_whole_image(critic: Critic, sr: Tensor, hr: Tensor, image: str) -> float:
    """Mean score of the covering crops; that of the whole image if the critic takes it.

    Args:
        critic: in eval mode.
        sr: judged image, (3, H, W) RGB in [0, 1], on the critic's device.
        hr: reference image, same shape.
        image: name, for messages.

    Returns:
        The score; higher is better.

    Raises:
        InputError: the image is smaller than the critic's input.
        NonFiniteError: the score is NaN or infinite.
    """
    boxes = tile_boxes(critic.input_size, sr.shape[1], sr.shape[2], critic.card.name, image)
    parts = []
    with torch.no_grad():
        for start in range(0, len(boxes), CROPS_AT_ONCE):
            some = boxes[start : start + CROPS_AT_ONCE]
            crops = [torch.stack([x[:, top : top + h, left : left + w] for top, left, h, w in some]) for x in (sr, hr)]
            parts.append(critic.score(crops[0], crops[1]).double().cpu())
    value = float(torch.cat(parts).mean())
    if not math.isfinite(value):
        raise NonFiniteError(f"{image}: the score is {value}; the weights or the image are damaged.")
    return value


def tile_boxes(rule: SizeRule, height: int, width: int, critic: str, image: str) -> list[tuple[int, int, int, int]]:
    """Evenly spaced boxes of an allowed size that cover the image, as few as possible.

    Args:
        rule: sizes that the critic takes.
        height: image height.
        width: image width.
        critic: name, for the message.
        image: name, for the message.

    Returns:
        (top, left, height, width) of each; one box if the whole image is allowed.

    Raises:
        InputError: the image is smaller than the critic's input.
    """
    step = rule.multiple_of
    sides = [rule.fixed or length // step * step for length in (height, width)]
    smallest = rule.fixed or max(rule.minimum, step)
    if min(height, width) < smallest or min(sides) < rule.minimum:
        raise InputError(
            f"{image}: {width}x{height} pixels (width x height), but {critic} takes {rule.describe()}. Score larger "
            "images, or enlarge SR and HR alike before scoring and say so beside the number."
        )
    tops, lefts = (_starts(length, side) for length, side in zip((height, width), sides, strict=True))
    return [(top, left, sides[0], sides[1]) for top in tops for left in lefts]


def _starts(length: int, side: int) -> list[int]:
    count = -(-length // side)
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]
