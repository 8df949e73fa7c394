"""``srpl convert``: from a checkpoint, published or of your own training, to a weights file of this package."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sr_perceptual_loss.cli.terminal import log
from sr_perceptual_loss.errors import InputError, WeightsError

if TYPE_CHECKING:
    from sr_perceptual_loss.critics.base import Critic

__all__ = ["convert"]


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The downloaded or trained file (.pt, .pth, .safetensors).")],
    critic: Annotated[str, typer.Option(help="Critic, one of `srpl list`.", metavar="NAME")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default the store for a published file, else beside it.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Key of the checkpoint under which the weights are, KEY.KEY if nested.")
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option(help="Constructor argument, such as normalisation=raw; repeatable.")
    ] = None,
    warm_start: Annotated[
        bool, typer.Option("--warm-start", help="Start of an RQI training from a checkpoint of AHIQ, MANIQA or TOPIQ.")
    ] = False,
    backbone: Annotated[
        list[str] | None, typer.Option(help="With --warm-start: state dict of a part; repeatable.", metavar="PART=FILE")
    ] = None,
    seed: Annotated[int, typer.Option(help="With --warm-start: of the random entries.", min=0)] = 0,
) -> None:
    """Convert a checkpoint into one .safetensors file; prints its path and SHA-256. Code in a checkpoint is never run.

    weights='local' uses the files of the store. With --warm-start, entries that no file gives stay random, and the file
    is marked as one that must be trained; it is never put into the store.
    """
    from sr_perceptual_loss.critics import get_card
    from sr_perceptual_loss.critics.registry import critic_class, which_critic
    from sr_perceptual_loss.weights import convert as conversion
    from sr_perceptual_loss.weights import records, store
    from sr_perceptual_loss.weights.file import existing_file, sha256_of
    from sr_perceptual_loss.weights.manifest import ADVICE

    card, cls = get_card(critic), critic_class(critic)
    if not card.needs_weights:
        raise WeightsError(f"{critic} is a formula and has no weights; there is nothing to convert.")
    if (backbone or seed) and not warm_start:
        raise InputError(f"--{'backbone' if backbone else 'seed'}: only with --warm-start; add it or leave it out.")
    arguments = _arguments(cls, config or [])
    files = {part: Path(file) for part, file in _assignments("--backbone", backbone or [], "PART=FILE").items()}
    entry = store.published(critic, card.weights, existing_file(checkpoint))
    known = entry and records.known_hash(critic, entry) == sha256_of(existing_file(checkpoint))
    if warm_start:
        target = _target(checkpoint, out, "-warm_start")
        report = conversion.warm_start(
            checkpoint, partial(cls, **arguments), target, key=key, backbones=files, seed=seed, suggest=which_critic
        )
    elif entry and not out and not arguments:
        report = store.install(critic, entry, checkpoint, cls(), key=key, suggest=which_critic)
    else:
        target, facts = _target(checkpoint, out, ""), entry if known else None
        report = conversion.convert(checkpoint, cls(**arguments), target, key=key, suggest=which_critic, entry=facts)
    log(
        f"{critic}: {report.entries - len(report.random)} of {report.entries} entries"
        + (f", taken from '{report.wrapper}'" if report.wrapper else "")
        + (f" (also there, with other values: {', '.join(report.others)})" if report.others else "")
        + "".join(f", {part}={file}" for part, file in files.items())
        + (f"; {len(report.dropped)} unused ones left out" if report.dropped else "")
        + (f"; random (seed {seed}): {conversion.summary(report.random) or 'none'}" if warm_start else "")
        + f"; the checkpoint's SHA-256 is {report.source_sha256}, "
        + (
            f"that of the published file '{entry.tag}'"
            if entry and known
            else "which is no published hash that is known"
        )
    )
    if entry and not known and report.out == records.place(critic, entry):
        log(f"{critic}: that it is the published file '{entry.tag}' is your word: its name says so, no hash is known.")
    if warm_start:
        log(f"{ADVICE.get(critic, '')} {conversion.MUST_BE_TRAINED}; until then its scores are meaningless.".lstrip())
    typer.echo(os.fsencode(f"{report.out}\t{report.sha256}"))  # any name, whatever the terminal's encoding


def _target(checkpoint: Path, out: Path | None, ending: str) -> Path:
    """The file to write: ``out``, or one beside the checkpoint that is not the checkpoint itself."""
    from sr_perceptual_loss.checks import as_path

    source = as_path(checkpoint)
    target = out or source.with_name(f"{source.stem}{ending}.safetensors")
    if not out and target == source:
        raise WeightsError(f"{checkpoint}: would be overwritten by its own conversion; name another file: --out FILE")
    return target


def _assignments(option: str, texts: list[str], form: str) -> dict[str, str]:
    """``name=value`` texts of a repeatable option."""
    values: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value or name in values:
            raise InputError(f"{option}: got {text!r}, expected {form}, each name once.")
        values[name] = value
    return values


def _arguments(cls: type[Critic], texts: list[str]) -> dict[str, Any]:
    """Constructor arguments; a value is JSON if it can be read as JSON, else text."""
    import inspect

    from sr_perceptual_loss.checks import check_known_keys

    arguments: dict[str, Any] = {}
    for name, text in _assignments("--config", texts, "key=value").items():
        try:
            arguments[name] = json.loads(text)
        except ValueError:
            arguments[name] = text
    check_known_keys(f"--config of {cls.card.name}", arguments, inspect.signature(cls).parameters)
    return arguments
