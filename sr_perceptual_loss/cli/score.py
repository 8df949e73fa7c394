"""``srpl score``: scores of one image pair or of two folders.

A critic that takes one size only (224x224) sees evenly spaced crops (see ``evaluation/covering.py``): no published
protocol of any critic, so compare only numbers that were made in the same way.
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
    from sr_perceptual_loss.critics.base import Critic

__all__ = ["check_device", "score"]


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
    check_device(device)
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


def check_device(device: str) -> None:
    """Raise unless the device can be used: to be found out before the weights are read.

    Raises:
        InputError: unknown, or not on this machine.
    """
    import torch

    from sr_perceptual_loss.errors import InputError

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device: {device!r} cannot be used here ({reason}); use cpu.") from None


def _scores(critic: Critic, found: Pairs, device: str) -> Iterator[tuple[str, float]]:
    """(SR file name, score) one by one, with a bar on stderr if a person is looking."""
    from rich.progress import track

    from sr_perceptual_loss.critics.whole_image import read_pair, score_whole_image

    hidden = len(found.pairs) == 1 or not sys.stderr.isatty()
    for sr, hr in track(found.pairs, "scoring", console=stderr(), disable=hidden, transient=True):
        images = [image.to(device) for image in read_pair(sr, hr)]
        yield sr.name, score_whole_image(critic, images[0], images[1], sr.name)
