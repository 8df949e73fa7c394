"""Do these entries fit that network? One wording for reading, converting and saving."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sr_perceptual_loss.errors import WeightsError

__all__ = ["Storable", "Suggest", "drop_aliases", "load_state", "own_entries", "parts_of", "refuse_non_finite"]

#: Names the critic that a set of keys looks like, or None.
Suggest = Callable[[Collection[str]], "str | None"]

SHOWN = 5


class Named(Protocol):
    """The part of a critic's card that the store reads."""

    @property
    def name(self) -> str:
        """The critic's name."""

    @property
    def relative(self) -> bool:
        """Whether a score says how much better than the reference, not how good."""


class Storable(Protocol):
    """What the store needs to know of a critic (``critics.base.Critic`` has it; weights never import critics)."""

    @property
    def card(self) -> Named:
        """Who it is."""

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


def own_entries(critic: Storable) -> dict[str, Tensor]:
    """The state dict without aliases: what a file stores."""
    duplicates = tuple(duplicate for duplicate, _ in critic.aliases)
    return {key: value for key, value in critic.state_dict().items() if not key.startswith(duplicates)}


def parts_of(critic: Storable) -> set[str]:
    """Names of the critic's direct parts, the first words of its entries."""
    return {key.partition(".")[0] for key in critic.state_dict() if "." in key}


def drop_aliases(state: Mapping[str, Tensor], aliases: Sequence[tuple[str, str]], source: str) -> dict[str, Tensor]:
    """Leave out entries that repeat others under a second name.

    Args:
        state: entries.
        aliases: (duplicate prefix, kept prefix) pairs.
        source: where they come from, for the message.

    Returns:
        A new dict.

    Raises:
        WeightsError: an entry and its duplicate differ, so they cannot be one module.
    """
    out = dict(state)
    for duplicate, kept in aliases:
        pairs = [(key, kept + key[len(duplicate) :]) for key in state if key.startswith(duplicate)]
        pairs = [(key, twin) for key, twin in pairs if twin in state]
        differ = [f"{key} and {twin}" for key, twin in pairs if not _equal(state[key], state[twin])]
        if differ:
            raise WeightsError(
                f"{source}: {_first('differing pair', differ)}, expected equal ones, since both names are one module. "
                "The file was not made by this network; take another one."
            )
        for key, _ in pairs:
            del out[key]
    return out


def load_state(
    critic: Storable, state: Mapping[str, Tensor], source: str, suggest: Suggest | None = None, incomplete: str = ""
) -> None:
    """Fill a critic; every entry must be there, of the right shape and finite, and none may be left over.

    Args:
        critic: filled in place, only after all checks have passed.
        state: entries in the critic's own layout; aliases may be left out. Other floating dtypes are converted.
        source: where the entries come from, for the message.
        suggest: names the critic that a set of keys looks like, for the message.
        incomplete: ends the message where entries are missing and nothing else is wrong.

    Raises:
        WeightsError: with counts and the first names of missing, extra, mis-shaped or non-finite entries.
    """
    name = critic.card.name
    own = own_entries(critic)
    given = drop_aliases(state, critic.aliases, source)
    faults = _faults(given, own)
    if faults:
        better = suggest(state.keys()) if suggest else None
        only_missing = len(faults) == 1 and bool(given) and given.keys() < own.keys()
        hint = f" These entries look like the critic '{better}': use that name." if better and better != name else ""
        raise WeightsError(
            f"{source}: does not fit the critic '{name}' ({len(own)} entries expected, {len(given)} found). "
            f"{'; '.join(faults)}.{hint} Nothing was loaded: give a file of '{name}', or build the critic with the "
            "constructor arguments of the file." + (incomplete if only_missing else "")
        )
    # After the cast, since a float64 value may be too large for the parameter's dtype.
    cast = {key: given[key].to(own[key].dtype) for key in own}
    refuse_non_finite(cast, source)
    for duplicate, kept in critic.aliases:
        cast.update({duplicate + key[len(kept) :]: value for key, value in list(cast.items()) if key.startswith(kept)})
    critic.load_state_dict(cast, strict=True)


def refuse_non_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise if an entry holds NaN or infinity.

    Raises:
        WeightsError: with the first names.
    """
    bad = [key for key, value in state.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise WeightsError(
            f"{source}: {_first('entry', bad, 'entries')} with NaN or infinity, expected finite numbers. "
            "The training diverged or the file is damaged: take an earlier checkpoint."
        )


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _faults(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Missing, extra, mis-shaped entries and entries of another kind, one sentence part each."""
    missing = [key for key in own if key not in given]
    extra = [key for key in given if key not in own]
    common = [key for key in own if key in given]
    shapes = [
        f"{key} got {tuple(given[key].shape)} expected {tuple(own[key].shape)}"
        for key in common
        if given[key].shape != own[key].shape
    ]
    kinds = [
        f"{key} got {given[key].dtype} expected {own[key].dtype}"
        for key in common
        if given[key].dtype != own[key].dtype and not (given[key].is_floating_point() and own[key].is_floating_point())
    ]
    groups = (("missing", missing), ("extra", extra), ("mis-shaped", shapes), ("of another dtype", kinds))
    return [_first(word, names, word) for word, names in groups if names]


def _first(one: str, names: Sequence[str], many: str = "") -> str:
    word = one if len(names) == 1 else many or f"{one}s"
    rest = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} {word}: {', '.join(names[:SHOWN])}{rest}"
