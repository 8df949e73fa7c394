"""``srpl convert``: a checkpoint of the reference code, or of one's own training, into our file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sr_perceptual_loss.cli.terminal import say

if TYPE_CHECKING:
    from sr_perceptual_loss.critics.base import Critic
    from sr_perceptual_loss.weights.manifest import WeightsEntry

__all__ = ["convert"]


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The downloaded or trained file (.pt, .pth, .safetensors).")],
    critic: Annotated[str, typer.Option(help="Critic, one of `srpl list`.", metavar="NAME")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write. By default a published file goes into the store, where weights='local' finds it, and "
            "any other one beside the checkpoint."
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Key of the checkpoint under which the weights lie.")] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(help="Constructor argument of the critic, such as normalisation=raw; may be repeated."),
    ] = None,
    warm_start: Annotated[
        bool,
        typer.Option(
            "--warm-start",
            help="Make a start for training an RQI critic from a checkpoint of AHIQ, MANIQA or TOPIQ: what is missing "
            "stays random, and the file says that it must be trained.",
        ),
    ] = False,
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            help="With --warm-start: part of the critic and a file with its state dict, such as vit=FILE; may be "
            "repeated.",
            metavar="PART=FILE",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="With --warm-start: of the random entries.", min=0)] = 0,
) -> None:
    """Convert a checkpoint into one .safetensors file (never runs code of it); prints its path and SHA-256."""
    import sr_perceptual_loss.critics  # noqa: F401  registers them
    from sr_perceptual_loss.critics.registry import critic_class, which_critic
    from sr_perceptual_loss.errors import InputError, WeightsError
    from sr_perceptual_loss.weights import store
    from sr_perceptual_loss.weights.convert import convert as convert_file

    cls = critic_class(critic)
    if not cls.card.needs_weights:
        raise WeightsError(f"{critic} is a formula and has no weights; there is nothing to convert.")
    arguments = _arguments(cls, config or [])
    if warm_start:
        _warm_start(cls, arguments, checkpoint, out, key, backbone or [], seed)
        return
    if backbone or seed:
        raise InputError(
            f"--{'backbone' if backbone else 'seed'}: acts with --warm-start only; add it or leave it out."
        )
    network = cls(**arguments)
    entry = None if out or arguments else _published(cls.card.weights, checkpoint)
    if entry:
        report = store.install(critic, entry, checkpoint, network, key=key, suggest=which_critic)
    else:
        target = _beside(checkpoint, out, "")
        report = convert_file(checkpoint, network, target, key=key, suggest=which_critic)
    say(
        f"{critic}: {report.entries} entries"
        + (f", taken from '{report.wrapper}'" if report.wrapper else "")
        + (f", {len(report.dropped)} unused ones left out" if report.dropped else "")
        + f"; the checkpoint's SHA-256 is {report.source_sha256}"
    )
    typer.echo(f"{report.out}\t{report.sha256}")


def _warm_start(
    cls: type[Critic],
    arguments: dict[str, Any],
    checkpoint: Path,
    out: Path | None,
    key: str | None,
    backbones: list[str],
    seed: int,
) -> None:
    """Never into the store: what ``weights='local'`` finds there is taken for trained."""
    from functools import partial

    from sr_perceptual_loss.critics.registry import which_critic
    from sr_perceptual_loss.errors import InputError
    from sr_perceptual_loss.weights.absolute import ADVICE
    from sr_perceptual_loss.weights.warm_start import MUST_BE_TRAINED, summary, warm_start

    files: dict[str, Path] = {}
    for pair in backbones:
        part, equals, file = pair.partition("=")
        if not equals or not part or not file or part in files:
            raise InputError(
                f"--backbone: got {pair!r}, expected PART=FILE, each part once, such as vit=vit.safetensors."
            )
        files[part] = Path(file)
    target = _beside(checkpoint, out, "-warm_start")
    report = warm_start(
        checkpoint, partial(cls, **arguments), target, key=key, backbones=files, seed=seed, suggest=which_critic
    )
    name = cls.card.name
    say(
        f"{name}: {report.entries - len(report.random)} of {report.entries} entries taken"
        + (f", from '{report.wrapper}'" if report.wrapper else "")
        + (f" and {', '.join(f'{part}={file}' for part, file in files.items())}" if files else "")
        + f"; random (seed {seed}): {summary(report.random) or 'none'}; the checkpoint's SHA-256 is "
        + report.source_sha256
    )
    if name in ADVICE:
        say(ADVICE[name])
    say(f"{MUST_BE_TRAINED}. Until then its scores mean nothing as a loss.")
    typer.echo(f"{report.out}\t{report.sha256}")


def _beside(checkpoint: Path, out: Path | None, ending: str) -> Path:
    """The file to write: ``out``, or one beside the checkpoint that is not the checkpoint itself."""
    from sr_perceptual_loss.checks import as_path
    from sr_perceptual_loss.errors import WeightsError

    source = as_path(checkpoint)
    target = out or source.with_name(f"{source.stem}{ending}.safetensors")
    if not out and target == source:
        raise WeightsError(f"{checkpoint}: would be overwritten by its own conversion; name another file: --out FILE")
    return target


def _published(entries: Any, checkpoint: Path) -> WeightsEntry | None:
    """The entry whose published file this is, going by its name; its hash is checked where one is known."""
    return next((e for e in entries.values() if e.repo_id and Path(e.filename).name == checkpoint.name), None)


def _arguments(cls: type[Critic], pairs: list[str]) -> dict[str, Any]:
    """``key=value`` texts as constructor arguments; a value is JSON where it reads as JSON, else text."""
    import inspect

    from sr_perceptual_loss.checks import check_known_keys
    from sr_perceptual_loss.errors import InputError

    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--config: got {pair!r}, expected key=value, such as normalisation=raw.")
        try:
            arguments[name] = json.loads(text)
        except ValueError:
            arguments[name] = text
    check_known_keys(f"--config of {cls.card.name}", arguments, inspect.signature(cls).parameters)
    return arguments
