"""Conversion of checkpoints to the file format of this package, strictly or as a warm start for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_path, nearest
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights.checkpoint import Remap, read_checkpoint, state_dict_in
from sr_perceptual_loss.weights.file import existing_file, save, sha256_of, unpack
from sr_perceptual_loss.weights.manifest import AbsoluteCheckpoint, WeightsEntry, recognise
from sr_perceptual_loss.weights.matching import COUNTER, Storable, Suggest, drop_aliases, load_state, stored_entries

__all__ = ["MUST_BE_TRAINED", "ConversionReport", "convert", "is_warm_start", "summary", "warm_start"]

#: Start of ``srpl.training`` in the header of every file that :func:`warm_start` writes.
MUST_BE_TRAINED = "warm start, absolute quality, not RQI-trained: must be trained"

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
    others: tuple[str, ...] = ()  # keys of other values under the same names, such as raw ones beside averaged ones
    dropped: tuple[str, ...] = ()  # published entries that never influence the score and were left out
    random: tuple[str, ...] = ()  # entries of a warm start that no file contained; drawn with the seed


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
        out: file to write; an existing one must be an earlier conversion of the same checkpoint.
        key: dotted key of the checkpoint that holds the weights; by default they are searched (``state_dict_in``).
        remap: published key layout -> the critic's; by default ``critic.remap_official``.
        suggest: names the critic that a set of keys looks like, for the error message.
        entry: the published file that the checkpoint is, for the licence and other facts in the header. Its ``origin``
            is empty where only the user says so.

    Returns:
        The report.

    Raises:
        WeightsError: the file is no checkpoint, holds anything but tensors and plain values, does not fit the critic,
            or is known to be of an absolute metric (see :func:`warm_start`).
    """
    path, out, name = existing_file(checkpoint), as_path(out), critic.card.name
    source = _Source(path, critic, key, remap)
    to_warm_start = f"To start a training from it: srpl convert {path} --critic {name} --warm-start"
    if source.known and source.known.critic == name:
        raise WeightsError(
            f"{path}: {source.known_by} {source.known.description}, which predicts absolute quality: with it, "
            f"'{name}' would not say how much better an image is than its reference. {to_warm_start}"
        )
    load_state(critic, source.state, source.name, suggest, f" {to_warm_start}" if critic.card.relative else "")
    return source.report(out, critic, origin=(entry.origin if entry else "") or source.by_user, **_facts(entry))


class _Source:
    """A checkpoint, read for a critic."""

    def __init__(self, path: Path, critic: Storable, key: str | None, remap: Remap | None = None) -> None:
        content, remap = read_checkpoint(path), remap or critic.remap_official
        self.sha256 = sha256_of(path)
        self.known: AbsoluteCheckpoint | None = recognise(path.name, self.sha256)
        self.known_by = "is" if self.known and f"-{self.sha256[:8]}." in self.known.filename else "has the name of"
        self.by_user = f"converted from {path.name}, SHA-256 {self.sha256}, as given by the user"
        self.inside = state_dict_in(content, path, stored_entries(critic), key=key, remap=remap)
        also = f"; for --key also: {', '.join(self.inside.others)}" if self.inside.others else ""
        self.name = f"{path} [{self.inside.key}{also}]" if self.inside.key or also else str(path)
        # Aliases are dropped before the remapping too, since they may exist in the published layout only.
        state = remap(drop_aliases(self.inside.state, critic.aliases, self.name))
        used = critic.state_dict()
        self.dropped = {k for k in (*self.inside.state, *state) if k not in used and k.startswith(critic.unused)}
        self.state = {k: v for k, v in state.items() if k not in self.dropped}

    def report(self, out: Path, critic: Storable, random: tuple[str, ...] = (), **header: Any) -> ConversionReport:
        """Save the critic and say what it was made of; only an earlier conversion is replaced."""
        if out.is_file() and not _is_conversion(out):
            raise WeightsError(
                f"{out}: exists, and is no conversion of a checkpoint. Remove it, or name another: --out FILE"
            )
        sha256 = save(critic, out, source_sha256=self.sha256, **header)
        entries, dropped = len(stored_entries(critic)), tuple(sorted(self.dropped))
        return ConversionReport(out, sha256, entries, self.inside.key, self.sha256, self.inside.others, dropped, random)


def _is_conversion(file: Path) -> bool:
    try:
        return bool(unpack(file)[0].get("srpl.source_sha256"))
    except WeightsError:
        return False


def _facts(source: WeightsEntry | AbsoluteCheckpoint | None) -> dict[str, Any]:
    if source is None:
        return {}
    return {name: getattr(source, name) for name in ("training_data", "licence", "commercial_use")}


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
        key: as in :func:`convert`, like ``suggest``.
        backbones: part of the critic (``vit``) -> file with a plain state dict for it, as timm publishes them.
        seed: seed of the random entries.
        suggest: names the critic that a set of keys looks like, for the error message.

    Returns:
        The report.

    Raises:
        WeightsError: a file cannot be read, or has entries that the critic lacks or that differ in shape.
        InputError: the critic is not relative, or a backbone is not a part of it or is already in the checkpoint.
    """
    path, out, backbones = existing_file(checkpoint), as_path(out), backbones or {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the accelerators' generators too
        critic = build()
    if not critic.card.relative:
        raise InputError(
            f"warm start: got the critic '{critic.card.name}', which predicts absolute quality itself; expected a "
            "relative one, such as rqi_maniqa. Convert its checkpoint without a warm start."
        )
    source, expected = _Source(path, critic, key), stored_entries(critic)
    state = dict(source.state)
    if not state.keys() & expected.keys():
        raise WeightsError(f"{source.name}: shares no entry with the critic '{critic.card.name}'.")
    parts = {name.partition(".")[0] for name in expected if "." in name}
    for part, file in backbones.items():
        if part not in parts:
            raise InputError(f"backbone: '{part}' is no part of {critic.card.name}.{nearest(part, parts)}")
        if any(k.startswith(f"{part}.") for k in state):
            raise InputError(f"backbone: {source.name} has its own '{part}'; leave --backbone {part}=... out.")
        state |= _backbone(existing_file(file), part, expected, critic.unused)
    random = tuple(k for k in expected if k not in state and k.replace(COUNTER, "running_mean") not in state)
    load_state(critic, {**expected, **state}, " + ".join([source.name, *map(str, backbones.values())]), suggest)
    named = f"{source.known_by} {source.known.description}: " if source.known else ""
    added = [f"{part} from {Path(file).name}" for part, file in backbones.items()]
    return source.report(
        out,
        critic,
        random,
        training=MUST_BE_TRAINED + (f"; random (seed {seed}): {summary(random)}" if random else ""),
        origin="; ".join([f"{named}{source.by_user}", *added]),
        **_facts(source.known),
    )


def _backbone(path: Path, part: str, expected: Mapping[str, Tensor], unused: tuple[str, ...]) -> dict[str, Tensor]:
    """Entries of one part, under its name. An unused classifier may differ or be absent; all else must be there."""
    entries, own = {}, {k.removeprefix(f"{part}."): v for k, v in expected.items() if k.startswith(f"{part}.")}
    for key, value in state_dict_in(read_checkpoint(path), path, own).state.items():
        key = key.removeprefix(f"{part}.")
        name = f"{part}.{key}"
        if not key.startswith(_CLASSIFIERS) or (name in expected and expected[name].shape == value.shape):
            entries[name] = value
    missing = [k for k in expected if k.startswith(f"{part}.") and k not in entries and not k.startswith(unused)]
    missing = [k for k in missing if not k.endswith(COUNTER)]
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
