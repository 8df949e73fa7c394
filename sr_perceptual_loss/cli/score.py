"""``srpl score``: scores of one image pair or of two folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sr_perceptual_loss.cli.device import Device, check_device
from sr_perceptual_loss.cli.pairing import match_images
from sr_perceptual_loss.cli.terminal import echo, log, one_line, track

__all__ = ["score"]


def score(
    sr: Annotated[Path, typer.Argument(help="SR (distorted) image, or a folder of them.", metavar="SR")],
    hr: Annotated[Path, typer.Argument(help="Reference image, or a folder of them.", metavar="HR")],
    critic: Annotated[str, typer.Option(help="Critic, one of `srpl list`.", metavar="NAME")] = "haarpsi",
    weights: Annotated[str, typer.Option(help="local (never downloads), a tag such as official, or a path.")] = "local",
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Score SR images against their references; higher is better. Prints name, tab, score for each.

    Folders are matched by file name, by stem, or by an SR name that starts with the HR name (baby_x4.png for baby.png);
    endings such as _HR, _GT, _LR, x4 are known. All SR images of one reference are scored. Sub-folders are left out.
    A critic with a fixed input size sees evenly spaced crops that cover the image; their mean is the score. This is not
    a published protocol, so compare only numbers that were made in the same way.
    """
    import torch

    from sr_perceptual_loss.critics import create_critic, get_card
    from sr_perceptual_loss.critics.whole_image import score_whole_image
    from sr_perceptual_loss.lab.data.images import check_same_size, read_pixels

    card = get_card(critic)
    matches = match_images(sr, hr)
    check_device(device)
    network = create_critic(critic, weights=weights, device=device)
    scores: dict[str, float] = {}
    try:
        for sr_path, hr_path in track(matches.pairs, "scoring"):
            # 8-bit pixels take a quarter of the memory.
            sr_image, hr_image = (
                torch.from_numpy(read_pixels(path)).permute(2, 0, 1).to(device) for path in (sr_path, hr_path)
            )
            check_same_size(sr_image, hr_image, names=(sr_path.name, hr_path.name))
            scores[sr_path.name] = score_whole_image(network, sr_image, hr_image, sr_path.name)
            if not as_json:
                echo(f"{one_line(sr_path.name)}\t{scores[sr_path.name]:.6f}")
    finally:  # after an interruption or a damaged image the JSON has what was done until then
        mean = sum(scores.values()) / max(1, len(scores))
        if scores and as_json:
            result = {
                "critic": critic,
                "weights": weights if card.needs_weights else None,
                "direction": "higher is better",
                "relative": card.relative,
                "scores": scores,
                "mean": mean,
                "not_scored": len(matches.pairs) - len(scores),
                "unmatched_sr": [path.name for path in matches.unmatched_sr],
                "unmatched_hr": [path.name for path in matches.unmatched_hr],
            }
            echo(json.dumps(result, indent=2))
        elif len(scores) == len(matches.pairs):
            log(f"mean of {len(scores)}: {mean:.6f} ({critic}, higher is better)")
