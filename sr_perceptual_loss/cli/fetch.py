"""``srpl fetch``: download published weights once, check and convert them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sr_perceptual_loss.cli.terminal import log
from sr_perceptual_loss.errors import WeightsError

__all__ = ["fetch"]


def fetch(
    name: Annotated[str, typer.Argument(help="Critic, one of `srpl list`.", metavar="CRITIC")],
    weights: Annotated[str, typer.Option(help="Tag of the weights; the card's first by default.", metavar="TAG")] = "",
) -> None:
    """Download the published weights of a critic, check their hash, convert them; prints the path of the file."""
    from sr_perceptual_loss.critics import get_card
    from sr_perceptual_loss.critics.registry import critic_class
    from sr_perceptual_loss.weights import store

    card, cls = get_card(name), critic_class(name)
    if not card.needs_weights:
        raise WeightsError(f"{name} is a formula and has no weights; there is nothing to fetch.")
    entry = store.entry_of(name, card.weights, weights or next(iter(card.weights), ""))
    path = store.fetch(name, entry, remap=cls.remap_official, build=cls, progress=log)
    typer.echo(os.fsencode(path))  # any name, whatever the terminal's encoding
