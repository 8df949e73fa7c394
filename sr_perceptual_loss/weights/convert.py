"""Conversion of checkpoints to the file format of this package, strictly or as a warm start for training.

No code in a checkpoint is executed: ``torch.load`` is called only here, with ``weights_only=True``. There is no
fallback without it, since the author of a malicious file could make the safe attempt fail.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_path, nearest
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights.file import SUFFIX, first_bytes, save, sha256_of, unpack
from sr_perceptual_loss.weights.manifest import AbsoluteCheckpoint, WeightsEntry, recognise
from sr_perceptual_loss.weights.matching import Storable, Suggest, drop_aliases, load_state, stored_entries

__all__ = ["MUST_BE_TRAINED", "ConversionReport", "convert", "is_warm_start", "summary", "warm_start"]

#: Start of ``srpl.training`` in the header of every file that :func:`warm_start` writes.
MUST_BE_TRAINED = "warm start, absolute quality, not RQI-trained: must be trained"

#: Published key layout -> the critic's.
Remap = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

# Keys under which training codes store the weights, the preferred one first (averaged weights before raw ones).
_WRAPPERS = ("params_ema", "params", "model_state_dict", "state_dict", "model")
# DistributedDataParallel inside torch.compile, and the other way round.
_PREFIXES = ("module.", "_orig_mod.", "module.")
# One dict per part of a network: regressor_model_state_dict, regressor_state_dict.
_PART = re.compile(r"(?P<part>\w+?)(_model)?_state_dict")
# Classifiers of ImageNet networks, which no critic uses.
_CLASSIFIERS = ("fc.", "head.", "head_dist.", "classifier.")


@dataclass(frozen=True)
class ConversionReport:
    """Result of a conversion or a warm start."""

    out: Path  # the written file
    sha256: str  # of the written file
    entries: int  # number of stored entries
    wrapper: str  # key or keys of the checkpoint that held the weights, empty for a plain state dict
    source_sha256: str  # of the checkpoint
    dropped: tuple[str, ...] = ()  # published entries that never influence the score and were left out
    random: tuple[str, ...] = ()  # entries of a warm start that no file contained; drawn with the seed


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
    if path.suffix == SUFFIX or head[8:9] == b"{":
        metadata, state = unpack(path)
        if "srpl.format" in metadata:
            raise WeightsError(f"{path}: is a file of this package already; use it directly: weights: {path}")
        return state
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a malicious or damaged file may raise anything; there is no fallback
        raise WeightsError(f"{path}: {_refusal(error)}") from None


def _refusal(error: Exception) -> str:
    """Why a checkpoint was refused, without torch's advice to load it unsafely."""
    text = " ".join(str(error).split())
    blocked = re.search(r"GLOBAL ([\w.]*\w)", text)
    if blocked:
        return (
            f"refused: it asks for the Python object '{blocked[1]}', which may run code when the file is opened. "
            "Nothing was executed and there is no unsafe fallback. Ask its authors for a plain state dict or a "
            ".safetensors file, or export one in a sandbox: torch.save(model.state_dict(), FILE)."
        )
    detail = type(error).__name__ if "weights_only" in text or not text else f"{type(error).__name__}: {text[:200]}"
    return (
        f"cannot be read safely ({detail}); expected a file of torch.save with tensors and plain values. It is damaged "
        "(compare its size and SHA-256 with the published ones) or a pickle, for which there is no unsafe fallback."
    )


def state_dict_in(
    content: object, path: Path, key: str | None = None, parts: Collection[str] = ()
) -> tuple[dict[str, Tensor], str]:
    """The state dict inside the content of a checkpoint, and the key or keys that held it (empty for a plain one).

    Without ``key`` the usual keys are tried. A checkpoint with one dict per part of the network
    (``NAME_state_dict`` or ``NAME_model_state_dict``, NAME in ``parts``) is merged.
    """
    wrapper, state = key or "", content
    if key is not None:
        state = content.get(key) if isinstance(content, Mapping) else None
    elif isinstance(content, Mapping) and not _is_state(content):
        wrapper = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), "")
        by_part = {} if wrapper else _keys_by_part(content, parts)
        if by_part:
            merged = {f"{part}.{k}": v for part, name in by_part.items() for k, v in _bare(content[name]).items()}
            return merged, ", ".join(by_part.values())
        state = content[wrapper] if wrapper else content
    if not _is_state(state):
        keys = [*map(str, content)] if isinstance(content, Mapping) else [type(content).__name__]
        raise WeightsError(
            f"{path}: no state dict{f' under {wrapper!r}' if wrapper else ''} (it holds: "
            f"{', '.join(keys)[:200] or 'nothing'}); expected names and tensors, plain or under one of "
            f"{', '.join(_WRAPPERS)}. Name the key: srpl convert {path} --key KEY"
        )
    return _bare(state), wrapper


