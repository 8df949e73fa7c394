"""``srpl report``: one HTML file about a training run of our BasicSR models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sr_perceptual_loss.cli.terminal import echo

__all__ = ["report"]


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folder of an experiment, experiments/NAME; several are drawn side by side.")
    ],
    out: Annotated[Path | None, typer.Option(help="The file; default report.html in the first folder.")] = None,
) -> None:
    """Write one HTML file with curves, alarms, validation images and settings of a training run; prints its path.

    The run may be in progress or interrupted. The file loads nothing from elsewhere and opens in any browser of 2023 or
    later. It shows the option file of the run as it is, with all paths in it.
    """
    from sr_perceptual_loss.lab.report.run import read_run
    from sr_perceptual_loss.lab.report.run_page import write_run_report

    path = out or folders[0] / "report.html"
    write_run_report(path, [read_run(folder) for folder in folders])
    echo(str(path))
