"""``srpl probe``: which weight? Gradient norms of the losses of a BasicSR YAML, and weights for wanted shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["probe"]


def probe(
    opt: Annotated[Path, typer.Option("-opt", "--opt", help="BasicSR option file.")],
    batches: Annotated[int, typer.Option(help="Training batches to look at.")] = 4,
    share: Annotated[
        list[str] | None, typer.Option("--share", help="Wanted part of a loss, NAME=NUMBER; repeatable; default equal.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Loss whose weight stays; default the first.")] = None,
    iteration: Annotated[int | None, typer.Option(help="Global iteration for schedules; default the last.")] = None,
    imports: Annotated[list[str] | None, typer.Option("--import", help="Module of your project; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Measure how hard each loss of a YAML pulls at the SR output, which way, and propose weights.

    Builds the networks, losses and data of the YAML, trains nothing and writes nothing.
    """
    import contextlib
    import importlib
    import sys

    from sr_perceptual_loss.errors import InputError
    from sr_perceptual_loss.integrations.basicsr_runner import prepare

    if not opt.is_file():
        raise InputError(f"-opt {opt}: no such file.")
    shares = _shares(share)
    # BasicSR prints; stdout belongs to the result.
    with contextlib.redirect_stdout(sys.stderr):
        prepare(imports or ())
        module = importlib.import_module("sr_perceptual_loss.integrations.basicsr.probe")
        report = module.probe_yaml(
            str(opt), batches=batches, iteration=iteration, shares=shares, reference=reference
        ).as_dict()
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    from rich.console import Console

    console = Console()
    for table in (_losses(report), _cosines(report)):
        console.print(table)


def _shares(given: list[str] | None) -> dict[str, str] | None:
    from sr_perceptual_loss.errors import InputError

    if not given:
        return None
    wrong = [text for text in given if text.count("=") != 1]
    if wrong:
        raise InputError(f"--share {wrong[0]}: expected NAME=NUMBER, for instance --share rqi=1.")
    return dict(text.split("=") for text in given)  # type: ignore[misc]


def _losses(report: dict[str, Any]) -> Table:
    from rich.table import Table

    title = f"{report['batches']} batches; reference {report['reference']}"
    names = ("loss", "value", "grad norm", "spread", "share", "wanted", "weight", "proposed")
    table = Table(*names, title=title)
    for row in report["losses"]:
        now, proposed = row["weight_now"], row["weight_proposed"]
        times = "does not pull" if row["factor"] is None else f"x {row['factor']:.3g}"
        table.add_row(
            row["name"],
            f"{row['value']:.4g}",
            f"{row['gradient_norm']:.3e}",
            f"{row['spread']:.2f}",
            f"{row['share_now']:.0%}",
            f"{row['share_wanted']:.0%}",
            "?" if now is None else f"{now:g}",
            times if proposed is None else f"{proposed:.3g}",
        )
    return table


def _cosines(report: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table("losses", "cosine (1: same way, -1: against)")
    for row in report["cosines"]:
        table.add_row(f"{row['a']} / {row['b']}", f"{row['cosine']:+.3f}")
    return table
