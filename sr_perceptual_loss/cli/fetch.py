"""``srpl fetch``: download published weights once, check and convert them."""

from __future__ import annotations

from typing import Annotated

import typer

from sr_perceptual_loss.cli.terminal import say

__all__ = ["fetch"]


def fetch(
    name: Annotated[str, typer.Argument(help="Critic, one of `srpl list`.", metavar="CRITIC")],
    weights: Annotated[str, typer.Option(help="Tag of the weights to fetch.", metavar="TAG")] = "official",
) -> None:
    """Download the published weights of a critic, check their hash, convert them; prints the path of the file."""
    import sr_perceptual_loss.critics  # noqa: F401  registers them
    from sr_perceptual_loss.critics.registry import critic_class
    from sr_perceptual_loss.errors import WeightsError
    from sr_perceptual_loss.weights import store

    cls = critic_class(name)
    if not cls.card.needs_weights:
        raise WeightsError(f"{name} is a formula and has no weights; there is nothing to fetch.")
    entry = store.entry_of(name, cls.card.weights, weights)
    path = store.fetch(name, entry, remap=cls.remap_official, build=cls, progress=say)
    typer.echo(path)