def _keys_by_part(content: Mapping[Any, Any], parts: Collection[str]) -> dict[str, str]:
    """Part of the network -> key of the checkpoint that holds its state dict."""
    matches = {name: _PART.fullmatch(name) for name in content if isinstance(name, str) and _is_state(content[name])}
    return {match["part"]: name for name, match in matches.items() if match and match["part"] in parts}


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries without the prefixes of training wrappers."""
    bare = dict(state)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in bare):
            bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare


def _is_state(content: object) -> TypeGuard[Mapping[str, Tensor]]:
    if not isinstance(content, Mapping):
        return False
    return bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def convert(
    checkpoint: str | Path,
    critic: Storable,
    out: str | Path,
    *,
    key: str | None = None,
    remap: Remap | None = None,
    suggest: Suggest | None = None,
    entry: WeightsEntry | None = None,
) -> ConversionReport:
    """Convert a checkpoint, of the reference code or of another training, into one ``.safetensors`` file.

    Args:
        checkpoint: ``.pt``, ``.pth``, ``.ckpt``, ``.bin``, or a ``.safetensors`` file of another origin.
        critic: network of the right size; its weights are overwritten.
        out: file to write.
        key: key of the checkpoint that holds the weights; by default the first usual key that it has.
        remap: published key layout -> the critic's; by default ``critic.remap_official``.
        suggest: names the critic that a set of keys looks like, for the error message.
        entry: the published file that the checkpoint is, for the licence and other facts in the header.

    Returns:
        The report.

    Raises:
        WeightsError: the file is no checkpoint, holds anything but tensors and plain values, does not fit the critic,
            or is known to be of an absolute metric (see :func:`warm_start`).
    """
    path, out, name = as_path(checkpoint), as_path(out), critic.card.name
    source = _Source(path, critic, key, remap)
    to_warm_start = f"To start a training from it: srpl convert {path} --critic {name} --warm-start"
    if source.known and source.known.critic == name:
        raise WeightsError(
            f"{path}: is {source.known.description}, which predicts absolute quality: scores of '{name}' with it would "
            f"not say how much better an image is than its reference. {to_warm_start}"
        )
    state = {k: v for k, v in source.state.items() if k not in source.unused}
    load_state(critic, state, source.name, suggest, f" {to_warm_start}" if critic.card.relative else "")
    origin = entry.origin if entry else ""
    sha256 = save(critic, out, origin=origin, source_sha256=source.sha256, **_facts(entry))
    dropped = source.unused | {k for k in source.published if k not in source.state and k.startswith(critic.unused)}
    entries = len(stored_entries(critic))
    return ConversionReport(out, sha256, entries, source.wrapper, source.sha256, dropped=tuple(sorted(dropped)))


class _Source:
    """A checkpoint, read for a critic."""

    def __init__(self, path: Path, critic: Storable, key: str | None, remap: Remap | None = None) -> None:
        content = read_checkpoint(path)
        self.sha256 = sha256_of(path)
        self.known: AbsoluteCheckpoint | None = recognise(path.name, self.sha256)
        self.published, self.wrapper = state_dict_in(content, path, key, _parts_of(critic))
        self.name = f"{path} [{self.wrapper}]" if self.wrapper else str(path)
        # Also dropped before the remapping, since the aliases may exist in the published layout only.
        self.state = (remap or critic.remap_official)(drop_aliases(self.published, critic.aliases, self.name))
        expected = critic.state_dict()
        self.unused = {k for k in self.state if k not in expected and k.startswith(critic.unused)}


def _facts(source: WeightsEntry | AbsoluteCheckpoint | None) -> dict[str, Any]:
    if source is None:
        return {}
    return {name: getattr(source, name) for name in ("training_data", "licence", "commercial_use")}


def _parts_of(critic: Storable) -> set[str]:
    """Names of the critic's direct parts, the first words of its entries."""
    return {key.partition(".")[0] for key in critic.state_dict() if "." in key}


