"""Where the weights of an entry belong, whether they are there, and what to say when they are not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sr_perceptual_loss.checks import as_path, nearest
from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights.disk import SUFFIX, sha256_of
from sr_perceptual_loss.weights.manifest import WeightsEntry
from sr_perceptual_loss.weights.pins import PINS, Pin, read_pin

__all__ = [
    "Entries",
    "compare",
    "entry_of",
    "home",
    "megabytes",
    "none_published",
    "not_downloaded",
    "not_here",
    "on_this_machine",
    "pin_key",
    "place",
    "verified",
]

BUNDLED = Path(__file__).parent / "bundled"

Entries = Mapping[str, WeightsEntry]


def home() -> Path:
    """Folder of the store: ``$SRPL_HOME``, else ``$XDG_CACHE_HOME/sr_perceptual_loss``, else ``~/.cache/...``.

    Read at every call, so that a test or a job script may set it late.
    """
    own = os.environ.get("SRPL_HOME", "")
    if own:
        return as_path(own)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path.home() / ".cache") / "sr_perceptual_loss"


def place(name: str, entry: WeightsEntry) -> Path:
    """Where the file of an entry belongs, whether it is there or not."""
    if not entry.repo_id:
        return BUNDLED / entry.filename
    return home() / "weights" / f"{name}-{entry.tag}{SUFFIX}"


def on_this_machine(name: str, entry: WeightsEntry) -> bool:
    """Whether the file of an entry is here; no network, no look inside."""
    return place(name, entry).is_file()


def entry_of(name: str, entries: Entries, tag: str) -> WeightsEntry:
    """The entry of a tag.

    Raises:
        WeightsError: no such tag, or none published at all.
    """
    if not entries:
        raise WeightsError(none_published(name))
    if tag not in entries:
        raise WeightsError(
            f"{name}: no weights '{tag}'.{nearest(tag, entries)} Besides a tag, weights may be 'local' or the path "
            "of an existing .safetensors file, such as ./my_weights.safetensors."
        )
    return entries[tag]


def compare(name: str, entry: WeightsEntry, sha256: str, what: str, pin: Pin | None) -> None:
    """Refuse a published file whose hash is not the one that the card or this machine knows.

    Args:
        name: the critic.
        entry: the published file.
        sha256: of the file at hand.
        what: the file at hand, for the message.
        pin: this machine's record of the first use.

    Raises:
        WeightsError: with both hashes, and how a person may trust the other file.
    """
    if entry.sha256 and sha256 != entry.sha256:
        raise WeightsError(
            f"{name}: {what} has SHA-256 {sha256}, but this version of the package pins {entry.sha256}. It is another "
            "file under the same name and was not used. If its authors published a new one, upgrade the package, or "
            "download it yourself and convert it to a path of your own: "
            f"srpl convert FILE --critic {name} --out MINE{SUFFIX}"
        )
    if pin and sha256 != pin.sha256:
        raise WeightsError(
            f"{name}: {what} has SHA-256 {sha256}, but this machine pinned {pin.sha256} at first use ({pin.time}). It "
            "is another file under the same name and was not used. If you trust the new one, remove the entry "
            f"'{pin_key(name, entry)}' from {home() / PINS}, delete {place(name, entry)} and try again."
        )


def verified(name: str, entry: WeightsEntry) -> Path:
    """The file of an entry, whose hash must still be the recorded one."""
    path = place(name, entry)
    if not entry.repo_id:
        expected, pin = entry.sha256, None
    else:
        pin = read_pin(home(), pin_key(name, entry))
        expected = pin.file_sha256 if pin else ""
    if pin and entry.sha256 and pin.sha256 != entry.sha256:
        compare(name, entry, pin.sha256, f"{path} was converted from a file that", None)
    if expected and sha256_of(path) != expected:
        raise WeightsError(
            f"{path}: got SHA-256 {sha256_of(path)}, expected {expected}: the file was damaged or replaced since "
            f"it was made. Delete it and fetch it again (srpl fetch {name}), or give your own file by its path."
        )
    return path


def pin_key(name: str, entry: WeightsEntry) -> str:
    """Name of an entry in the lock file."""
    return f"{name}-{entry.tag}"


def megabytes(count: int) -> str:
    """A size for people."""
    return f"{count / 1e6:.0f} MB" if count else "size not stated"


def none_published(name: str) -> str:
    """Message for a critic without any entry."""
    return (
        f"{name}: nobody has published weights for this critic, so there is nothing to download. Train it and give the "
        f"path of the .safetensors file, or convert a checkpoint that you have (srpl convert FILE --critic {name}) and "
        "give the path that it prints. weights: None means random weights, whose scores mean nothing."
    )


def not_here(name: str, entry: WeightsEntry) -> str:
    """Message for an absent file, when a download was not asked for."""
    if not entry.repo_id:
        return f"{name}: the bundled file {place(name, entry)} is missing; reinstall the package."
    return (
        f"{name}: the weights '{entry.tag}' are not on this machine, and weights='local' never downloads. "
        f"To download them once: srpl fetch {name} (YAML: weights: {entry.tag}). {_about(name, entry)} "
        "weights: None means random weights, whose scores mean nothing."
    )


def not_downloaded(name: str, entry: WeightsEntry, reason: str) -> str:
    """Message for an absent file, when a download was asked for and failed."""
    return f"{name}: the weights '{entry.tag}' could not be downloaded ({reason}). {_about(name, entry)}"


def _about(name: str, entry: WeightsEntry) -> str:
    """Address, size, licence and the way by hand: what every message about absent weights ends with."""
    return (
        f"Published at {entry.url} ({megabytes(entry.bytes)}; SHA-256: {entry.sha256 or 'not published'}; licence: "
        f"{entry.licence or 'not stated'}; trained on: {entry.training_data or 'not stated'}). By hand: download it on "
        f"any machine, then run srpl convert {entry.filename} --critic {name}, which puts it at {place(name, entry)} "
        "(copy that file to a machine without network)."
    )
