"""``srpl list``: which critics there are, what they need, and which of their weights are on this machine."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sr_perceptual_loss.cli.terminal import log, print_table

if TYPE_CHECKING:
    from sr_perceptual_loss.critics.card import CriticCard
    from sr_perceptual_loss.weights import WeightsEntry

__all__ = ["list_critics"]

CARD_FIELDS = ("learned_from", "cost", "good_at", "bad_at", "as_loss")
ENTRY_FIELDS = ("tag", "bundled", "bytes", "licence", "commercial_use", "training_data", "origin", "url")
HEADS = ("critic", "weights", "scores", "symmetric", "cost", "licence", "learned from", "good at", "bad at")
COMMERCIAL_USE = {True: "allowed", False: "not allowed", None: "not stated"}


def list_critics(
    critics: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CRITIC]...", help="Only these, in full and with their limits."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of text.")] = False,
) -> None:
    """List every critic in a line: download, scores, cost, licence, training data, what it is good and bad at."""
    from sr_perceptual_loss.critics import get_card
    from sr_perceptual_loss.critics import list_critics as names

    described = [_describe(get_card(name)) for name in critics or names()]
    if as_json:
        typer.echo(json.dumps(described, indent=2))
    elif critics:
        typer.echo("\n\n".join(map(_text, described)))
    else:
        print_table(HEADS, [_row(critic) for critic in described])
        log("Cost: time of forward and backward pass, LPIPS-VGG = 1. Each in full, with its limits: srpl list CRITIC")


def _describe(card: CriticCard) -> dict[str, Any]:
    """A card as plain values."""
    return {
        "name": card.name,
        "paper": card.paper,
        "sizes": card.input_size.describe(),
        "score_range": list(card.score_range),
        "relative": card.relative,
        "symmetric": card.symmetric,
        **{field: getattr(card, field) for field in CARD_FIELDS},
        "notes": list(card.notes),
        "needs_weights": card.needs_weights,
        "weights": [_weights(card.name, entry) for entry in card.weights.values()],
    }


def _weights(name: str, entry: WeightsEntry) -> dict[str, Any]:
    from sr_perceptual_loss.weights import records, store

    here, origin = store.is_local(name, entry), ""
    if here:
        converted = records.on_this_machine(name, entry)
        origin = records.origin(name, entry) if converted else "in torch's folder, to be compared and converted"
    return {
        **{field: getattr(entry, field) for field in ENTRY_FIELDS},
        "on_this_machine": here,
        "known_origin": origin,
        "path": str(records.place(name, entry)),
    }


def _row(critic: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table, with the weights that ``weights='local'`` means."""
    entry = next(iter(critic["weights"]), None)
    if not critic["needs_weights"]:
        weights, licence = "formula", "of this package"
    elif not entry:
        weights, licence = "none published", "-"
    else:
        weights = "bundled" if entry["bundled"] else "on this machine" if entry["on_this_machine"] else "download"
        licence = entry["licence"].partition(" (")[0].partition(";")[0]
        licence = "not stated" if licence.startswith("not stated") else licence or "not stated"
    low, high = critic["score_range"]
    facts = critic["learned_from"], critic["good_at"], critic["bad_at"]
    symmetric = "yes" if critic["symmetric"] else "no"
    return critic["name"], weights, f"{low:g}..{high:g}", symmetric, critic["cost"], licence, *facts


def _text(critic: dict[str, Any]) -> str:
    low, high = critic["score_range"]
    relative = "relative to the reference (0: as good as it)" if critic["relative"] else "absolute"
    symmetric = "symmetric" if critic["symmetric"] else "not symmetric"
    lines = [
        critic["name"],
        f"  paper    {critic['paper']}",
        f"  sizes    {critic['sizes']}",
        f"  scores   {low:g} to {high:g}, {relative}; higher is better; {symmetric}",
    ]
    if not critic["needs_weights"]:
        lines.append("  weights  none needed (a formula)")
    elif not critic["weights"]:
        lines.append("  weights  none published: train it, or give the path of your own file")
    for entry in critic["weights"]:
        missing = f"not on this machine (srpl fetch {critic['name']})"
        place = f"on this machine, {entry['known_origin']}" if entry["on_this_machine"] else missing
        lines += [
            f"  weights  {entry['tag']}: {place}",
            f"           licence: {entry['licence'] or 'not stated'}; "
            f"commercial use: {COMMERCIAL_USE[entry['commercial_use']]}",
            f"           trained on: {entry['training_data'] or 'not stated'}; {entry['bytes'] / 1e6:.0f} MB",
        ]
    lines += [
        f"  learned  from {critic['learned_from']}",
        f"  cost     {critic['cost']}: time of forward and backward pass, LPIPS-VGG = 1",
        f"  good at  {critic['good_at']}",
        f"  bad at   {critic['bad_at']}",
        *([f"  as loss  not recommended: {critic['as_loss']}"] if critic["as_loss"] else ()),
        *(f"  note     {note}" for note in critic["notes"]),
    ]
    width = min(max(shutil.get_terminal_size().columns, 40), 100)
    wrapper = textwrap.TextWrapper(width, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapper.fill(line) for line in lines)
