"""The local store of weights: finds and verifies files, and downloads them only if a tag is given.

``weights="local"`` never uses the network; a tag such as ``"official"`` downloads once. A download is used only if its
SHA-256 is the one in the manifest and that of the first download on this machine, which ``weights.lock.json`` records,
since some authors publish no hash. A converted file is verified against its record too; a copied one has no record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

import torch

from sr_perceptual_loss.checks import nearest
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights import records
from sr_perceptual_loss.weights.checkpoint import Remap
from sr_perceptual_loss.weights.convert import ConversionReport, convert
from sr_perceptual_loss.weights.file import existing_file, read, sha256_of
from sr_perceptual_loss.weights.manifest import COMMERCIAL_USE, WeightsEntry
from sr_perceptual_loss.weights.matching import Storable, Suggest, load_state
from sr_perceptual_loss.weights.records import Pin, home, on_this_machine, pin_of, place

__all__ = ["entry_of", "fetch", "install", "is_local", "load_state", "locate", "published", "read"]

logger = logging.getLogger("sr_perceptual_loss")

#: Value of SRPL_REQUIRE_LICENCE -> requirement on weights, for messages.
LICENCE_LEVELS = {"stated": "a stated licence", "commercial": "a licence that allows commercial use"}

Entries = Mapping[str, WeightsEntry]
Build = Callable[[], Storable]
Progress = Callable[[str], None]


def entry_of(name: str, entries: Entries, tag: str) -> WeightsEntry:
    """The entry of a tag.

    Raises:
        WeightsError: no such tag, or no weights published.
    """
    if not entries:
        raise WeightsError(
            f"{name}: no weights are published for this critic, so there is nothing to download. Train it, or "
            f"convert a checkpoint that you have (srpl convert FILE --critic {name}), and give the path of the "
            ".safetensors file. weights: None means random weights, whose scores are meaningless."
        )
    if tag not in entries:
        raise WeightsError(
            f"{name}: no weights '{tag}'.{nearest(tag, entries)} Besides a tag, weights may be 'local' or the path "
            "of an existing .safetensors file, such as ./my_weights.safetensors."
        )
    return entries[tag]


def locate(name: str, entries: Entries, weights: str | Path, *, remap: Remap, build: Build) -> Path:
    """Path of the weights that a user asked for.

    Args:
        name: the critic.
        entries: its published weights by tag.
        weights: ``"local"`` (the first tag, from this machine only), a tag (downloads once), or a path.
        remap: published key layout -> the critic's, for a conversion after a download.
        build: creates the network, for a conversion after a download.

    Returns:
        An existing file.

    Raises:
        WeightsError: missing, unknown, not downloadable, not the file that was pinned, or without the licence that
            ``SRPL_REQUIRE_LICENCE`` requires.
        InputError: an unknown value of ``SRPL_REQUIRE_LICENCE``.
    """
    if not isinstance(weights, str | os.PathLike):
        raise WeightsError(f"{name}: weights: got {weights!r}, expected 'local', a tag, a path, or None.")
    tag = weights if isinstance(weights, str) else ""
    entry = entry_of(name, entries, next(iter(entries), "")) if tag == "local" else entries.get(tag)
    if entry and tag == "local" and not is_local(name, entry):
        raise WeightsError(
            f"{_absent(name, entry, 'are not on this machine, and weights=local never downloads')} To download them "
            f"once: srpl fetch {name} (YAML: weights: {entry.tag}). weights: None means random weights, whose scores "
            "are meaningless."
        )
    if entry:
        return fetch(name, entry, remap=remap, build=build)
    try:
        path = existing_file(weights)
    except WeightsError as error:
        if tag and Path(tag).name == tag and not Path(tag).suffix and "no such file" in str(error):
            entry_of(name, entries, tag)
        known = ", ".join(entries) or "this critic has none"
        raise WeightsError(f"{name}: no weights: {error} Known besides files: 'local', or a tag ({known}).") from None
    if os.environ.get("SRPL_REQUIRE_LICENCE"):
        header = read(path).metadata
        _check_licence(str(path), header.get("srpl.licence", ""), header.get("srpl.commercial_use", "unknown"))
    return path


def fetch(name: str, entry: WeightsEntry, *, remap: Remap, build: Build, progress: Progress | None = None) -> Path:
    """Path of published weights; missing ones are downloaded, compared with every known hash and converted.

    Several processes may call this at the same time: one downloads, the others wait and use its file.

    Args:
        name: the critic.
        entry: the published file.
        remap: published key layout -> the critic's.
        build: creates the network that the weights must fit.
        progress: called with a message per stage; by default the logger ``sr_perceptual_loss`` is used.

    Returns:
        The converted file.

    Raises:
        WeightsError: offline, another file than the pinned one, or weights that do not fit.
    """
    _check_licence(f"{name}: the weights '{entry.tag}'", entry.licence, COMMERCIAL_USE[entry.commercial_use])
    if entry.bundled or on_this_machine(name, entry):
        if records.origin(name, entry) == records.BY_USER:
            logger.warning("%s: weights '%s' are %s (%s)", name, entry.tag, records.BY_USER, place(name, entry))
        return _verified(name, entry)
    with _workspace() as folder:
        if on_this_machine(name, entry):  # another process has fetched it in the meantime
            return _verified(name, entry)
        pin, commit, checkpoint = pin_of(name, entry), "", _in_torch_hub(entry)
        if not checkpoint.is_file():
            # Read at every call, since huggingface_hub reads these variables only when it is imported.
            for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
                if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
                    raise WeightsError(_absent(name, entry, f"could not be downloaded ({variable} is set)"))
            (progress or logger.warning)(f"{name}: downloading {_description(entry)}")
            checkpoint, commit = _download(name, entry, pin, folder)
        records.compare(name, entry, sha256_of(checkpoint), f"{checkpoint} of {entry.url}", pin)
        report = convert(checkpoint, build(), folder / "converted.safetensors", remap=remap, entry=entry)
        report = _pin_and_move(name, entry, checkpoint, commit, report)
        (progress or logger.info)(
            f"{name}: wrote {report.out} ({report.entries} entries, SHA-256 {report.sha256}), converted from the file "
            f"with SHA-256 {report.source_sha256}{commit and f' at commit {commit}'}"
        )
    return _verified(name, entry)


def install(
    name: str, entry: WeightsEntry, path: str | Path, critic: Storable, *, key: str | None, suggest: Suggest | None
) -> ConversionReport:
    """Convert a checkpoint that was downloaded by hand and store it as :func:`fetch` does.

    If no hash of the published file is known, the header of the stored file says that it is the user's.
    The arguments are those of :func:`fetch` and ``convert``. Returns the report of the conversion.

    Raises:
        WeightsError: the file is not the published one, or does not fit the critic.
    """
    path = existing_file(path)
    with _workspace() as folder:
        pin = pin_of(name, entry)
        records.compare(name, entry, sha256_of(path), path.name, pin)
        facts = entry if records.known_hash(name, entry) else dataclasses.replace(entry, origin="")
        report = convert(path, critic, folder / "converted.safetensors", key=key, suggest=suggest, entry=facts)
        return _pin_and_move(name, entry, path, pin.revision if pin else "", report)


def published(name: str, entries: Entries, path: Path) -> WeightsEntry | None:
    """The entry that a file is by its hash, or by its name where no hash of the published file is known."""
    sha256, own = sha256_of(path), [entry for entry in entries.values() if not entry.bundled]
    by_name = [entry for entry in own if Path(entry.filename).name == path.name]
    return next((entry for entry in own if records.known_hash(name, entry) == sha256), by_name[0] if by_name else None)


@contextlib.contextmanager
def _workspace() -> Iterator[Path]:
    """A temporary folder of the store, locked for one process at a time and removed at the end."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    folder = home() / "weights" / ".download"
    try:
        home().mkdir(parents=True, exist_ok=True)
        with WeakFileLock(home() / ".weights.lock"):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise WeightsError(
            f"{home()}: the weights store cannot be written or locked ({error}). Free some space, set SRPL_HOME to a "
            "folder that can be written, or give weights as the path of a .safetensors file."
        ) from error


