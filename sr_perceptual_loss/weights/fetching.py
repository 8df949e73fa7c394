"""Published weights -> the store: resolve, compare hashes, download once, convert, pin.

A branch is resolved to a commit, and the file's SHA-256 is compared with every hash that is known: the card's, the
hub's, and the one of the first use on this machine. The downloaded pickle is deleted after the conversion.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from sr_perceptual_loss.checks import as_path
from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights.convert import ConversionReport, convert
from sr_perceptual_loss.weights.disk import sha256_of
from sr_perceptual_loss.weights.hub import Hub, HubError, Resolved, offline_variable
from sr_perceptual_loss.weights.licences import check_entry
from sr_perceptual_loss.weights.manifest import WeightsEntry
from sr_perceptual_loss.weights.matching import Storable, Suggest
from sr_perceptual_loss.weights.pins import Pin, exclusive, read_pin, write_pin
from sr_perceptual_loss.weights.places import (
    compare,
    home,
    megabytes,
    not_downloaded,
    not_here,
    on_this_machine,
    pin_key,
    place,
    verified,
)

__all__ = ["Build", "Remap", "fetch", "install"]

logger = logging.getLogger("sr_perceptual_loss")

Remap = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
Build = Callable[..., Storable]


def fetch(
    name: str, entry: WeightsEntry, *, remap: Remap, build: Build, progress: Callable[[str], None] | None = None
) -> Path:
    """Download published weights once, check them against every known hash, and convert them.

    Several processes may ask at the same time: one downloads, the others wait and find the file.

    Args:
        name: the critic.
        entry: what to fetch.
        remap: published key layout -> ours.
        build: makes the network that the weights must fit.
        progress: told one sentence per stage; by default they go to the logger ``sr_perceptual_loss``.

    Returns:
        Our converted file.

    Raises:
        WeightsError: offline, another file than the pinned one, or weights that do not fit.
    """
    if not entry.repo_id:
        if not on_this_machine(name, entry):
            raise WeightsError(not_here(name, entry))
        return verified(name, entry)
    tell = progress or logger.info
    check_entry(name, entry)
    with exclusive(home()):
        if on_this_machine(name, entry):
            return verified(name, entry)
        if offline_variable():
            raise WeightsError(not_downloaded(name, entry, f"{offline_variable()} is set"))
        (tell if progress else logger.warning)(
            f"{name}: downloading {entry.url} ({megabytes(entry.bytes)}; licence: {entry.licence or 'not stated'})"
        )
        with _download_folder() as folder:
            checkpoint, found = _download(name, entry, folder)
            tell(f"{name}: SHA-256 {found.sha256} at commit {found.commit}, converting")
            report = _convert_and_pin(name, entry, checkpoint, found, build(), remap=remap)
        tell(f"{name}: wrote {report.out} ({report.entries} entries, SHA-256 {report.sha256})")
    return place(name, entry)


def install(
    name: str,
    entry: WeightsEntry,
    checkpoint: str | Path,
    critic: Storable,
    *,
    key: str | None,
    suggest: Suggest | None,
) -> ConversionReport:
    """Convert a checkpoint that a person downloaded and put it where a fetch would have put it.

    Args:
        name: the critic.
        entry: the published file that the checkpoint is.
        checkpoint: the file.
        critic: network with default arguments.
        key: key under which the weights lie, or None.
        suggest: names the critic that a set of keys looks like.

    Returns:
        The report of the conversion.

    Raises:
        WeightsError: not the file that is known under this name, or one that does not fit.
    """
    path = as_path(checkpoint)
    with exclusive(home()):
        sha256 = sha256_of(path) if path.is_file() else ""
        pin = read_pin(home(), pin_key(name, entry))
        if path.is_file():
            compare(name, entry, sha256, path.name, pin)
        same = pin is not None and pin.sha256 == sha256
        found = Resolved(pin.revision if same and pin else "", sha256, path.stat().st_size if path.is_file() else 0)
        with _download_folder():
            return _convert_and_pin(name, entry, path, found, critic, key=key, suggest=suggest)


def _download(name: str, entry: WeightsEntry, folder: Path) -> tuple[Path, Resolved]:
    """Resolve, compare, download, hash, compare again."""
    hub, pin = Hub(), read_pin(home(), pin_key(name, entry))
    # A branch of the card means the commit of the first use; a commit of the card means itself.
    moving = len(entry.revision) != 40
    revision = pin.revision if pin and pin.revision and moving else entry.revision
    try:
        found = hub.resolve(entry.repo_id, entry.filename, revision)
        if found.sha256:
            compare(name, entry, found.sha256, f"{entry.repo_id} on the hub", pin)
        checkpoint = hub.download(entry.repo_id, entry.filename, found.commit, folder)
    except HubError as error:
        raise WeightsError(not_downloaded(name, entry, str(error))) from error
    # The hub's client checks sizes, not contents.
    sha256 = sha256_of(checkpoint)
    if found.sha256 and sha256 != found.sha256:
        raise WeightsError(
            f"{name}: the download of {entry.url} is damaged: got SHA-256 {sha256}, the hub promised {found.sha256}. "
            f"It was deleted; try again: srpl fetch {name}"
        )
    compare(name, entry, sha256, f"the download of {entry.url}", pin)
    return checkpoint, Resolved(found.commit, sha256, checkpoint.stat().st_size)


def _convert_and_pin(
    name: str, entry: WeightsEntry, checkpoint: Path, found: Resolved, critic: Storable, **options: Any
) -> ConversionReport:
    """Convert beside the final place, record the hashes, then move: a file that is there is always a recorded one."""
    target = place(name, entry)
    report = convert(
        checkpoint,
        critic,
        target.parent / ".download" / target.name,
        training_data=entry.training_data,
        licence=entry.licence,
        commercial_use=entry.commercial_use,
        origin=entry.origin,
        **options,
    )
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    pin = Pin(entry.repo_id, entry.filename, *found, time=now, file=target.name, file_sha256=report.sha256)
    write_pin(home(), pin_key(name, entry), pin)
    report.out.replace(target)
    return dataclasses.replace(report, out=target)


@contextmanager
def _download_folder() -> Iterator[Path]:
    """A folder for half-done work on the store's own disk; emptied before (after a kill) and removed after."""
    folder = home() / "weights" / ".download"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise WeightsError(
            f"{folder}: cannot be written ({error}). Free some space or set SRPL_HOME to another folder."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
