"""``srpl metrics``: a folder of SR images against a folder of references, image by image, into a CSV.

PSNR and SSIM leave a border out; nothing else does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sr_perceptual_loss.cli.pairing import pair_up
from sr_perceptual_loss.cli.score import check_device
from sr_perceptual_loss.cli.terminal import say, stderr

if TYPE_CHECKING:
    from sr_perceptual_loss.lab.evaluation.metric_set import Column, Measure, ReducedReference
    from sr_perceptual_loss.lab.evaluation.metric_table import Mean, MetricTable, Row

__all__ = ["metrics"]


@dataclass(frozen=True)
class _Files:
    sr: Path
    hr: Path
    lr: Path | None

    @property
    def all(self) -> list[Path]:
        return [path for path in (self.sr, self.hr, self.lr) if path]


def metrics(
    sr: Annotated[Path, typer.Argument(help="Judged images.", metavar="SR_DIR")],
    hr: Annotated[Path, typer.Argument(help="Their references.", metavar="HR_DIR")],
    lr: Annotated[Path | None, typer.Option(help="Inputs of the SR network, for --pfiqa.", metavar="LR_DIR")] = None,
    scale: Annotated[int, typer.Option(help="Enlargement.", min=1)] = 4,
    crop: Annotated[
        int | None, typer.Option(help="Pixels that PSNR and SSIM leave out on each side; default the scale.", min=0)
    ] = None,
    names: Annotated[
        str,
        typer.Option(
            "--metrics",
            help="Of psnr_y, ssim_y, psnr_rgb, ssim_rgb, lpips (AlexNet), lpips_vgg, dists, sf, sn, sfsn, sfsn_1_9; "
            "'' for none.",
        ),
    ] = "psnr_y,ssim_y",
    critic: Annotated[list[str] | None, typer.Option(help="Critic, one of `srpl list`; repeatable.")] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="CRITIC=local|TAG|PATH, repeatable; default local (never downloads).")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="How critics see an image: covering (as `srpl score`), or one of `srpl evaluate`.")
    ] = "covering",
    pfiqa: Annotated[
        str | None, typer.Option(help="Your function(sr, lr, scale) -> number; needs --lr.", metavar="MODULE:FUNCTION")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV of one row per image and the means; continued if it exists.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; PSNR, SSIM and SF/SN use the CPU.")] = "cpu",
    download: Annotated[bool, typer.Option("--download", help="Let LPIPS and DISTS fetch missing weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with all rows instead of a table.")] = False,
) -> None:
    """Measure SR images against their references. Prints the means; --out writes a row per image.

    Folders are matched as in `srpl score`; LR images are matched with the HR images in the same way. A reference whose
    sides are no multiples of the scale is cut where the SR image is that much smaller. An interrupted run continues:
    rows of the same settings and the same files are not computed again.
    """
    from sr_perceptual_loss import __version__
    from sr_perceptual_loss.checks import as_path
    from sr_perceptual_loss.errors import InputError
    from sr_perceptual_loss.lab.evaluation.file_lock import claimed
    from sr_perceptual_loss.lab.evaluation.metric_set import build_measures
    from sr_perceptual_loss.lab.evaluation.metric_table import MetricTable, means

    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if pfiqa and not lr:
        raise InputError("--pfiqa: a reduced-reference measure compares with the LR image; give --lr LR_DIR.")
    files = _pair(sr, hr, lr)
    check_device(device)
    border = scale if crop is None else crop
    measures, left_out = build_measures(wanted, border=border, device=device, download=download)
    for sentence in left_out:
        say(f"left out: {sentence}")
    extra, sources = _scores(critic or [], weights or [], protocol, pfiqa, device)
    columns = _columns([*measures, *extra], wanted)
    if not columns:
        raise InputError("nothing to measure: name at least one of --metrics, --critic, --pfiqa that can be computed.")
    settings = {
        "version": __version__,
        "folders": [str(path.resolve()) for path in (sr, hr, *([lr] if lr else []))],
        "scale": scale,
        "border": border,
        "device": device,
        "columns": {name: column.about for name, column in columns.items()},
        "sources": sources,
    }
    with claimed(out):
        table = MetricTable(as_path(out), list(columns), settings) if out else None
        rows = _measure(files, [*measures, *extra], scale, table)
    found = means(rows, list(columns))
    if as_json:
        typer.echo(json.dumps(_report(rows, found, columns, settings, left_out), indent=2, allow_nan=False))
    else:
        _show(columns, found, len(rows))
    say(f"wrote {out}" if out else "no --out: the rows were not kept.")


def _pair(sr: Path, hr: Path, lr: Path | None) -> list[_Files]:
    from sr_perceptual_loss.checks import as_path
    from sr_perceptual_loss.errors import InputError

    for name, path in (("SR_DIR", sr), ("HR_DIR", hr), ("--lr", lr)):
        if path and not as_path(path).is_dir():
            raise InputError(f"{name}: {path} is no folder; expected a folder of images (srpl score takes two files).")
    found = pair_up(sr, hr)
    for role, left in (("SR", found.unmatched_sr), ("HR", found.unmatched_hr)):
        if left:
            say(f"{len(left)} {role} image(s) without a partner: {', '.join(path.name for path in left)}")
    if not lr:
        return [_Files(image, reference, None) for image, reference in found.pairs]
    inputs: dict[Path, list[Path]] = {}
    # pair_up speaks of SR images; here the LR images take their place.
    try:
        for small, reference in pair_up(lr, hr).pairs:
            inputs.setdefault(reference, []).append(small)
    except InputError as error:
        raise InputError(f"--lr: {error}") from None
    for reference in (reference for _, reference in found.pairs):
        count = len(inputs.get(reference, ()))
        if count != 1:
            names = ", ".join(path.name for path in inputs.get(reference, ())) or "none"
            raise InputError(f"--lr: {count} LR images for {reference.name} ({names}), expected one in {lr}.")
    return [_Files(image, reference, inputs[reference][0]) for image, reference in found.pairs]


def _scores(
    critics: Sequence[str], weights: Sequence[str], protocol: str, pfiqa: str | None, device: str
) -> tuple[list[Measure], dict[str, str]]:
    """Measures of critics and of the user's function, and what they were made from: SHA-256 by column."""
    import sr_perceptual_loss.critics  # noqa: F401  registers them
    from sr_perceptual_loss.critics.registry import create_critic, get_card
    from sr_perceptual_loss.errors import InputError
    from sr_perceptual_loss.lab.evaluation.metric_set import (
        COVERING,
        critic_measure,
        digest_of,
        reduced_reference_measure,
    )

    measures, sources = [], {}
    if protocol != COVERING and not critics:
        raise InputError(f"--protocol {protocol}: only critics use it; name one with --critic.")
    for name in critics:
        get_card(name)
    if len(set(critics)) < len(critics):
        raise InputError(f"--critic: got {', '.join(critics)}; name each critic once.")
    chosen = _weights(critics, weights)
    for name in critics:
        network = create_critic(name, weights=chosen.get(name, "local"), device=device)
        measures.append(critic_measure(network, device=device, protocol=protocol))
        sources[name] = digest_of(network)
    if pfiqa:
        function = _load(pfiqa)
        measures.append(reduced_reference_measure(function, pfiqa, device=device))
        sources["pfiqa"] = digest_of(function)
    return measures, sources


