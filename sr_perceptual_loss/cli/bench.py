"""``srpl bench``: what critics cost as losses, against their published formulation and other perceptual losses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sr_perceptual_loss.cli.score import check_device
from sr_perceptual_loss.cli.terminal import say

__all__ = ["bench"]

#: Which forms and rivals there are is known to the package, which is not loaded for --help.
_FORMS = "reference,fast,target,bf16"
_RIVALS = "lpips_vgg,dists,vgg19"


def bench(
    critics: Annotated[str, typer.Option(help="Names of `srpl list`, or all.", metavar="NAMES")] = "all",
    sizes: Annotated[str, typer.Option(help="Image sides. A critic of one fixed size adds its own.")] = "128,256",
    batch: Annotated[str, typer.Option(help="Numbers of images.")] = "1,4",
    repeats: Annotated[int, typer.Option(help="Interleaved rounds; 5 or more before claiming a gain.")] = 5,
    device: Annotated[str, typer.Option(help="cpu (one thread, process CPU time), cuda, ...")] = "cpu",
    forms: Annotated[str, typer.Option(help="reference, fast, target (features given), bf16.")] = _FORMS,
    rivals: Annotated[str, typer.Option(help="lpips_vgg, dists, vgg19 (random weights), or none.")] = _RIVALS,
    memory: Annotated[bool, typer.Option(help="Peak memory too; a fresh process per row on the CPU.")] = True,
    weights: Annotated[str, typer.Option(help="random (calibrated), local, a tag, or a path.")] = "random",
    critic_size: Annotated[str, typer.Option(help="full, or tiny to try the command out.")] = "full",
    out: Annotated[
        Path | None, typer.Option("--json", help="Write rows here after each cell; rows of a stopped run are kept.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables for a document.")] = False,
) -> None:
    """Time, saved memory and peak memory of forward + backward to sr, as medians of interleaved runs, with ratios.

    Every size and batch is one run; compare numbers of one run only. Nothing is downloaded.
    """
    from rich.console import Console

    from sr_perceptual_loss import __version__
    from sr_perceptual_loss._checks import InputError, as_int
    from sr_perceptual_loss.benchmarking.running import Plan, Results, machine, run
    from sr_perceptual_loss.benchmarking.subjects import build_subjects
    from sr_perceptual_loss.benchmarking.table import exponent_grid, memory_grid, rich_table, time_grid
    from sr_perceptual_loss.benchmarking.table import markdown as as_markdown
    from sr_perceptual_loss.critics import list_critics

    check_device(device)
    plan = Plan(
        tuple(as_int("--sizes", value) for value in _names(sizes)),
        tuple(as_int("--batch", value) for value in _names(batch)),
        repeats,
        device,
        memory,
        critic_size,
    )
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--json: the folder {out.parent} does not exist; make it, or give another file.")
    setting = {**machine(device), "package": __version__, "repeats": repeats, "threads": 1, "weights": weights}
    results = Results.resume(out, {**setting, "critic_size": critic_size, "memory": memory})
    subjects = build_subjects(
        list_critics() if critics == "all" else _names(critics),
        _names(rivals),
        forms=_names(forms),
        weights=weights,
        critic_size=critic_size,
        device=device,
    )
    run(subjects, plan, results, path=out, report=say)
    say(", ".join(f"{key} {value}" for key, value in results.setting.items()))
    # A pipe has no width; 80 columns would cut the names.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    for grid in (time_grid(results.rows), memory_grid(results.rows), exponent_grid(results.rows)):
        if grid[2]:
            typer.echo(f"{grid[0]}\n\n{as_markdown(grid)}\n") if markdown else console.print(rich_table(grid))


def _names(text: str) -> list[str]:
    return [] if text == "none" else [name.strip() for name in text.split(",") if name.strip()]
