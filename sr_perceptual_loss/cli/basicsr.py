"""``srpl basicsr``: BasicSR's training pipeline with our losses, models and metrics registered."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["basicsr"]


def basicsr(
    context: typer.Context,
    imports: Annotated[
        list[str] | None,
        typer.Option("--import", help="Module of your project to import first (its archs, models); repeatable."),
    ] = None,
    script: Annotated[
        Path | None, typer.Option("--script", help="Your project's own start script, instead of BasicSR's pipeline.")
    ] = None,
) -> None:
    """Train with BasicSR: srpl basicsr -opt x.yml [--auto_resume] [--launcher pytorch] [--force_yml a:b=c].

    All other options go to BasicSR's parser. Under torchrun:
    torchrun --nproc_per_node 4 -m sr_perceptual_loss.integrations.basicsr_runner -opt x.yml --launcher pytorch
    """
    from sr_perceptual_loss import errors
    from sr_perceptual_loss.integrations.basicsr_runner import run

    try:
        run(context.args, imports or (), script)
    except Exception as error:
        if type(error).__module__ == errors.__name__:
            raise
        # BasicSR's own errors look as they do without us.
        traceback.print_exception(error)
        raise typer.Exit(1) from None
