"""Checkpoints of training codes: reads them safely and finds the weights of a critic among what they hold.

No code in a checkpoint is executed: ``torch.load`` is called only here, with ``weights_only=True``. There is no
fallback without it, since the author of a malicious file could make the safe attempt fail.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights.file import SUFFIX, first_bytes, unpack
from sr_perceptual_loss.weights.matching import COUNTER

__all__ = ["Found", "Remap", "read_checkpoint", "state_dict_in"]

#: Published key layout -> the critic's.
Remap = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

#: Words that wrappers add to names: DistributedDataParallel, torch.compile, FSDP, activation checkpoints.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
#: One dict per part of a network: regressor_model_state_dict, regressor_state_dict.
_PART = re.compile(r"(\w+?)(?:_model)?_state_dict")
#: Words of keys under which training codes keep averaged weights.
_AVERAGED = {"ema", "swa", "avg", "average", "averaged", "shadow", "polyak"}
#: Tensors that training codes and profilers keep among the weights.
_BOOKKEEPING = re.compile(
    r"(.*\.)?total_(ops|params)|n_averaged|num_updates|decay|initted|lr|(global_|optimization_)?step|epoch|"
    r"iter(ation)?|(\w+_)?rng(_states?)?|(best|ema)_(loss|score|metric|decay|step)"
)


class _NumpyValue:
    """Placeholder for a numpy scalar and its dtype while a checkpoint is read; it discards its arguments."""

    def __init__(self, *_: object) -> None:
        pass

    __setstate__ = __init__


#: Training codes store numpy scalars (epochs, losses) beside the weights. No code of numpy is run: the names that such
#: a scalar needs, as spelled in numpy 1 and 2, are mapped to the placeholder.
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_NumpyValue, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


def read_checkpoint(path: Path) -> object:
    """The content of a checkpoint, with a placeholder for each numpy scalar; never runs code of the file.

    Raises:
        WeightsError: the file is missing, damaged, or holds anything but tensors and plain values.
    """
    head = first_bytes(path)
    if head.lstrip()[:1] == b"{":
        raise WeightsError(
            f"{path}: is JSON text, such as the index of a checkpoint in several files; expected one file with all "
            "weights. Join its parts with safetensors.torch: save_file({k: v for part in PARTS for k, v in "
            "load_file(part).items()}, 'joined.safetensors')."
        )
    if path.suffix == SUFFIX or head[8:9] == b"{":
        metadata, state = unpack(path)
        if "srpl.format" in metadata:
            raise WeightsError(f"{path}: is a file of this package already; use it directly: weights: {path}")
        return state
    try:
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about archives that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a malicious or damaged file may raise anything; there is no fallback
        raise WeightsError(f"{path}: {_refusal(error)}") from None


def _refusal(error: Exception) -> str:
    """Why a checkpoint was refused, without torch's advice to load it unsafely."""
    text = " ".join(str(error).split())
    blocked = re.search(r"(?:GLOBAL|class) ([\w.]*\w)", text)
    if blocked:
        return (
            f"refused: it asks for the Python object '{blocked[1]}', which may run code when the file is opened. "
            "Nothing was executed and there is no unsafe fallback. Where you trust the file and can open it, save its "
            "tensors only: torch.save(model.state_dict(), FILE), arrays with torch.from_numpy; or ask its authors for "
            "a .safetensors file."
        )
    if "TorchScript" in text:
        return "is a TorchScript archive. Save its weights: torch.save(torch.jit.load(FILE).state_dict(), NEW)."
    detail = type(error).__name__ if "weights_only" in text or not text else f"{type(error).__name__}: {text[:200]}"
    return (
        f"cannot be read safely ({detail}); expected a file of torch.save with tensors and plain values. It is damaged "
        "(compare its size and SHA-256 with the published ones), an archive to unpack first, or a pickle, for which "
        "there is no unsafe fallback."
    )


class _Leaf(NamedTuple):
    """A tensor: dotted path of its container (empty, or with a dot at its end), its key there."""

    folder: str
    key: str
    value: Tensor


@dataclass(frozen=True)
class Found:
    """The weights of a network inside a checkpoint."""

    state: dict[str, Tensor]  # in the published layout, without words of wrappers and bookkeeping
    taken: str  # the prefix, or the keys of the parts; empty for a plain state dict
    others: tuple[str, ...] = ()  # prefixes of other values for the same names


