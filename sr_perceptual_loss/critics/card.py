"""Facts about a critic: which image sizes it takes, what it was learned from, what it is good and bad at."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.weights.manifest import WeightsEntry

__all__ = ["CriticCard", "SizeRule"]


@dataclass(frozen=True)
class SizeRule:
    """Which image sizes a critic takes.

    Attributes:
        minimum: smallest side.
        multiple_of: both sides must be a multiple of it.
        fixed: the only side allowed (square), or None.
    """

    minimum: int = 1
    multiple_of: int = 1
    fixed: int | None = None

    def accepts(self, height: int, width: int) -> bool:
        """Whether an image of this size can be scored as it is."""
        if self.fixed is not None:
            return height == width == self.fixed
        return min(height, width) >= self.minimum and height % self.multiple_of == width % self.multiple_of == 0

    def describe(self) -> str:
        """The rule as text, for messages and tables."""
        if self.fixed is not None:
            return f"exactly {self.fixed}x{self.fixed}"
        multiple = f", multiples of {self.multiple_of}" if self.multiple_of > 1 else ""
        return f"sides >= {self.minimum}{multiple}"

    def check(self, height: int, width: int, critic: str) -> None:
        """Raise InputError, with advice, if the critic of this name cannot score an image of this size."""
        if self.accepts(height, width):
            return
        side = self.fixed or self.minimum
        raise InputError(
            f"{critic}: got {height}x{width}, takes {self.describe()}. Score crops: CropPlan(size={side}) in a loss "
            f"(YAML `crops: {{size: {side}}}`, with `gt_size: {side}` or larger), or enlarge small patches with "
            f"`crops: {{size: {side}, small: resize}}`."
        )


@dataclass(frozen=True)
class CriticCard:
    """Facts about a critic.

    Attributes:
        name: the critic's name in the registry and in YAML files; also that of its file or folder.
        paper: citation.
        input_size: sizes that the critic takes.
        score_range: range that scores can take; for a network, roughly that of trained weights.
        relative: True if 0 means "as good as the reference" and scores may be negative.
        symmetric: True if swapping the two images does not change the score.
        notes: limits, and differences from the published code; one sentence each, with a full stop.
        weights: published weights by tag; the first tag is the default.
        needs_weights: False for a critic that is a formula.
        learned_from: data behind the default weights, or behind the constants of a formula; this and the next three
            have 50 characters or less, for tables.
        cost: time of forward and backward pass over that of LPIPS-VGG, on one CPU core.
        good_at: what to take it for.
        bad_at: what not to take it for.
        as_loss: why it should not be a loss, in sentences; empty if nothing is known against it. Losses warn with it.
    """

    name: str
    paper: str
    input_size: SizeRule
    score_range: tuple[float, float]
    relative: bool
    symmetric: bool = False
    notes: tuple[str, ...] = ()
    weights: Mapping[str, WeightsEntry] = field(default_factory=dict)
    needs_weights: bool = True
    learned_from: str = "not stated"
    cost: str = "not measured"
    good_at: str = "not stated"
    bad_at: str = "not stated"
    as_loss: str = ""

    def _repr_html_(self) -> str:
        """The facts as a table, for notebooks."""
        texts = {
            "input_size": self.input_size.describe(),
            "notes": " ".join(self.notes),
            "weights": ", ".join(self.weights),
        }
        facts = {fact.name: texts.get(fact.name, getattr(self, fact.name)) for fact in fields(self)}
        rows = (f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in facts.items())
        return f"<table>{''.join(rows)}</table>"
