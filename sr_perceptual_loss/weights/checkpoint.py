"""Checkpoints of training codes: reads them safely and finds the weights of a critic among what they hold.

No code in a checkpoint is executed: ``torch.load`` is called only here, with ``weights_only=True``. There is no
fallback without it, since the author of a malicious file could make the safe attempt fail.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
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
#: Words of keys under which training codes keep averaged weights: ema_0.999, ModelEma, EMACallback, swa_model.
_AVERAGED = re.compile(r"(?:(?<![A-Za-z])|(?=[A-Z]))(?i:ema|swa|avg|averaged?|shadow|polyak)(?![a-z])")
#: Words of keys under which the raw weights are put aside, in Lightning and in the usual classes for averages.
_PUT_ASIDE = re.compile(r"current|backup|collected|stored")
#: Words of keys of an optimizer's moments, which may have the names and shapes of the weights.
_MOMENTS = re.compile(r"(^|[._])(optim\w*|exp|grads?|momentum|sq)[._]")
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
    if path.suffix == SUFFIX or first_bytes(path)[8:9] == b"{":
        metadata, state = unpack(path)
        if "srpl.format" in metadata:
            raise WeightsError(f"{path}: is a file of this package already; use it directly: weights: {path}")
        return state
    try:
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about archives that it then refuses
            if zipfile.is_zipfile(path):  # torch does not compare the checksums of the archive
                with zipfile.ZipFile(path) as archive:
                    if record := archive.testzip():
                        raise zipfile.BadZipFile(f"the checksum of {record} differs")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a malicious or damaged file may raise anything; there is no fallback
        raise WeightsError(f"{path}: {_refusal(error)}") from None


def _refusal(error: Exception) -> str:
    """Why a checkpoint was refused, without torch's advice to load it unsafely."""
    text = " ".join(str(error).split())
    if blocked := re.search(r"(?:GLOBAL|class) ([\w.]*\w)", text):
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


class Found(NamedTuple):
    """The weights of a network inside a checkpoint."""

    state: dict[str, Tensor]  # in the published layout, without words of wrappers and bookkeeping
    key: str  # under which they are, or the keys of the parts; empty for a plain state dict
    others: tuple[str, ...] = ()  # keys of other values for the same names


class _Leaf(NamedTuple):
    """A tensor of a checkpoint."""

    folder: str  # dotted path of the dictionary that holds it; empty, or with a dot at its end
    name: str  # dotted path of the tensor
    value: Tensor


class _Candidate(NamedTuple):
    """The tensors below a prefix, as entries of the network."""

    prefix: str
    state: dict[str, Tensor]
    key: str  # as Found.key
    hits: int  # see _Network.hits
    clash: str  # a name that two tensors of other values have

    @property
    def rank(self) -> int:
        """Averaged weights first, raw ones that were put aside last."""
        return -1 if _PUT_ASIDE.search(self.prefix) else 1 if _AVERAGED.search(self.prefix) else 0


def state_dict_in(
    content: object, path: Path, expected: Mapping[str, Tensor], *, key: str | None = None, remap: Remap = dict
) -> Found:
    """The entries of a checkpoint that are the weights of a network.

    Every tensor gets a dotted name from its keys, through nested dictionaries and lists. The weights are under the
    prefix below which most names are those of the network. Averaged ones come before raw ones.

    Args:
        content: what :func:`read_checkpoint` returned.
        path: the file, for messages.
        expected: entries of the network.
        key: dotted key under which the weights are; by default they are searched.
        remap: published key layout -> that of ``expected``.

    Returns:
        The entries below the prefix, without bookkeeping and without other dictionaries in between. If they are of
        another network, all entries of the largest dictionary.

    Raises:
        WeightsError: no tensors, nothing under ``key``, or several prefixes that fit equally.
    """
    base = f"{key}." if key else ""
    groups = _groups(_dense_leaves(content, path, base), base)
    network = _Network(expected, remap)
    searched = {prefix: group for prefix, group in groups.items() if key is not None or not _MOMENTS.search(prefix)}
    candidates = [network.candidate(prefix, group) for prefix, group in searched.items()]
    # Single names of another network may fit by accident.
    fitting = [c for c in candidates if c.hits and c.hits >= min(len(expected), len(c.state))]
    if not fitting:
        largest = Counter(leaf.folder for leaf in groups[base]).most_common(1)[0][0]
        inside = {leaf.name.removeprefix(largest): leaf.value for leaf in groups[base] if leaf.folder == largest}
        return Found(inside, largest[:-1])
    good = [candidate for candidate in fitting if 2 * candidate.hits >= max(c.hits for c in fitting)]
    named = [candidate for candidate in good if key is not None and candidate.prefix == base]
    chosen = max(named or good, key=lambda c: (c.rank, c.hits))  # of equal ones, the first has the shortest prefix
    others: list[_Candidate] = []
    for candidate in good:
        if all(_differ(candidate.state, other.state) for other in (chosen, *others)):
            others.append(candidate)
    rivals = [c for c in others if (c.rank, c.hits) == (chosen.rank, chosen.hits) and not named]
    if chosen.clash or rivals:
        keys = ", ".join(repr(c.prefix[:-1]) for c in (chosen, *(rivals or good[1:])))
        raise WeightsError(
            f"{path}: two entries fit equally but differ{f' in {chosen.clash}' if chosen.clash else ''}; expected one, "
            f"or one that is named as averaged. Choose by its key: --key KEY, one of {keys}"
        )
    unnamed = [prefix[:-1] for prefix, group in groups.items() if _may_be_averages(prefix, group, chosen)]
    if unnamed and not named and chosen.rank <= 0:
        raise WeightsError(
            f"{path}: holds averaged weights without the names of this network ({', '.join(unnamed)[:300]}), besides "
            "raw ones. Save those that you want as a state dict of their own"
            + (f", or take the raw ones: --key '{chosen.key}'." if chosen.key else ".")
        )
    return Found(chosen.state, chosen.key, tuple(other.key for other in others))