def is_warm_start(metadata: Mapping[str, str]) -> bool:
    """Whether the header of a weights file (``WeightsFile.metadata``) says that it must be trained first."""
    return metadata.get("srpl.training", "").startswith(MUST_BE_TRAINED)


def warm_start(
    checkpoint: str | Path,
    build: Callable[[], Storable],
    out: str | Path,
    *,
    key: str | None = None,
    backbones: Mapping[str, str | Path] | None = None,
    seed: int = 0,
    suggest: Suggest | None = None,
) -> ConversionReport:
    """Write a weights file to start a training from: entries of a checkpoint, random values for the rest.

    The header of the file says that it must be trained. An entry of another shape is an error: it means another network
    or other constructor arguments, since the entries of all published checkpoints have equal shapes.

    Args:
        checkpoint: checkpoint of an absolute metric that shares layers with the critic.
        build: creates the critic; called with a seeded CPU random generator, which is restored afterwards.
        out: file to write, ``.safetensors``.
        key: key of the checkpoint that holds the weights; by default the first usual key that it has.
        backbones: part of the critic (``vit``) -> file with a plain state dict for it, as timm publishes them.
        seed: seed of the random entries.
        suggest: names the critic that a set of keys looks like, for the error message.

    Returns:
        The report.

    Raises:
        WeightsError: a file cannot be read, or has entries that the critic lacks or that differ in shape.
        InputError: the critic is not relative, or a backbone is not a part of it or is already in the checkpoint.
    """
    path, out, backbones = as_path(checkpoint), as_path(out), backbones or {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the accelerators' generators too
        critic = build()
    if not critic.card.relative:
        raise InputError(
            f"warm start: got the critic '{critic.card.name}', which predicts absolute quality itself; expected a "
            "relative one, such as rqi_maniqa. Convert its checkpoint without a warm start."
        )
    source, expected = _Source(path, critic, key), stored_entries(critic)
    state = {k: v for k, v in source.state.items() if k not in source.unused}
    if not state.keys() & expected.keys():
        raise WeightsError(f"{source.name}: shares no entry with the critic '{critic.card.name}'.")
    for part, file in backbones.items():
        if part not in _parts_of(critic):
            raise InputError(f"backbone: '{part}' is no part of {critic.card.name}.{nearest(part, _parts_of(critic))}")
        if any(k.startswith(f"{part}.") for k in state):
            raise InputError(f"backbone: {source.name} has its own '{part}'; leave --backbone {part}=... out.")
        state |= _backbone(as_path(file), part, expected, critic.unused)
    random = tuple(k for k in expected if k not in state)
    load_state(critic, {**expected, **state}, " + ".join([source.name, *map(str, backbones.values())]), suggest)
    added = [f"{part} from {Path(file).name}" for part, file in backbones.items()]
    sha256 = save(
        critic,
        out,
        training=MUST_BE_TRAINED + (f"; random (seed {seed}): {summary(random)}" if random else ""),
        origin="; ".join([source.known.description if source.known else path.name, *added]),
        source_sha256=source.sha256,
        **_facts(source.known),
    )
    return ConversionReport(out, sha256, len(expected), source.wrapper, source.sha256, random=random)


def _backbone(path: Path, part: str, expected: Mapping[str, Tensor], unused: tuple[str, ...]) -> dict[str, Tensor]:
    """Entries of one part, under its name. An unused classifier may differ or be absent; all else must be there."""
    entries = {}
    for key, value in state_dict_in(read_checkpoint(path), path)[0].items():
        key = key.removeprefix(f"{part}.")
        name = f"{part}.{key}"
        if not key.startswith(_CLASSIFIERS) or (name in expected and expected[name].shape == value.shape):
            entries[name] = value
    missing = [k for k in expected if k.startswith(f"{part}.") and k not in entries and not k.startswith(unused)]
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"{path}: '{part}' is incomplete: {len(missing)} of its entries are missing, such as {missing[0]}. Give "
            "the state dict of the network that the critic uses, in timm's key layout."
        )
    return entries


def summary(names: Sequence[str]) -> str:
    """Entries counted by part of the network: ``conv0_x.* (2), vit.* (150)``."""
    counts = Counter(f"{name.partition('.')[0]}.*" if "." in name else name for name in names)
    return ", ".join(f"{label} ({count})" if count > 1 else label for label, count in counts.items())
