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
) -> None:
    """Convert a checkpoint into one .safetensors file (never runs code of it); prints its path and SHA-256."""
    import sr_perceptual_loss.critics  # noqa: F401  registers them
    from sr_perceptual_loss._checks import WeightsError
    from sr_perceptual_loss.critics.registry import critic_class, which_critic
    from sr_perceptual_loss.weights import store
    from sr_perceptual_loss.weights.convert import convert as convert_file

    cls = critic_class(critic)
    if not cls.card.needs_weights:
        raise WeightsError(f"{critic} is a formula and has no weights; there is nothing to convert.")
    arguments = _arguments(cls, config or [])
    network = cls(**arguments)
    entry = None if out or arguments else _published(cls.card.weights, checkpoint)
    if entry:
        report = store.install(critic, entry, checkpoint, network, key=key, suggest=which_critic)
    else:
        target = out or checkpoint.expanduser().with_suffix(".safetensors")
        if not out and target == checkpoint.expanduser():
            raise WeightsError(
                f"{checkpoint}: would be overwritten by its own conversion; name another file: --out FILE"
            )
        report = convert_file(checkpoint, network, target, key=key, suggest=which_critic)
    say(
        f"{critic}: {report.entries} entries"
        + (f", taken from '{report.wrapper}'" if report.wrapper else "")
        + (f", {len(report.dropped)} unused ones left out" if report.dropped else "")
        + f"; the checkpoint's SHA-256 is {report.source_sha256}"
    )
    typer.echo(f"{report.out}\t{report.sha256}")


def _published(entries: Any, checkpoint: Path) -> WeightsEntry | None:
    """The entry whose published file this is, going by its name; its hash is checked where one is known."""
    return next((e for e in entries.values() if e.repo_id and Path(e.filename).name == checkpoint.name), None)


def _arguments(cls: type[Critic], pairs: list[str]) -> dict[str, Any]:
    """``key=value`` texts as constructor arguments; a value is JSON where it reads as JSON, else text."""
    import inspect

    from sr_perceptual_loss._checks import InputError, check_known_keys

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
