"""A checkpoint of absolute quality -> the start of an RQI training.

What fits is taken, what is missing stays random, and the file says in its own header that it must be trained. A shape
that differs is an error all the same: no published checkpoint differs in one, so it is another network or other
constructor arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_path, nearest
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights.absolute import recognise
from sr_perceptual_loss.weights.checkpoint import read_checkpoint, state_dict_in
from sr_perceptual_loss.weights.container import save
from sr_perceptual_loss.weights.disk import sha256_of
from sr_perceptual_loss.weights.matching import Storable, Suggest, drop_aliases, load_state, own_entries, parts_of

__all__ = ["MUST_BE_TRAINED", "WarmStartReport", "is_warm_start", "summary", "warm_start"]

#: Begins ``srpl.training`` in the header of every file that is written here.
MUST_BE_TRAINED = "warm start, absolute quality, not RQI-trained: must be trained"

# Classifiers of ImageNet networks, which no critic uses.
_CLASSIFIERS = ("fc.", "head.", "head_dist.", "classifier.")


@dataclass(frozen=True)
class WarmStartReport:
    """What a warm start did.

    Attributes:
        out: the written file.
        sha256: of the written file.
        entries: number of entries in it.
        wrapper: key or keys under which the weights lay in the checkpoint, empty for a plain state dict.
        random: entries that no file gave, with the values of the seed.
        source_sha256: of the checkpoint.
    """

    out: Path
    sha256: str
    entries: int
    wrapper: str
    random: tuple[str, ...]
    source_sha256: str


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
) -> WarmStartReport:
    """Write a weights file that is a start for training: entries of a checkpoint, and random ones for the rest.

    Args:
        checkpoint: of a metric that shares layers with the critic: a state dict, plain, under a key, or one per part.
        build: makes the critic; called with the random generator of the CPU seeded, which is restored afterwards.
        out: file to write, ``.safetensors``.
        key: key under which the weights lie; by default the first known one that is there.
        backbones: part of the critic (``vit``) -> file with a plain state dict for it, as timm publishes them.
        seed: of the random entries.
        suggest: names the critic that a set of keys looks like, for the error message.

    Returns:
        A report.

    Raises:
        WeightsError: a file cannot be read, or has entries that the critic lacks or that differ in shape.
        InputError: a critic that is not relative, or a backbone that is no part of it or that the checkpoint has
            brought already.
    """
    path = as_path(checkpoint)
    with _seeded(seed):
        critic = build()
    if not critic.card.relative:
        raise InputError(
            f"warm start: got the critic '{critic.card.name}', which predicts absolute quality itself; expected one "
            "that is trained on differences, such as rqi_maniqa. Convert its checkpoint without a warm start."
        )
    parts = parts_of(critic)
    published, wrapper = state_dict_in(read_checkpoint(path), path, key, parts)
    source = f"{path} [{wrapper}]" if wrapper else str(path)
    state = critic.remap_official(drop_aliases(published, critic.aliases, source))
    own = own_entries(critic)
    state = {name: value for name, value in state.items() if name in own or not name.startswith(critic.unused)}
    if not any(name in own for name in state):
        raise WeightsError(f"{source}: shares no entry with the critic '{critic.card.name}'; nothing to start from.")
    given = dict.fromkeys(state, source)
    for part, file in (backbones or {}).items():
        if part not in parts:
            raise InputError(f"backbone: '{part}' is no part of {critic.card.name}.{nearest(part, parts)}")
        if any(name.startswith(f"{part}.") for name in state):
            raise InputError(f"backbone: {source} has its own '{part}'; leave --backbone {part}=... out.")
        entries = _backbone(as_path(file), part, own, critic.unused)
        state |= entries
        given |= dict.fromkeys(entries, str(file))
    random = tuple(name for name in own if name not in state)
    load_state(critic, {**own, **state}, " + ".join(dict.fromkeys(given.values())), suggest)
    return _write(critic, as_path(out), path, wrapper, random, dict(backbones or {}), seed)


def _write(
    critic: Storable,
    out: Path,
    path: Path,
    wrapper: str,
    random: tuple[str, ...],
    backbones: Mapping[str, str | Path],
    seed: int,
) -> WarmStartReport:
    source_sha256 = sha256_of(path)
    known = recognise(path.name, source_sha256)
    brought = "".join(f"; {part} from {Path(file).name}" for part, file in backbones.items())
    left = f"; random (seed {seed}): {summary(random)}" if random else ""
    sha256 = save(
        critic,
        out,
        training=f"{MUST_BE_TRAINED}{left}",
        training_data=f"{known.training_data} (absolute quality)" if known else "",
        licence=known.licence if known else "",
        commercial_use=known.commercial_use if known else None,
        origin=f"{known.what if known else path.name}{brought}",
        source_sha256=source_sha256,
    )
    return WarmStartReport(out, sha256, len(own_entries(critic)), wrapper, random, source_sha256)


def summary(names: Sequence[str]) -> str:
    """Entries by part of the network.

    Args:
        names: of the entries.

    Returns:
        Text such as ``conv0_x.* (2), vit.* (150)``.
    """
    counts: dict[str, int] = {}
    for name in names:
        part, dot, _ = name.partition(".")
        label = f"{part}.*" if dot else name
        counts[label] = counts.get(label, 0) + 1
    return ", ".join(f"{label} ({count})" if count > 1 else label for label, count in counts.items())


def _backbone(path: Path, part: str, own: Mapping[str, Tensor], unused: tuple[str, ...]) -> dict[str, Tensor]:
    """Entries of one part, under its name. An unused classifier may differ or be absent; all else must be there."""
    state, _ = state_dict_in(read_checkpoint(path), path)
    if any(name.startswith(f"{part}.") for name in state):
        state = {name.removeprefix(f"{part}."): v for name, v in state.items() if name.startswith(f"{part}.")}
    fits = {f"{part}.{name}": value for name, value in state.items()}
    for name in [n for n in fits if n.removeprefix(f"{part}.").startswith(_CLASSIFIERS)]:
        if name not in own or own[name].shape != fits[name].shape:
            del fits[name]
    missing = [
        name
        for name in own
        if name.startswith(f"{part}.")
        and name not in fits
        and not name.endswith("num_batches_tracked")
        and not name.startswith(unused)
    ]
    if missing:
        raise WeightsError(
            f"{path}: is not a whole '{part}': {len(missing)} of its entries are missing, such as {missing[0]}. Give "
            "the state dict of the network that the critic uses, in timm's key layout."
        )
    return fits


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The CPU's generator at ``seed``, then as it was. ``torch.manual_seed`` would reach the accelerators too."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
