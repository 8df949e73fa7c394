"""``srpl score``: scores of one image pair or of two folders.

A critic that takes one size only (224x224) sees evenly spaced crops, at the same place in both images, as many as cover
the image and no more; the score is their mean. This is no published protocol of any critic: compare only numbers that
were made in the same way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sr_perceptual_loss.cli.pairing import Pairs, pair_up
from sr_perceptual_loss.cli.terminal import say, stderr

if TYPE_CHECKING:
    from sr_perceptual_loss.critics.base import Critic, SizeRule

__all__ = ["score"]

# Crops that are scored at once: bounds the memory for large images.
CROPS_AT_ONCE = 8


def score(
    sr: Annotated[Path, typer.Argument(help="Judged image, or a folder of them.", metavar="SR")],
    hr: Annotated[Path, typer.Argument(help="Reference image, or a folder of them.", metavar="HR")],
    critic: Annotated[str, typer.Option(help="Critic, one of `srpl list`.", metavar="NAME")] = "haarpsi",
    weights: Annotated[str, typer.Option(help="local (never downloads), a tag such as official, or a path.")] = "local",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Score SR images against their references; higher is better. Prints name, tab, score for each.

    Folders are matched by file name, by stem, or by an SR name that starts with the HR name (baby_x4.png for baby.png).
    A critic with a fixed input size sees evenly spaced crops that cover the image; their mean is the score.
    """
    import sr_perceptual_loss.critics  # noqa: F401  registers them
    from sr_perceptual_loss.critics.registry import create_critic, get_card

    card = get_card(critic)
    found = pair_up(sr, hr)
    for role, left in (("SR", found.unmatched_sr), ("HR", found.unmatched_hr)):
        if left:
            say(f"{len(left)} {role} image(s) without a partner: {', '.join(path.name for path in left)}")
    _check_device(device)
    network = create_critic(critic, weights=weights, device=device)
    scores: dict[str, float] = {}
    for name, value in _scores(network, found, device):
        scores[name] = value
        if not as_json:
            typer.echo(f"{name}\t{value:.6f}")
    mean = sum(scores.values()) / len(scores)
    if as_json:
        result = {
            "critic": critic,
            "weights": weights if card.needs_weights else None,
            "direction": "higher is better",
            "relative": card.relative,
            "scores": scores,
            "mean": mean,
            "unmatched_sr": [path.name for path in found.unmatched_sr],
            "unmatched_hr": [path.name for path in found.unmatched_hr],
        }
        typer.echo(json.dumps(result, indent=2))
    else:
        say(f"mean of {len(scores)}: {mean:.6f} ({critic}, higher is better)")


def _check_device(device: str) -> None:
    """Find out before the weights are read."""
    import torch

    from sr_perceptual_loss._checks import InputError

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device: {device!r} cannot be used here ({reason}); use cpu.") from None


def _scores(critic: Critic, found: Pairs, device: str) -> Iterator[tuple[str, float]]:
    """(SR file name, score) one by one, with a bar on stderr if a person is looking."""
    from rich.progress import track

    hidden = len(found.pairs) == 1 or not sys.stderr.isatty()
    for sr, hr in track(found.pairs, "scoring", console=stderr(), disable=hidden, transient=True):
        yield sr.name, _score_pair(critic, sr, hr, device)


def _score_pair(critic: Critic, sr_path: Path, hr_path: Path, device: str) -> float:
    """Mean score of the covering crops of one pair; the whole image if the critic takes it."""
    import math

    import torch

    from sr_perceptual_loss._checks import InputError, NonFiniteError
    from sr_perceptual_loss.data.images import read_image

    sr, hr = (read_image(path).to(device) for path in (sr_path, hr_path))
    if sr.shape != hr.shape:
        sizes = " and ".join(f"{image.shape[2]}x{image.shape[1]}" for image in (sr, hr))
        raise InputError(
            f"{sr_path.name} and {hr_path.name} differ in size (width x height): {sizes}; they must be the same region "
            "of the same picture (check the scale, or crop the reference)."
        )
    boxes = covering_boxes(critic.input_size, sr.shape[1], sr.shape[2], critic.card.name, sr_path.name)
    parts = []
    with torch.no_grad():
        for start in range(0, len(boxes), CROPS_AT_ONCE):
            some = boxes[start : start + CROPS_AT_ONCE]
            crops = [torch.stack([image[:, y : y + h, x : x + w] for y, x, h, w in some]) for image in (sr, hr)]
            parts.append(critic.score(crops[0], crops[1]).double().cpu())
    value = float(torch.cat(parts).mean())
    if not math.isfinite(value):
        raise NonFiniteError(f"{sr_path.name}: the score is {value}; the weights or the image are damaged.")
    return value


def covering_boxes(rule: SizeRule, height: int, width: int, critic: str, image: str) -> list[tuple[int, int, int, int]]:
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
    from sr_perceptual_loss._checks import InputError

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