def _dense_leaves(content: object, path: Path, base: str) -> list[_Leaf]:
    """The tensors whose names begin with ``base``; an error if there are none, or some without values."""
    try:
        leaves = _leaves(content, {})
    except RecursionError:
        raise WeightsError(f"{path}: its content is nested too deeply for a checkpoint.") from None
    inside = [leaf for leaf in leaves if leaf.name.startswith(base)]
    if not inside:
        keys = [leaf.folder[:-1] or leaf.name for leaf in leaves] or (
            list(map(str, content)) if isinstance(content, Mapping) else [type(content).__name__]
        )
        raise WeightsError(
            f"{path}: no tensors with names{f' under the key {base[:-1]!r}' if base else ''}; expected a state dict. "
            f"It holds: {', '.join(dict.fromkeys(keys))[:300] or 'nothing'}. Name its key: --key KEY, KEY.KEY if nested"
        )
    for leaf in inside:
        if leaf.value.is_meta or leaf.value.layout != torch.strided:
            raise WeightsError(
                f"{path}: {leaf.name} has no values or is sparse (device {leaf.value.device}, {leaf.value.layout}); "
                "expected dense tensors. Save them with values, on the CPU."
            )
    return inside


def _leaves(content: object, known: dict[int, list[_Leaf]]) -> list[_Leaf]:
    """All tensors in nested dictionaries and lists. Each is walked once, also one that contains itself."""
    if not isinstance(content, Mapping | list | tuple):
        return []
    if id(content) not in known:
        known[id(content)] = leaves = []
        for key, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            if isinstance(value, Tensor):
                leaves.append(_Leaf("", str(key), value))
            else:
                leaves += [_Leaf(f"{key}.{f}", f"{key}.{name}", leaf) for f, name, leaf in _leaves(value, known)]
    return known[id(content)]


def _groups(leaves: Sequence[_Leaf], base: str) -> dict[str, list[_Leaf]]:
    """Prefix, ``base`` or longer -> the tensors below it; short prefixes first."""
    groups: dict[str, list[_Leaf]] = defaultdict(list)
    for leaf in leaves:
        for end in (len(base), *(match.end() for match in re.finditer(r"\.", leaf.name))):
            if len(base) < end < len(leaf.name) or end == len(base):
                groups[leaf.name[:end]].append(leaf)
    return dict(sorted(groups.items(), key=lambda item: len(item[0])))


class _Network:
    """Names and shapes of the network whose weights are searched."""

    def __init__(self, expected: Mapping[str, Tensor], remap: Remap) -> None:
        self.expected, self.remap = expected, remap
        self.parts = {name.partition(".")[0] for name in expected}
        self.wrappers = _WRAPPERS - {word for name in expected for word in name.split(".")}

    def candidate(self, prefix: str, group: Sequence[_Leaf]) -> _Candidate:
        """The entries below a prefix; dictionaries in which nothing has a name of the network are left out."""
        by_folder: dict[str, list[tuple[str, Tensor]]] = defaultdict(list)
        for leaf in group:
            words = leaf.name.removeprefix(prefix).split(".")
            part = _PART.fullmatch(words[0])
            words[0] = part[1] if part and part[1] in self.parts else words[0]
            name = ".".join(word for word in words if word not in self.wrappers)
            if name in self.expected or not _BOOKKEEPING.fullmatch(name):
                by_folder[leaf.folder].append((name, leaf.value))
        used = [folder for folder, entries in by_folder.items() if self.hits(dict(entries))]
        state: dict[str, Tensor] = {}
        clash = ""
        for name, value in (entry for folder in used for entry in by_folder[folder]):
            clash = clash or (name if _differ({name: value}, state) else "")
            state[name] = value
        key = prefix[:-1] or ", ".join(folder[:-1] for folder in used if folder)
        return _Candidate(prefix, state, key, self.hits(state), clash)

    def hits(self, state: Mapping[str, Tensor]) -> int:
        """2 for each entry with an expected name and shape, 1 for the name alone."""
        try:
            named = self.remap(state)
        except WeightsError:  # raised again when the entries are taken
            named = dict(state)
        counted = [k for k in named if k in self.expected and not k.endswith(COUNTER)]
        return sum(1 + (named[k].shape == self.expected[k].shape) for k in counted)


def _differ(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    pairs = ((one[k], other[k]) for k in one.keys() & other.keys())
    return any(a is not b and (a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b)) for a, b in pairs)


def _may_be_averages(prefix: str, group: Sequence[_Leaf], chosen: _Candidate) -> bool:
    """Whether the tensors below a prefix are called averages and have shapes of the network, as those in a list do."""
    shapes = {leaf.value.shape for leaf in group if leaf.value.numel() > 1}
    word = "".join(prefix.split(".")[-2:-1]) + "."
    averaged = _AVERAGED.search(word) and not _MOMENTS.search(word)
    return bool(averaged and shapes) and shapes <= {value.shape for value in chosen.state.values()}