@dataclass(frozen=True)
class _Candidate:
    """The tensors under a prefix, as entries of the network."""

    prefix: str
    state: dict[str, Tensor]
    folders: tuple[str, ...]  # the containers that hold them
    hits: int  # see _Network.hits
    clash: str  # a name that two tensors of other values have

    @property
    def label(self) -> str:
        return self.prefix[:-1] or ", ".join(folder[:-1] for folder in self.folders if folder)

    @property
    def rank(self) -> int:
        """Averaged weights first. Lightning keeps the raw ones, not the averaged ones, under a key of its own."""
        words = _words(self.prefix)
        return 1 if words & _AVERAGED else -1 if "current" in words else 0


def state_dict_in(
    content: object,
    path: Path,
    expected: Mapping[str, Tensor] | None = None,
    *,
    key: str | None = None,
    remap: Remap = dict,
) -> Found:
    """The entries of a checkpoint that are the weights of a network.

    Every tensor gets a dotted name from its keys, through nested dictionaries and lists. The weights are under the
    prefix below which the names are those of the network; averaged ones come before raw ones.

    Args:
        content: what :func:`read_checkpoint` returned.
        path: the file, for messages.
        expected: entries of the network; without them, those of the largest dictionary are returned.
        key: dotted prefix under which the weights are; by default they are searched.
        remap: published key layout -> that of ``expected``.

    Returns:
        The entries below the prefix, without bookkeeping and without other dictionaries in between.

    Raises:
        WeightsError: no tensors, nothing under ``key``, or several prefixes that fit equally.
    """
    expected, base = expected or {}, f"{key}." if key else ""
    try:
        leaves = _leaves(content, {})
    except RecursionError:
        raise WeightsError(f"{path}: its content is nested too deeply for a checkpoint.") from None
    inside = [leaf for leaf in leaves if (leaf.folder + leaf.key).startswith(base)]
    if not inside:
        raise WeightsError(f"{path}: {_nothing(content, leaves, key)}. Name it: srpl convert {path} --key KEY.KEY")
    odd = [leaf for leaf in inside if leaf.value.is_meta or leaf.value.layout != torch.strided]
    if odd:
        raise WeightsError(
            f"{path}: {odd[0].folder}{odd[0].key} has no values or is sparse (device {odd[0].value.device}, "
            f"{odd[0].value.layout}); expected dense tensors. Save them with values, on the CPU."
        )
    groups, network = _groups(inside, base), _Network(expected, remap)
    candidates = [network.candidate(prefix, group) for prefix, group in groups.items()]
    good = _good(candidates, Counter(leaf.folder for leaf in inside), len(expected))
    if not good:
        prefix = max(Counter(leaf.folder for leaf in inside).most_common(1)[0][0], base, key=len)
        return Found(_Network({}, remap).candidate(prefix, groups[prefix]).state, prefix[:-1])
    # Of equal ones, the first has the shortest prefix.
    chosen = max(good, key=lambda c: (key is not None and c.prefix == base, c.rank, c.hits))
    rivals: list[_Candidate] = []
    for candidate in good:
        if all(_differ(candidate.state, other.state) for other in (chosen, *rivals)):
            rivals.append(candidate)
    equal = [c for c in rivals if (c.rank, c.hits) == (chosen.rank, chosen.hits)]
    by_key = key is not None and chosen.prefix == base
    if chosen.clash or (equal and not by_key):
        places = ", ".join(repr(c.prefix[:-1]) for c in (chosen, *(equal or good[1:])))
        raise WeightsError(
            f"{path}: two entries fit equally but differ{f' in {chosen.clash}' if chosen.clash else ''}; expected one, "
            f"or one that is named as averaged. Choose by its key: --key KEY, one of {places}"
        )
    unnamed = [] if by_key or chosen.rank > 0 else _unnamed_averages(groups, chosen)
    if unnamed:
        raise WeightsError(
            f"{path}: holds averaged weights without the names of this network ({', '.join(unnamed)}), besides raw "
            f"ones. Save the averaged ones by name, or take the raw ones: --key '{chosen.label}'."
        )
    return Found(chosen.state, chosen.label, tuple(c.label for c in rivals))


def _nothing(content: object, leaves: Sequence[_Leaf], key: str | None) -> str:
    if key and leaves:
        known = [*dict.fromkeys(leaf.folder[:-1] or leaf.key for leaf in leaves)]
        return f"no tensors under the key {key!r}; it has {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
    keys = [*map(str, content)] if isinstance(content, Mapping) else [type(content).__name__]
    return f"holds no tensors with names (it holds: {', '.join(keys)[:200] or 'nothing'}); expected a state dict"


