"""``srpl train``: train a critic on opinion scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sr_perceptual_loss.cli.terminal import say

__all__ = ["train"]


def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="Training file, see examples/critics.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value in place of the file's; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest state in the out folder.")] = False,
) -> None:
    """Train a critic; prints the best weights file and its validation value.

    Several GPUs: accelerate launch --multi_gpu --num_processes 4 --module sr_perceptual_loss.cli.app train -c FILE
    """
    import sr_perceptual_loss.critics  # noqa: F401  registers them
    from sr_perceptual_loss.lab.training.config import read_config
    from sr_perceptual_loss.lab.training.lite.settings import is_lite
    from sr_perceptual_loss.lab.training.loop import train as run

    if is_lite(config):
        _train_lite(config, overrides or (), resume=resume)
        return
    settings = read_config(config, overrides or ())
    result = run(settings, resume=resume)
    say(f"{result.steps} steps; best validation {settings.select} {result.best:.4f} at {result.best_step}")
    typer.echo(f"{result.weights}\t{result.best:.6f}")


def _train_lite(config: Path, overrides: Sequence[str], *, resume: bool) -> None:
    """``scheme: synthetic``: rqi_lite from photographs, in one or several calls."""
    from sr_perceptual_loss.lab.training.lite.loop import train_lite
    from sr_perceptual_loss.lab.training.lite.settings import read_lite_config

    result = train_lite(read_lite_config(config, overrides), resume=resume)
    if not result.finished:
        say(f"{result.steps} steps; not finished, go on with --resume")
        return
    say(f"{result.steps} steps; held-out SRCC to its own labels {result.srcc:.4f}; see card.md beside the weights")
    typer.echo(f"{result.weights}\t{result.srcc:.6f}")
