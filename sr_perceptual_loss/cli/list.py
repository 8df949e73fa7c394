"""``srpl list``: which critics there are, and which of their weights are on this machine."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sr_perceptual_loss.critics.base import CriticCard

__all__ = ["list_critics"]

ENTRY_FIELDS = ("tag", "bytes", "licence", "commercial_use", "training_data", "origin")
COMMERCIAL_USE = {True: "allowed", False: "not allowed", None: "not stated"}


def list_critics(
    critics: Annotated[
        list[str] | None, typer.Argument(metavar="[CRITIC]...", help="Only these, with their notes; all by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of text.")] = False,
) -> None:
    """List every critic: paper, sizes, score range, weights and whether they are on this machine."""
    from sr_perceptual_loss.critics import get_card
    from sr_perceptual_loss.critics import list_critics as names

    described = [_describe(get_card(name)) for name in critics or names()]
    if as_json:
        typer.echo(json.dumps(described, indent=2))
    else:
        typer.echo("\n\n".join(_text(critic, notes=bool(critics)) for critic in described))


def _describe(card: CriticCard) -> dict[str, Any]:
    """A card as plain values."""
    from sr_perceptual_loss.weights import store

    return {
        "name": card.name,
        "paper": card.paper,
        "sizes": card.input_size.describe(),
        "score_range": list(card.score_range),
        "relative": card.relative,
        "symmetric": card.symmetric,
        "notes": list(card.notes),
        "needs_weights": card.needs_weights,
        "weights": [
            {
                **{name: getattr(entry, name) for name in ENTRY_FIELDS},
                "on_this_machine": store.on_this_machine(card.name, entry),
                "path": str(store.place(card.name, entry)),
                "url": entry.url if entry.repo_id else "",
            }
            for entry in card.weights.values()
        ],
    }


def _text(critic: dict[str, Any], *, notes: bool) -> str:
    low, high = critic["score_range"]
    relative = "relative to the reference (0: as good as it)" if critic["relative"] else "absolute"
    lines = [
        critic["name"],
        f"  paper    {critic['paper']}",
        f"  sizes    {critic['sizes']}",
        f"  scores   {low:g} to {high:g}, {relative}; higher is better",
    ]
    if not critic["needs_weights"]:
        lines.append("  weights  none needed (a formula)")
    elif not critic["weights"]:
        lines.append("  weights  none published: train it, or give the path of your own file")
    for entry in critic["weights"]:
        place = "on this machine" if entry["on_this_machine"] else f"not on this machine (srpl fetch {critic['name']})"
        lines += [
            f"  weights  {entry['tag']}: {place}",
            f"           licence: {entry['licence'] or 'not stated'}; "
            f"commercial use: {COMMERCIAL_USE[entry['commercial_use']]}",
            f"           trained on: {entry['training_data'] or 'not stated'}; {entry['bytes'] / 1e6:.0f} MB",
        ]
    lines += [f"  note     {note}" for note in critic["notes"] if notes]
    width = min(max(shutil.get_terminal_size().columns, 40), 100)
    wrapper = textwrap.TextWrapper(width, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapper.fill(line) for line in lines)
