"""``srpl train``: train a critic on opinion scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from sr_perceptual_loss.cli.terminal import log

__all__ = ["train"]


def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="Training file, see `srpl config list`.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value replaces the file's value; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest state in the out folder.")] = False,
) -> None:
    """Train a critic; prints the best weights file and its validation value.

    Several GPUs: accelerate launch --multi_gpu --num_processes 4 --module sr_perceptual_loss.cli.app train -c FILE
    """
    from sr_perceptual_loss.lab.training.config import read_config
    from sr_perceptual_loss.lab.training.loop import train as run

    settings = read_config(config, overrides or ())
    result = run(settings, resume=resume)
    best = math.nan if result.best is None else result.best
    log(f"{result.step} steps; best validation {settings.select} {best:.4f} at {result.best_step}")
    typer.echo(f"{settings.out / 'best.safetensors'}\t{best:.6f}")