def is_local(name: str, entry: WeightsEntry) -> bool:
    """Whether :func:`locate` needs no download: the file is converted, bundled, or in torch's folder."""
    return entry.bundled or on_this_machine(name, entry) or _in_torch_hub(entry).is_file()


def _in_torch_hub(entry: WeightsEntry) -> Path:
    """Where torch keeps a file of torchvision; for any other entry its folder, which is no file."""
    return Path(torch.hub.get_dir()) / "checkpoints" / (entry.filename if entry.of_torchvision else "")


def _download(name: str, entry: WeightsEntry, pin: Pin | None, folder: Path) -> tuple[Path, str]:
    """The downloaded file and its commit; the only network access for weights."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # A branch in the manifest stands for the commit of the first download on this machine.
    revision = pin.revision if pin and pin.revision and len(entry.revision) != 40 else entry.revision
    try:
        if entry.of_torchvision:
            torch.hub.download_url_to_file(entry.url, str(folder / entry.filename), progress=False)
            return folder / entry.filename, ""
        stated = get_hf_file_metadata(hf_hub_url(entry.repo_id, entry.filename, revision=revision))
        commit, etag = stated.commit_hash or revision, stated.etag or ""
        if len(etag) == 64:  # for large files the hub states the SHA-256, for small ones another hash
            records.compare(name, entry, etag, f"{entry.repo_id} on the hub", pin)
        checkpoint = Path(hf_hub_download(entry.repo_id, entry.filename, revision=commit, local_dir=folder))
    except WeightsError:
        raise
    except Exception as error:  # the errors depend on the HTTP library of the hub's client
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise WeightsError(_absent(name, entry, f"could not be downloaded ({reason})")) from error
    sha256 = sha256_of(checkpoint)
    if len(etag) == 64 and sha256 != etag:  # the hub's client checks sizes only
        raise WeightsError(
            f"{name}: the download of {entry.url} is damaged: got SHA-256 {sha256}, the hub stated {etag}. It was "
            f"deleted; try again: srpl fetch {name}"
        )
    return checkpoint, commit


def _pin_and_move(
    name: str, entry: WeightsEntry, checkpoint: Path, commit: str, report: ConversionReport
) -> ConversionReport:
    """Record the hashes, then move the converted file to its place, so that no fetched file is without a record."""
    target, size = place(name, entry), checkpoint.stat().st_size
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    source = entry.repo_id, entry.filename, commit, report.source_sha256, size
    records.write_pin(name, entry, Pin(*source, now, target.name, report.sha256))
    report.out.replace(target)
    return dataclasses.replace(report, out=target)


def _verified(name: str, entry: WeightsEntry) -> Path:
    """Path of the file of an entry; its hash must be that of the manifest or the recorded one, if there is a record."""
    path, expected = place(name, entry), entry.sha256
    cure = "install the package again (pip install --force-reinstall --no-deps sr_perceptual_loss)"
    if not entry.bundled:
        pin = pin_of(name, entry)
        if not pin:
            return path
        records.compare(name, entry, pin.sha256, f"the source of {path}", None)
        expected, cure = pin.file_sha256, f"delete it and fetch it again (srpl fetch {name}), or give yours by its path"
    got = sha256_of(path) if path.is_file() else "no file"
    if got != expected:
        raise WeightsError(f"{path}: got SHA-256 {got}, expected {expected}: it was damaged or replaced; {cure}.")
    return path


def _check_licence(what: str, licence: str, commercial_use: str) -> None:
    """Raise an error for weights without the licence that ``SRPL_REQUIRE_LICENCE`` requires."""
    level = os.environ.get("SRPL_REQUIRE_LICENCE", "")
    if level and level not in LICENCE_LEVELS:  # a misspelt level must not disable the check
        raise InputError(f"SRPL_REQUIRE_LICENCE: got {level!r}.{nearest(level, LICENCE_LEVELS)}")
    # Known files without a licence say in that field who has not stated one.
    stated = bool(licence) and not licence.startswith("not stated")
    if (level and not stated) or (level == "commercial" and commercial_use != "yes"):
        raise WeightsError(
            f"{what}: licence {licence or 'not stated'}, commercial use: {commercial_use}; SRPL_REQUIRE_LICENCE="
            f"{level} requires {LICENCE_LEVELS[level]}. Use other weights, or unset the variable."
        )


def _description(entry: WeightsEntry) -> str:
    size = f"{entry.bytes / 1e6:.0f} MB" if entry.bytes else "size not stated"
    return (
        f"{entry.url} ({size}; SHA-256: {entry.sha256 or 'not published'}; licence: {entry.licence or 'not stated'}; "
        f"trained on: {entry.training_data or 'not stated'})"
    )


def _absent(name: str, entry: WeightsEntry, why: str) -> str:
    """Message about missing weights: address, size, licence and how to install them by hand."""
    also = f", or put it at {_in_torch_hub(entry)}" if entry.of_torchvision else ""
    return (
        f"{name}: the weights '{entry.tag}' {why}. Published at {_description(entry)}. By hand: download it on any "
        f"machine, then run srpl convert {entry.filename} --critic {name}, which puts it at {place(name, entry)}; copy "
        f"that file to a machine without network{also}."
    )