def _leaves(content: object, known: dict[int, list[_Leaf]]) -> list[_Leaf]:
    """All tensors in nested dictionaries and lists. Each is walked once, also one that contains itself."""
    if not isinstance(content, Mapping | list | tuple):
        return []
    if id(content) not in known:
        known[id(content)] = found = []
        for key, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            if isinstance(value, Tensor):
                found.append(_Leaf("", str(key), value))
            else:
                found += [_Leaf(f"{key}.{leaf.folder}", leaf.key, leaf.value) for leaf in _leaves(value, known)]
    return known[id(content)]


def _groups(leaves: Sequence[_Leaf], base: str) -> dict[str, list[_Leaf]]:
    """Prefix, ``base`` or longer -> the tensors below it; short prefixes first."""
    groups: dict[str, list[_Leaf]] = defaultdict(list)
    for leaf in leaves:
        name = leaf.folder + leaf.key
        for end in (0, *(match.end() for match in re.finditer(r"\.", name))):
            if len(base) <= end < len(name) or end == len(base):
                groups[name[:end]].append(leaf)
    return dict(sorted(groups.items(), key=lambda item: len(item[0])))


class _Network:
    """Names and shapes of the network whose weights are searched."""

    def __init__(self, expected: Mapping[str, Tensor], remap: Remap) -> None:
        self.expected, self.remap = expected, remap
        self.parts = {name.partition(".")[0] for name in expected}
        self.wrappers = _WRAPPERS - {word for name in expected for word in name.split(".")}

    def candidate(self, prefix: str, group: Sequence[_Leaf]) -> _Candidate:
        """The entries below a prefix; containers in which nothing has a name of the network are left out."""
        by_folder: dict[str, dict[str, Tensor]] = defaultdict(dict)
        clash = ""
        for leaf in group:
            words = (leaf.folder + leaf.key).removeprefix(prefix).split(".")
            part = _PART.fullmatch(words[0])
            words[0] = part[1] if part and part[1] in self.parts else words[0]
            name = ".".join(word for word in words if word not in self.wrappers)
            if name in self.expected or not _BOOKKEEPING.fullmatch(name):
                known = by_folder[leaf.folder].setdefault(name, leaf.value)
                clash = clash or (name if _differ({name: known}, {name: leaf.value}) else "")
        used = [folder for folder, own in by_folder.items() if not self.expected or self.hits(own)]
        state: dict[str, Tensor] = {}
        for folder in used:
            clash = clash or next((k for k in state if _differ({k: state[k]}, by_folder[folder])), "")
            state |= by_folder[folder]
        return _Candidate(prefix, state, tuple(used), self.hits(state), clash)

    def hits(self, state: Mapping[str, Tensor]) -> int:
        """2 for each entry with an expected name and shape, 1 for the name alone."""
        try:
            named = self.remap(state)
        except WeightsError:  # raised again when the entries are taken
            named = dict(state)
        counted = [k for k in named if k in self.expected and not k.endswith(COUNTER)]
        return sum(1 + (named[k].shape == self.expected[k].shape) for k in counted)


def _good(candidates: Sequence[_Candidate], sizes: Mapping[str, int], size: int) -> list[_Candidate]:
    """Candidates about as good as the best; without those where single names of another network fit by accident."""
    best = max(c.hits for c in candidates)
    needed = {c.prefix: min(size, sum(sizes[folder] for folder in c.folders)) for c in candidates}
    return [c for c in candidates if c.hits and 2 * c.hits >= best and c.hits >= needed[c.prefix]]


def _differ(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    pairs = ((one[k], other[k]) for k in one.keys() & other.keys())
    return any(a is not b and (a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b)) for a, b in pairs)


def _unnamed_averages(groups: Mapping[str, Sequence[_Leaf]], chosen: _Candidate) -> list[str]:
    """Prefixes of averaged weights with shapes of the network under other names, as in lists."""
    shapes, own = Counter(value.shape for value in chosen.state.values()), {id(v) for v in chosen.state.values()}
    found = []
    for prefix, group in groups.items():
        if _words(prefix[:-1].rpartition(".")[2]) & _AVERAGED and not any(id(leaf.value) in own for leaf in group):
            theirs = Counter(leaf.value.shape for leaf in group if leaf.value.numel() > 1)
            if theirs and theirs <= shapes:
                found.append(prefix[:-1])
    return found


def _words(text: str) -> set[str]:
    """Words of keys in lower case: ``ModelEma.state_dict`` -> model, ema, state, dict."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)}
