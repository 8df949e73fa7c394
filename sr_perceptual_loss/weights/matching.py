"""Do these entries fit that network? Strict, with the same messages for reading, converting and saving."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sr_perceptual_loss.errors import WeightsError

__all__ = ["Storable", "Suggest", "drop_aliases", "load_state", "refuse_non_finite", "stored_entries"]

#: Names the critic that a set of keys looks like, or None; for messages.
Suggest = Callable[[Collection[str]], "str | None"]


class Storable(Protocol):
    """What this folder needs of a critic; ``critics.base.Critic`` has it (weights never import critics)."""

    @property
    def card(self) -> Any:
        """Its ``name``, and ``relative``: whether it predicts differences of quality."""

    @property
    def config(self) -> dict[str, Any]:
        """Its constructor's arguments."""

    @property
    def aliases(self) -> tuple[tuple[str, str], ...]:
        """(duplicate prefix, kept prefix) pairs."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Prefixes of published entries that never influence the score."""

    @staticmethod
    def remap_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published key layout -> its own."""

    def state_dict(self) -> dict[str, Any]:
        """As of ``nn.Module``."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """As of ``nn.Module``."""


def stored_entries(critic: Storable) -> dict[str, Tensor]:
    """The state dict without aliases: what a file stores."""
    duplicates = tuple(duplicate for duplicate, _ in critic.aliases)
    return {key: value for key, value in critic.state_dict().items() if not key.startswith(duplicates)}


def drop_aliases(state: Mapping[str, Tensor], aliases: Sequence[tuple[str, str]], source: str) -> dict[str, Tensor]:
    """A copy without the entries that repeat others under a second name; they must be equal to be one module."""
    out = dict(state)
    for duplicate, kept in aliases:
        pairs = [(key, kept + key.removeprefix(duplicate)) for key in state if key.startswith(duplicate)]
        for key, twin in [(key, twin) for key, twin in pairs if twin in state]:
            if state[key].dtype != state[twin].dtype or not torch.equal(state[key], state[twin]):
                raise WeightsError(
                    f"{source}: {key} and {twin} differ, expected equal entries, since both names are one module: the "
                    "file was not made by this network."
                )
            del out[key]
    return out


def load_state(
    critic: Storable, state: Mapping[str, Tensor], source: str, suggest: Suggest | None = None, incomplete: str = ""
) -> None:
    """Fill a critic; every entry must be there, of the right shape and finite, and none may be left over.

    Args:
        critic: filled in place, only after all checks have passed.
        state: entries in the critic's layout; aliases may be left out. Other floating dtypes are converted.
        source: where the entries come from, for the message.
        suggest: names the critic that a set of keys looks like, for the message.
        incomplete: ends the message where entries are missing and nothing else is wrong.

    Raises:
        WeightsError: with counts and the first names of missing, extra, mis-shaped or non-finite entries.
    """
    name = critic.card.name
    expected = stored_entries(critic)
    given = drop_aliases(state, critic.aliases, source)
    faults = _faults(given, expected)
    if faults:
        better = suggest(state.keys()) if suggest else None
        hint = f" These entries look like the critic '{better}': use that name." if better and better != name else ""
        only_missing = len(faults) == 1 and bool(given) and given.keys() < expected.keys()
        raise WeightsError(
            f"{source}: does not fit the critic '{name}' ({len(expected)} entries expected, {len(given)} found). "
            f"{'; '.join(faults)}.{hint} Nothing was loaded: give a file of '{name}', or build the critic with the "
            "constructor arguments of the file." + (incomplete if only_missing else "")
        )
    # Checked after the cast, since a float64 value may be too large for the parameter's dtype.
    cast = {key: given[key].to(value.dtype) for key, value in expected.items()}
    refuse_non_finite(cast, source)
    for duplicate, kept in critic.aliases:
        cast |= {duplicate + key.removeprefix(kept): value for key, value in cast.items() if key.startswith(kept)}
    critic.load_state_dict(cast, strict=True)


def refuse_non_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise a WeightsError that names the first entries with NaN or infinity."""
    bad = [key for key, value in state.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise WeightsError(
            f"{source}: {_count('with NaN or infinity', bad)}; expected finite numbers. The training diverged or the "
            "file is damaged: take an earlier checkpoint."
        )


def _faults(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Missing, extra and mis-shaped entries and entries of another kind of dtype, one part of a sentence each."""
    shapes, kinds = [], []
    for key, ours in expected.items():
        theirs = given.get(key, ours)
        if ours.shape != theirs.shape:
            shapes.append(f"{key} got {tuple(theirs.shape)} expected {tuple(ours.shape)}")
        if ours.dtype != theirs.dtype and not (ours.is_floating_point() and theirs.is_floating_point()):
            kinds.append(f"{key} got {theirs.dtype} expected {ours.dtype}")
    missing, extra = [k for k in expected if k not in given], [k for k in given if k not in expected]
    groups = {"missing": missing, "extra": extra, "mis-shaped": shapes, "of another dtype": kinds}
    return [_count(what, names) for what, names in groups.items() if names]


def _count(what: str, names: Sequence[str]) -> str:
    return f"{len(names)} {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
