"""``srpl distort``: a data set in the layout of KADID-10k from one's own pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sr_perceptual_loss.cli.terminal import say, stderr

__all__ = ["distort"]


def distort(
    refs: Annotated[Path, typer.Argument(help="Folder of pristine pictures.", metavar="REFS")],
    out: Annotated[Path, typer.Argument(help="Folder to write; an interrupted run goes on there.", metavar="OUT")],
    labels: Annotated[Path, typer.Option(help="KADID-10k's dmos.csv, or a list of its scores (KADID-10k.txt).")],
    types: Annotated[str, typer.Option(help="Numbers of KADID-10k's types, such as 1,2,10; all by default.")] = "",
    levels: Annotated[str, typer.Option(help="Levels, such as 1,3,5.")] = "1,2,3,4,5",
    leave_out: Annotated[str, typer.Option(help="Scenes that do not count in the labels, such as I01,I02.")] = "",
    limit: Annotated[int | None, typer.Option(help="Number of pictures to take; all by default.")] = None,
    crop: Annotated[int | None, typer.Option(help="Cut the middle square of this side out of each picture.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
) -> None:
    """Distort pictures as KADID-10k does; prints the path of dmos.csv, tab, number of distorted pictures.

    The labels are means of KADID-10k's scores by type and level, not ratings of these pictures.
    """
    from rich.progress import Progress

    from sr_perceptual_loss.training.synthetic import level_means, make_kadid_like

    chosen = _integers("--types", types) or None
    table = level_means(labels, leave_out=[name.strip() for name in leave_out.split(",") if name.strip()])
    with Progress(console=stderr(), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("distorting", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        made = make_kadid_like(
            refs,
            out,
            table,
            types=chosen,
            levels=_integers("--levels", levels),
            seed=seed,
            limit=limit,
            crop=crop,
            workers=workers,
            progress=show,
        )
    say(
        f"{made.scenes} reference(s); {made.written} distorted picture(s) written, {made.kept} kept. The labels are "
        "means by type and level, not ratings of these pictures (see README.txt)."
    )
    typer.echo(f"{made.labels}\t{made.written + made.kept}")


def _integers(option: str, text: str) -> list[int]:
    """``1,2,10`` as numbers."""
    from sr_perceptual_loss._checks import InputError

    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"{option}: got {text!r}, expected numbers with commas, such as 1,2,10.") from None