def _weights(critics: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """--weights by critic; the name may be left out where there is one critic only."""
    from sr_perceptual_loss.errors import InputError

    chosen: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if len(critics) == 1 and (not equals or name not in critics):
            name, value = critics[0], text
        if name not in critics or not value:
            known = ", ".join(critics) or "none"
            raise InputError(f"--weights {text}: expected CRITIC=VALUE with a critic of --critic (given: {known}).")
        if name in chosen:
            raise InputError(f"--weights: two values for {name}: {chosen[name]} and {value}; give one.")
        chosen[name] = value
    return chosen


def _load(text: str) -> ReducedReference:
    """``module:function``, from the working directory or an installed package."""
    import importlib

    from sr_perceptual_loss.errors import InputError

    module, _, name = text.partition(":")
    if not module or not name:
        raise InputError(f"--pfiqa {text}: expected MODULE:FUNCTION, for instance --pfiqa my_metrics:pfiqa.")
    here = str(Path.cwd())
    # A console script does not see the working directory, `python -m` does.
    if here not in sys.path:
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise InputError(f"--pfiqa {text}: {error}; expected a module in {here} or an installed one.") from None
    if not callable(function):
        raise InputError(f"--pfiqa {text}: {module} has no function {name!r}; expected {name}(sr, lr, scale) -> float.")
    return function  # type: ignore[no-any-return]


def _columns(measures: Sequence[Measure], order: Sequence[str]) -> dict[str, Column]:
    """All columns: metrics in the order they were named, then critics, then the user's function."""
    found = {name: column for measure in measures for name, column in measure.columns.items()}
    first = [name for name in order if name in found]
    return {name: found[name] for name in [*first, *(n for n in found if n not in first)]}


def _measure(files: Sequence[_Files], measures: Sequence[Measure], scale: int, table: MetricTable | None) -> list[Row]:
    """One row per image, with a bar on stderr if a person is looking."""
    from rich.progress import track

    from sr_perceptual_loss.lab.evaluation.metric_set import Images
    from sr_perceptual_loss.lab.evaluation.metric_table import Row, fingerprint

    rows, cut, kept = [], [], 0
    if table and table.dropped:
        say(f"{table.path}: {table.dropped} unreadable line(s), left by an interruption, were removed.")
    for item in track(files, "measuring", console=stderr(), disable=not sys.stderr.isatty(), transient=True):
        inputs = fingerprint(item.all)
        row = table.find(item.sr.name, item.hr.name, inputs) if table else None
        kept += row is not None
        if row is None:
            images = Images.read(item.sr, item.hr, item.lr, scale)
            cut += [item.hr.name] * images.cut
            values = {name: value for measure in measures for name, value in measure.compute(images).items()}
            row = Row(item.sr.name, item.hr.name, inputs, values)
            if table:
                table.add(row)
        rows.append(row)
    if cut:
        say(f"{len(cut)} reference(s) cut to multiples of {scale}: {', '.join(cut)}")
    if kept and table:
        say(f"{kept} of {len(rows)} rows taken from {table.path}")
    return table.finish(row.image for row in rows) if table else rows


def _report(
    rows: Sequence[Row],
    found: dict[str, Mean],
    columns: dict[str, Column],
    settings: dict[str, Any],
    left_out: Sequence[str],
) -> dict[str, Any]:
    """What --json prints; an infinite PSNR is the text "inf", since JSON has no such number."""

    def number(value: float) -> float | str:
        return "inf" if value == float("inf") else value

    return {
        "means": {name: number(mean.value) for name, mean in found.items()},
        "infinite": {name: mean.infinite for name, mean in found.items() if mean.infinite},
        "better": {name: column.better or None for name, column in columns.items()},
        "images": {row.image: {name: number(row.values[name]) for name in columns} for row in rows},
        "left_out": list(left_out),
        "settings": settings,
    }


def _show(columns: dict[str, Column], found: dict[str, Mean], count: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("measure", "mean", "better", "how", title=f"{count} image(s)")
    for name, mean in found.items():
        note = f"; mean without {mean.infinite} image(s) equal to the reference" if mean.infinite else ""
        table.add_row(name, f"{mean.value:.4f}", columns[name].better or "-", columns[name].about + note)
    Console().print(table)
