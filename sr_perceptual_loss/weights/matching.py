"""Checks that the entries of a state dict fit a critic, and loads them; used to read, convert and save weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from sr_perceptual_loss.errors import WeightsError

__all__ = ["Storable", "Suggest", "drop_aliases", "load_state", "refuse_non_finite", "stored_entries"]

#: Ending of the names of batch norm's counters.
COUNTER = "num_batches_tracked"
#: Names the critic that a set of keys looks like, or None; for messages.
Suggest = Callable[[Collection[str]], "str | None"]


class Storable(Protocol):
    """The part of ``critics.base.Critic`` that ``weights`` needs, since ``weights`` does not import ``critics``."""

    card: Any  # its `name`, and `relative`: whether it predicts differences of quality
    config: dict[str, Any]  # its constructor's arguments
    aliases: ClassVar[tuple[tuple[str, str], ...]]  # (duplicate prefix, kept prefix) pairs
    unused: ClassVar[tuple[str, ...]]  # prefixes of published entries that never influence the score

    @staticmethod
    def remap_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published key layout -> that of the critic."""

    def state_dict(self) -> dict[str, Any]:
        """As of ``nn.Module``."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """As of ``nn.Module``."""


def stored_entries(critic: Storable) -> dict[str, Tensor]:
    """The state dict without aliases, as a file stores it."""
    duplicates = tuple(duplicate for duplicate, _ in critic.aliases)
    return {key: value for key, value in critic.state_dict().items() if not key.startswith(duplicates)}


def drop_aliases(state: Mapping[str, Tensor], aliases: Sequence[tuple[str, str]], source: str) -> dict[str, Tensor]:
    """A copy without the entries that repeat others under a second name; both must be equal."""
    out = dict(state)
    for duplicate, kept in aliases:
        for key in (key for key in state if key.startswith(duplicate)):
            twin = kept + key.removeprefix(duplicate)
            if twin not in state:
                continue
            if state[key].dtype != state[twin].dtype or not torch.equal(state[key], state[twin]):
                raise WeightsError(
                    f"{source}: {key} and {twin} differ, expected equal entries, since both names are one module: the "
                    "file is of another network."
                )
            del out[key]
    return out


def load_state(
    critic: Storable, state: Mapping[str, Tensor], source: str, suggest: Suggest | None = None, incomplete: str = ""
) -> None:
    """Load entries into a critic; all must be present, finite and of the right shape, and no others may exist.

    Counters of batches (``num_batches_tracked``) never influence a score: they may be absent or floating, as in torch.

    Args:
        critic: its weights are overwritten, only after all checks have passed.
        state: entries in the critic's layout; aliases may be left out. Other floating dtypes are converted.
        source: origin of the entries, for the message.
        suggest: names the critic that a set of keys looks like, for the message.
        incomplete: added to the message if entries are missing and nothing else is wrong.

    Raises:
        WeightsError: with counts and the first names of missing, extra, mis-shaped or non-finite entries.
    """
    name = critic.card.name
    expected = stored_entries(critic)
    given = drop_aliases(state, critic.aliases, source)
    # As in torch, since version 0.3 saved numbers with one dimension.
    given |= {k: given[k][0] for k, v in expected.items() if k in given and v.dim() == 0 and given[k].shape == (1,)}
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
    cast = {key: given.get(key, value).to(value.dtype) for key, value in expected.items()}
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
    """Descriptions of missing, extra and mis-shaped entries and of entries of another kind of dtype."""
    shapes, kinds = [], []
    for key, target in expected.items():
        value = given.get(key, target)
        if target.shape != value.shape:
            shapes.append(f"{key} got {tuple(value.shape)} expected {tuple(target.shape)}")
        real = value.is_floating_point() and (target.is_floating_point() or key.endswith(COUNTER))
        if target.dtype != value.dtype and not real:
            kinds.append(f"{key} got {value.dtype} expected {target.dtype}")
    missing = [k for k in expected if k not in given and not k.endswith(COUNTER)]
    extra = [k for k in given if k not in expected]
    groups = {"missing": missing, "extra": extra, "mis-shaped": shapes, "of another dtype": kinds}
    return [_count(what, names) for what, names in groups.items() if names]


def _count(what: str, names: Sequence[str]) -> str:
    return f"{len(names)} {what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
