"""``srpl list``: which critics there are, what they need, and which of their weights are on this machine."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sr_perceptual_loss.cli.terminal import log, print_table

if TYPE_CHECKING:
    from sr_perceptual_loss.critics.base import CriticCard
    from sr_perceptual_loss.weights import WeightsEntry

__all__ = ["list_critics"]

ENTRY_FIELDS = ("tag", "bundled", "bytes", "licence", "commercial_use", "training_data", "origin", "url")
COMMERCIAL_USE = {True: "allowed", False: "not allowed", None: "not stated"}


def list_critics(
    critics: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CRITIC]...", help="Only these, in full and with their limits."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of text.")] = False,
) -> None:
    """List every critic in a line: whether it needs a download, its scores, licence, and what it was learned from."""
    from sr_perceptual_loss.critics import get_card
    from sr_perceptual_loss.critics import list_critics as names

    described = [_describe(get_card(name)) for name in critics or names()]
    if as_json:
        typer.echo(json.dumps(described, indent=2))
    elif critics:
        typer.echo("\n\n".join(map(_text, described)))
    else:
        heads = ("critic", "weights", "scores", "symmetric", "licence", "learned from")
        print_table(heads, [_row(critic) for critic in described])
        log("Each in full, with its limits: srpl list CRITIC")


def _describe(card: CriticCard) -> dict[str, Any]:
    """A card as plain values."""
    return {
        "name": card.name,
        "paper": card.paper,
        "sizes": card.input_size.describe(),
        "score_range": list(card.score_range),
        "relative": card.relative,
        "symmetric": card.symmetric,
        "notes": list(card.notes),
        "needs_weights": card.needs_weights,
        "weights": [_weights(card.name, entry) for entry in card.weights.values()],
    }


def _weights(name: str, entry: WeightsEntry) -> dict[str, Any]:
    from sr_perceptual_loss.weights import records

    here = records.on_this_machine(name, entry)
    return {
        **{field: getattr(entry, field) for field in ENTRY_FIELDS},
        "on_this_machine": here,
        "known_origin": records.origin(name, entry) if here else "",
        "path": str(records.place(name, entry)),
    }


def _row(critic: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table, with the weights that ``weights='local'`` means."""
    entry = next(iter(critic["weights"]), None)
    if not critic["needs_weights"]:
        # The constants of a formula may have been fitted too; its card says so in a note.
        fitted = (note.rstrip(".") for note in critic["notes"] if note.startswith("Fitted to"))
        weights, licence, learned = "formula", "of this package", next(fitted, "nothing")
    elif not entry:
        weights, licence, learned = "none published", "-", "your training"
    else:
        weights = "bundled" if entry["bundled"] else "on this machine" if entry["on_this_machine"] else "download"
        licence = entry["licence"].partition(" (")[0].partition(";")[0] or "not stated"
        learned = entry["training_data"] or "not stated"
    low, high = critic["score_range"]
    return critic["name"], weights, f"{low:g}..{high:g}", "yes" if critic["symmetric"] else "no", licence, learned


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
    lines += [f"  note     {note}" for note in critic["notes"]]
    width = min(max(shutil.get_terminal_size().columns, 40), 100)
    wrapper = textwrap.TextWrapper(width, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapper.fill(line) for line in lines)
