"""``srpl metrics``: a folder of SR images against a folder of references, image by image, into a CSV.

Only PSNR and SSIM leave a border out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sr_perceptual_loss.cli.device import Device, check_device
from sr_perceptual_loss.cli.pairing import by_reference, match_images
from sr_perceptual_loss.cli.terminal import log, print_table, track
from sr_perceptual_loss.errors import InputError

if TYPE_CHECKING:
    from sr_perceptual_loss.lab.evaluation.metric_set import Column, Measure, ReducedReference
    from sr_perceptual_loss.lab.evaluation.metric_table import Mean, MetricTable, Row

__all__ = ["metrics"]


class _Files(NamedTuple):
    sr: Path
    hr: Path
    lr: Path | None


@dataclass
class _Rows:
    """A data set for PyTorch's ``DataLoader``: the row of an image and whether its reference was cut, or an error."""

    build: Callable[[], list[Measure]]
    measures: Sequence[Measure]
    files: Sequence[_Files]
    scale: int
    table: MetricTable | None

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "measures": ()}  # a process builds them itself: they hold functions, which cannot be sent

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Row, bool] | Exception:
        try:
            return self._row(self.files[index])
        except Exception as error:  # to be raised by the caller: the loader would change its message
            return error

    def _row(self, item: _Files) -> tuple[Row, bool]:
        from sr_perceptual_loss.lab.evaluation.metric_set import Images
        from sr_perceptual_loss.lab.evaluation.metric_table import Row, fingerprint

        inputs = fingerprint(path for path in item if path)
        if self.table and (row := self.table.find(item.sr.name, item.hr.name, inputs)):
            return row, False
        images = Images.read(item.sr, item.hr, item.lr, self.scale)
        self.measures = self.measures or self.build()
        values = {name: value for measure in self.measures for name, value in measure.compute(images).items()}
        return Row(item.sr.name, item.hr.name, inputs, values), images.cut


def metrics(
    sr: Annotated[Path, typer.Argument(help="SR images.", metavar="SR_DIR")],
    hr: Annotated[Path, typer.Argument(help="Their references.", metavar="HR_DIR")],
    lr: Annotated[Path | None, typer.Option(help="Inputs of the SR network, for --pfiqa.", metavar="LR_DIR")] = None,
    scale: Annotated[int, typer.Option(help="Enlargement.", min=1)] = 4,
    crop: Annotated[
        int | None, typer.Option(help="Border that PSNR and SSIM ignore; default the scale.", min=0)
    ] = None,
    names: Annotated[str, typer.Option("--metrics", help="Names from the list above; '' for none.")] = "psnr_y,ssim_y",
    critic: Annotated[list[str] | None, typer.Option(help="Critic, one of `srpl list`; repeatable.")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="CRITIC=local|TAG|PATH, repeatable; default local.")] = None,
    protocol: Annotated[str, typer.Option(help="covering (as `srpl score`), or one of `srpl evaluate`.")] = "covering",
    pfiqa: Annotated[
        str | None, typer.Option(help="Your function(sr, lr, scale) -> number; needs --lr.", metavar="MODULE:FUNCTION")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV of one row per image and the means.")] = None,
    device: Device = "cpu",
    workers: Annotated[int, typer.Option(help="Processes; if several, each computes with one thread.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with all rows instead of a table.")] = False,
) -> None:
    """Measure SR images against their references. Prints the means; --out writes a row per image.

    Metrics: psnr_y, ssim_y, psnr_rgb, ssim_rgb, lpips_alex, lpips_vgg, lpips_squeeze, dists_vgg, sf, sn, sfsn,
    sfsn_1_9. LPIPS and DISTS need torchvision's network on this machine: srpl fetch lpips_alex.

    Folders are matched as in `srpl score`; LR images are matched with the HR images in the same way. A reference whose
    sides are not multiples of the scale is cut if the SR image has the cut size. An interrupted run continues:
    rows of the same settings and the same files are not computed again.
    """
    from sr_perceptual_loss import __version__
    from sr_perceptual_loss.checks import as_path
    from sr_perceptual_loss.lab.evaluation.file_lock import file_lock
    from sr_perceptual_loss.lab.evaluation.metric_table import MetricTable, means

    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if pfiqa and not lr:
        raise InputError("--pfiqa: a reduced-reference measure compares with the LR image; give --lr LR_DIR.")
    files = _files(sr, hr, lr)
    check_device(device)
    border = scale if crop is None else crop
    build = partial(_measures, wanted, critic or [], weights or [], protocol, pfiqa, border, device)
    measures = build()
    columns = _columns(measures, wanted)
    settings = {
        "version": __version__,
        "folders": [str(path.resolve()) for path in (sr, hr, *([lr] if lr else []))],
        "scale": scale,
        "border": border,
        "device": device,
        "columns": {name: column.about for name, column in columns.items()},
        "sources": {name: measure.digest for measure in measures if measure.digest for name in measure.columns},
    }
    with file_lock(out):
        table = MetricTable(as_path(out), list(columns), settings) if out else None
        rows = _measure(_Rows(build, measures, files, scale, table), workers)
    averages = means(rows, list(columns))
    if as_json:
        report = {**_report(rows, averages, columns), "settings": settings}
        typer.echo(json.dumps(report, indent=2, allow_nan=False))
    else:
        lines = [_line(name, columns[name], mean) for name, mean in averages.items()]
        print_table(("measure", "mean", "better", "how"), lines)
    log(f"{len(rows)} image(s); " + (f"wrote {out}" if out else "no --out: the rows were not kept."))


