"""``srpl probe``: gradient norms of the losses of a BasicSR YAML, and the loss weights that give wanted shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sr_perceptual_loss.cli.terminal import echo, log, print_table
from sr_perceptual_loss.errors import InputError

__all__ = ["probe"]


def probe(
    opt: Annotated[Path, typer.Option("-opt", "--opt", help="BasicSR option file.")],
    batches: Annotated[int, typer.Option(help="Training batches to look at.")] = 4,
    share: Annotated[
        list[str] | None,
        typer.Option(
            "--share",
            help="Wanted share, NAME=NUMBER; repeatable; default equal. NAME as in the log or the YAML. Only for some "
            "losses: fractions of 1; the others get equal parts of the rest.",
        ),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Loss whose weight stays; default the first.")] = None,
    iteration: Annotated[int | None, typer.Option(help="Global iteration for schedules; default the last.")] = None,
    imports: Annotated[list[str] | None, typer.Option("--import", help="Module of your project; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Measure the gradients of each loss of a YAML at the SR output, compare their directions, and propose weights.

    Builds the networks, losses and data of the YAML, trains nothing and writes nothing.
    """
    import contextlib
    import importlib
    import sys

    from sr_perceptual_loss.integrations.basicsr_runner import prepare

    if not opt.is_file():
        raise InputError(f"-opt {opt}: no such file.")
    for text in share or ():
        if text.count("=") != 1:
            raise InputError(f"--share {text}: expected NAME=NUMBER, for instance --share rqi=1.")
    shares: Any = dict(text.split("=") for text in share) if share else None
    if share and len(shares) < len(share):
        raise InputError(f"--share: got {', '.join(share)}; give each name once.")
    # BasicSR prints to stdout, where only the result may go.
    with contextlib.redirect_stdout(sys.stderr):
        prepare(imports or ())
        # Not importable before `prepare`.
        module = importlib.import_module("sr_perceptual_loss.integrations.basicsr.probe")
        report = module.probe_yaml(
            str(opt), batches=batches, iteration=iteration, shares=shares, reference=reference
        ).as_dict()
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    heads = ("loss", "value", "grad norm", "spread", "share", "wanted", "weight", "proposed")
    log(f"{report['batches']} batches; reference {report['reference']}")
    print_table(heads, [_line(row) for row in report["losses"]])
    if any(row["share_wanted"] is None for row in report["losses"]):
        log("gan: measured at the discriminator as it is now (untrained or loaded). It has no share; its weight stays.")
    cosines = [(f"{row['a']} / {row['b']}", f"{row['cosine']:+.3f}") for row in report["cosines"]]
    echo("")
    print_table(("losses", "cosine (1: same direction, -1: opposite)"), cosines)


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    weight, proposed, factor = row["weight_now"], row["weight_proposed"], row["factor"]
    times = "no gradient" if factor is None else f"x {factor:.3g}"
    return (
        row["name"],
        f"{row['value']:.4g}",
        f"{row['gradient_norm']:.3e}",
        f"{row['spread']:.2f}",
        f"{row['share_now']:.0%}",
        "-" if row["share_wanted"] is None else f"{row['share_wanted']:.0%}",
        "?" if weight is None else f"{weight:g}",
        times if proposed is None else f"{proposed:.3g}",
    )