def _files(sr: Path, hr: Path, lr: Path | None) -> list[_Files]:
    from sr_perceptual_loss.checks import as_path

    for name, path in (("SR_DIR", sr), ("HR_DIR", hr), ("--lr", lr)):
        if path and not as_path(path).is_dir():
            raise InputError(f"{name}: {path} is not a folder of images (srpl score takes two files).")
    pairs = match_images(sr, hr).pairs
    if not lr:
        return [_Files(image, reference, None) for image, reference in pairs]
    try:
        inputs = by_reference(match_images(lr, hr, "LR").pairs)
    except InputError as error:
        raise InputError(f"--lr: {error}") from None
    for _, reference in pairs:
        lr_images = inputs.get(reference, [])
        if len(lr_images) != 1:
            names = "".join(f" {path.name}" for path in lr_images)
            raise InputError(f"--lr: {len(lr_images)} LR images for {reference.name}, expected one in {lr}.{names}")
    return [_Files(image, reference, *inputs[reference]) for image, reference in pairs]


def _measures(
    names: list[str], critics: list[str], weights: list[str], protocol: str, pfiqa: str | None, border: int, device: str
) -> list[Measure]:
    from sr_perceptual_loss.lab.evaluation.metric_set import build_measures, reduced_reference_measure

    measures = build_measures(names, border=border, device=device) + _critics(critics, weights, protocol, device)
    if pfiqa:
        measures.append(reduced_reference_measure(_load(pfiqa), pfiqa, device=device))
    return measures


def _critics(critics: Sequence[str], weights: Sequence[str], protocol: str, device: str) -> list[Measure]:
    from sr_perceptual_loss.critics import create_critic, get_card
    from sr_perceptual_loss.lab.evaluation.metric_set import critic_measure

    if protocol != "covering" and not critics:
        raise InputError(f"--protocol {protocol}: only critics use it; name one with --critic.")
    for name in critics:
        get_card(name)  # a misspelt name is reported before any weights are read
    files = _weights(critics, weights)
    return [
        critic_measure(
            create_critic(name, weights=files.get(name, "local"), device=device), device=device, protocol=protocol
        )
        for name in critics
    ]


def _columns(measures: Sequence[Measure], wanted: Sequence[str]) -> dict[str, Column]:
    """All columns: metrics in the order in which they were named, then critics and the user's function."""
    names = [name for measure in measures for name in measure.columns]
    if not names:
        raise InputError("nothing to measure: name at least one of --metrics, --critic, --pfiqa.")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name}: given twice, expected once in --metrics and --critic.")
    columns = {name: column for measure in measures for name, column in measure.columns.items()}
    return {name: columns[name] for name in dict.fromkeys([*wanted, *names])}


def _weights(critics: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    """--weights by critic; the name may be left out where there is one critic only."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if len(critics) == 1 and (not equals or name not in critics):
            name, value = critics[0], text
        if name not in critics or not value or name in values:
            known = ", ".join(critics) or "none"
            raise InputError(
                f"--weights {text}: expected CRITIC=VALUE, once for a critic of --critic (given: {known})."
            )
        values[name] = value
    return values


def _load(text: str) -> ReducedReference:
    """``module:function``, from the working directory or an installed package."""
    import importlib

    module, _, name = text.partition(":")
    if not module or not name:
        raise InputError(f"--pfiqa {text}: expected MODULE:FUNCTION, for instance --pfiqa my_metrics:pfiqa.")
    folder = str(Path.cwd())
    # A console script does not search the working directory, `python -m` does.
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise InputError(f"--pfiqa {text}: {error}; expected a module in {folder} or an installed one.") from None
    if not callable(function):
        raise InputError(f"--pfiqa {text}: {module} has no function {name!r}; expected {name}(sr, lr, scale) -> float.")
    return function  # type: ignore[no-any-return]


def _measure(images: _Rows, workers: int) -> list[Row]:
    """One row per image; rows of the table are used again."""
    from torch.utils.data import DataLoader

    rows, cut, reused, table = [], [], 0, images.table
    if table and table.dropped:
        log(f"{table.path}: {table.dropped} unreadable line(s), left by an interruption, were removed.")
    data: Any = images  # PyTorch's base class, which types ask for, would be imported with the command line
    context = "spawn" if workers > 1 else None  # and 0 workers compute here
    results = DataLoader(data, batch_size=None, num_workers=workers if context else 0, multiprocessing_context=context)
    for item, result in zip(track(images.files, "measuring"), results, strict=True):
        if isinstance(result, Exception):
            raise result
        row, was_cut = result
        if was_cut:
            cut.append(item.hr.name)
        if table and table.find(row.image, row.reference, row.inputs):
            reused += 1
        elif table:
            table.add(row)
        rows.append(row)
    if cut:
        log(f"{len(cut)} reference(s) cut to multiples of {images.scale}: {', '.join(cut)}")
    if reused and table:
        log(f"{reused} of {len(rows)} rows taken from {table.path}")
    return table.finish(row.image for row in rows) if table else rows


def _report(rows: Sequence[Row], averages: dict[str, Mean], columns: dict[str, Column]) -> dict[str, object]:
    """Results as plain values; an infinite PSNR is the text "inf", since JSON has no such number."""

    def plain(value: float) -> float | str:
        return "inf" if value == float("inf") else value

    return {
        "means": {name: plain(mean.value) for name, mean in averages.items()},
        "infinite": {name: mean.infinite for name, mean in averages.items() if mean.infinite},
        "better": {name: column.better or None for name, column in columns.items()},
        "images": {row.image: {name: plain(row.values[name]) for name in columns} for row in rows},
    }


def _line(name: str, column: Column, mean: Mean) -> tuple[str, ...]:
    note = f"; mean without {mean.infinite} image(s) equal to the reference" if mean.infinite else ""
    return name, f"{mean.value:.4f}", column.better or "-", column.about + note
