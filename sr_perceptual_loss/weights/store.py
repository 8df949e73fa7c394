"""The weights on this machine: find and verify them, and download them only when a tag is asked for.

``weights="local"`` never touches the network; a tag such as ``"official"`` downloads once. A file is used only if its
SHA-256 is the recorded one: of the manifest, or of the first use on this machine, pinned in ``weights.lock.json``
because some authors publish no hash. What is read at run time is our safetensors file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sr_perceptual_loss.checks import as_path, nearest
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights.convert import ConversionReport, Remap, convert
from sr_perceptual_loss.weights.file import SUFFIX, atomic_path, read, read_header, sha256_of
from sr_perceptual_loss.weights.manifest import COMMERCIAL_USE, WeightsEntry
from sr_perceptual_loss.weights.matching import Storable, Suggest, load_state

__all__ = ["entry_of", "fetch", "home", "install", "load_state", "locate", "on_this_machine", "place", "read"]

logger = logging.getLogger("sr_perceptual_loss")

BUNDLED = Path(__file__).parent / "bundled"
PINS = "weights.lock.json"
#: Value of SRPL_REQUIRE_LICENCE -> what weights must have.
LICENCE_LEVELS = {"stated": "a stated licence", "commercial": "a licence that allows commercial use"}

Entries = Mapping[str, WeightsEntry]


def home() -> Path:
    """Folder of the store: ``$SRPL_HOME``, else ``$XDG_CACHE_HOME/sr_perceptual_loss``, else ``~/.cache/...``.

    Read at every call, so that a test or a job script may set it late.
    """
    if os.environ.get("SRPL_HOME"):
        return as_path(os.environ["SRPL_HOME"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sr_perceptual_loss"


def place(name: str, entry: WeightsEntry) -> Path:
    """Where the file of an entry belongs, whether it is there or not."""
    return home() / "weights" / f"{name}-{entry.tag}{SUFFIX}" if entry.repo_id else BUNDLED / entry.filename


def on_this_machine(name: str, entry: WeightsEntry) -> bool:
    """Whether the file of an entry is here; no network, no look inside."""
    return place(name, entry).is_file()


def entry_of(name: str, entries: Entries, tag: str) -> WeightsEntry:
    """The entry of a tag.

    Raises:
        WeightsError: no such tag, or none published at all.
    """
    if not entries:
        raise WeightsError(
            f"{name}: nobody has published weights for this critic, so there is nothing to download. Train it and give "
            "the path of the .safetensors file, or convert a checkpoint that you have (srpl convert FILE --critic "
            f"{name}) and give the path that it prints. weights: None means random weights, whose scores mean nothing."
        )
    if tag not in entries:
        raise WeightsError(
            f"{name}: no weights '{tag}'.{nearest(tag, entries)} Besides a tag, weights may be 'local' or the path "
            "of an existing .safetensors file, such as ./my_weights.safetensors."
        )
    return entries[tag]


def locate(name: str, entries: Entries, weights: str | Path, *, remap: Remap, build: Callable[[], Storable]) -> Path:
    """Path of the weights that a user asked for.

    Args:
        name: the critic.
        entries: its published or bundled weights by tag.
        weights: ``"local"`` (the first tag, from this machine only), a tag (downloads once), or a path.
        remap: published key layout -> ours, for a conversion after a download.
        build: makes the network, for a conversion after a download.

    Returns:
        An existing file.

    Raises:
        WeightsError: not here, unknown, not downloadable, not the file that was pinned, or without the licence that
            ``SRPL_REQUIRE_LICENCE`` asks for; with the cure.
    """
    if not isinstance(weights, str | os.PathLike):
        raise WeightsError(f"{name}: weights: got {weights!r}, expected 'local', a tag, a path, or None.")
    if weights == "local":
        entry = entry_of(name, entries, next(iter(entries), ""))
        _check_entry_licence(name, entry)
        if not on_this_machine(name, entry):
            raise WeightsError(_not_here(name, entry))
        return _verified(name, entry)
    if isinstance(weights, str) and weights in entries:
        return fetch(name, entries[weights], remap=remap, build=build)
    path = as_path(weights)
    with contextlib.suppress(OSError, ValueError):  # of a text that cannot be a file name
        if path.exists():
            if _required_licence():
                header = read_header(path)
                _check_licence(str(path), header.get("srpl.licence", ""), header.get("srpl.commercial_use", "unknown"))
            return path
    if path.name == weights and not path.suffix:
        entry_of(name, entries, path.name)
    raise WeightsError(
        f"{name}: no file {path} (looked in {Path.cwd()}). Give the path of an existing .safetensors file, "
        f"'local', or a tag ({', '.join(entries) or 'this critic has none'})."
    )


def fetch(
    name: str,
    entry: WeightsEntry,
    *,
    remap: Remap,
    build: Callable[[], Storable],
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Published weights on this machine; if absent, they are downloaded once, compared with every known hash, converted.

    Several processes may ask at the same time: one downloads, the others wait and find the file.

    Args:
        name: the critic.
        entry: what to fetch.
        remap: published key layout -> ours.
        build: makes the network that the weights must fit.
        progress: gets one sentence per stage; by default they are logged by the logger ``sr_perceptual_loss``.

    Returns:
        Our converted file.

    Raises:
        WeightsError: offline, another file than the pinned one, or weights that do not fit.
    """
    _check_entry_licence(name, entry)
    if on_this_machine(name, entry):
        return _verified(name, entry)
    if not entry.repo_id:
        raise WeightsError(_not_here(name, entry))
    with _workspace() as folder:
        if not on_this_machine(name, entry):  # another process may have brought it in the meantime
            pin = _read_pin(name, entry)
            _offline_check(name, entry)
            (progress or logger.warning)(
                f"{name}: downloading {entry.url} ({_megabytes(entry)}; licence: {entry.licence or 'not stated'})"
            )
            checkpoint, commit = _download(name, entry, pin, folder)
            report = _convert_and_pin(name, entry, checkpoint, commit, build(), folder, remap=remap)
            (progress or logger.info)(
                f"{name}: wrote {report.out} ({report.entries} entries, SHA-256 {report.sha256}), converted from "
                f"SHA-256 {report.source_sha256} at commit {commit}"
            )
    return _verified(name, entry)


def install(
    name: str,
    entry: WeightsEntry,
    checkpoint: str | Path,
    critic: Storable,
    *,
    key: str | None,
    suggest: Suggest | None,
) -> ConversionReport:
    """Convert a checkpoint that was downloaded by hand and put it where a fetch would have put it.

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
    with _workspace() as folder:
        pin = _read_pin(name, entry)
        if path.is_file():
            _compare(name, entry, sha256_of(path), path.name, pin)
        return _convert_and_pin(
            name, entry, path, pin.revision if pin else "", critic, folder, key=key, suggest=suggest
        )


@contextlib.contextmanager
def _workspace() -> Iterator[Path]:
    """A folder of the store for half-done work: one process at a time has it, and it is removed at the end."""
    from huggingface_hub.utils import WeakFileLock

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


def _offline_check(name: str, entry: WeightsEntry) -> None:
    """Looked up at every call: huggingface_hub reads these variables only once, when it is imported."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise WeightsError(_not_downloaded(name, entry, f"{variable} is set"))


def _download(name: str, entry: WeightsEntry, pin: Pin | None, folder: Path) -> tuple[Path, str]:
    """The published file and its commit; the only network access of the package's weights.

    The hash is compared before the download, with what the hub states, and after it, with the file itself.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # A branch of the manifest means the commit of the first use; a commit of the manifest means itself.
    revision = pin.revision if pin and pin.revision and len(entry.revision) != 40 else entry.revision
    try:
        stated = get_hf_file_metadata(hf_hub_url(entry.repo_id, entry.filename, revision=revision))
    except Exception as error:  # the hub's client raises errors of whichever HTTP library it uses
        raise WeightsError(_not_downloaded(name, entry, _reason(error))) from error
    # The ETag of a large file is its SHA-256; for a small one the hub states none.
    commit, sha256 = stated.commit_hash or "", stated.etag if stated.etag and len(stated.etag) == 64 else ""
    if sha256:
        _compare(name, entry, sha256, f"{entry.repo_id} on the hub", pin)
    try:
        checkpoint = Path(hf_hub_download(entry.repo_id, entry.filename, revision=commit or revision, local_dir=folder))
    except Exception as error:
        raise WeightsError(_not_downloaded(name, entry, _reason(error))) from error
    got = sha256_of(checkpoint)
    if sha256 and got != sha256:  # the hub's client checks sizes only
        raise WeightsError(
            f"{name}: the download of {entry.url} is damaged: got SHA-256 {got}, the hub stated {sha256}. It was "
            f"deleted; try again: srpl fetch {name}"
        )
    _compare(name, entry, got, f"the download of {entry.url}", pin)
    return checkpoint, commit


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _convert_and_pin(
    name: str,
    entry: WeightsEntry,
    checkpoint: Path,
    commit: str,
    critic: Storable,
    folder: Path,
    *,
    key: str | None = None,
    remap: Remap | None = None,
    suggest: Suggest | None = None,
) -> ConversionReport:
    """Convert in ``folder``, record the hashes, then move: a file at its place always has a record."""
    target = place(name, entry)
    report = convert(
        checkpoint,
        critic,
        folder / target.name,
        key=key,
        remap=remap,
        suggest=suggest,
        entry=entry,
    )
    _write_pin(
        name,
        entry,
        Pin(
            repo=entry.repo_id,
            filename=entry.filename,
            revision=commit,
            sha256=report.source_sha256,
            bytes=checkpoint.stat().st_size,
            time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            file=target.name,
            file_sha256=report.sha256,
        ),
    )
    report.out.replace(target)
    return dataclasses.replace(report, out=target)


@dataclass(frozen=True)
class Pin:
    """One published file as it was at first use; an entry of ``weights.lock.json``.

    Attributes:
        repo: Hugging Face repository.
        filename: file in it.
        revision: commit; empty if it was downloaded by hand.
        sha256: of the published file.
        bytes: its size.
        time: of the conversion, ISO 8601 in UTC.
        file: name of our converted file.
        file_sha256: of our converted file.
    """

    repo: str
    filename: str
    revision: str
    sha256: str
    bytes: int
    time: str
    file: str
    file_sha256: str


def _read_pins() -> dict[str, Pin]:
    path = home() / PINS
    try:
        return {key: Pin(**record) for key, record in json.loads(path.read_bytes())["weights"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: damaged ({type(error).__name__}: {error}). It records which published files this machine trusts: "
            "repair it, or delete it to trust the next downloads anew."
        ) from None


def _read_pin(name: str, entry: WeightsEntry) -> Pin | None:
    return _read_pins().get(f"{name}-{entry.tag}")


def _write_pin(name: str, entry: WeightsEntry, pin: Pin) -> None:
    """Add or replace one pin; called inside :func:`_workspace` only."""
    pins = {key: asdict(value) for key, value in (_read_pins() | {f"{name}-{entry.tag}": pin}).items()}
    with atomic_path(home() / PINS) as temporary:
        temporary.write_text(json.dumps({"format": 1, "weights": pins}, indent=2, sort_keys=True) + "\n", "utf-8")


def _compare(name: str, entry: WeightsEntry, sha256: str, what: str, pin: Pin | None) -> None:
    """Refuse a published file whose hash is not the one that the manifest or this machine knows."""
    known = f"{name}: {what} has SHA-256 {sha256}, but"
    if entry.sha256 and sha256 != entry.sha256:
        raise WeightsError(
            f"{known} this version of the package pins {entry.sha256}. It is another file under the same name and was "
            "not used. If its authors published a new one, upgrade the package, or download it yourself and convert it "
            f"to another path: srpl convert FILE --critic {name} --out MINE{SUFFIX}"
        )
    if pin and sha256 != pin.sha256:
        raise WeightsError(
            f"{known} this machine pinned {pin.sha256} at first use ({pin.time}). It is another file under the same "
            f"name and was not used. If you trust the new one, remove the entry '{name}-{entry.tag}' from "
            f"{home() / PINS}, delete {place(name, entry)} and try again."
        )


def _verified(name: str, entry: WeightsEntry) -> Path:
    """The file of an entry, whose hash must still be the recorded one."""
    path, expected = place(name, entry), entry.sha256
    if entry.repo_id:
        pin = _read_pin(name, entry)
        if pin:
            _compare(name, entry, pin.sha256, f"{path} was converted from a file that", None)
        expected = pin.file_sha256 if pin else ""
    if expected and sha256_of(path) != expected:
        raise WeightsError(
            f"{path}: got SHA-256 {sha256_of(path)}, expected {expected}: the file was damaged or replaced since "
            f"it was made. Delete it and fetch it again (srpl fetch {name}), or give your file by its path."
        )
    return path


def _required_licence() -> str:
    """The level that ``SRPL_REQUIRE_LICENCE`` asks for, or an empty text; a misspelt level must let nothing through."""
    level = os.environ.get("SRPL_REQUIRE_LICENCE", "")
    if level and level not in LICENCE_LEVELS:
        raise InputError(f"SRPL_REQUIRE_LICENCE: got {level!r}.{nearest(level, LICENCE_LEVELS)}")
    return level


def _check_entry_licence(name: str, entry: WeightsEntry) -> None:
    _check_licence(f"{name}: the weights '{entry.tag}'", entry.licence, COMMERCIAL_USE[entry.commercial_use])


def _check_licence(what: str, licence: str, commercial_use: str) -> None:
    level = _required_licence()
    if (level and not licence) or (level == "commercial" and commercial_use != "yes"):
        raise WeightsError(
            f"{what}: licence {licence or 'not stated'}, commercial use: {commercial_use}; SRPL_REQUIRE_LICENCE="
            f"{level} asks for {LICENCE_LEVELS[level]}. Use other weights, or unset SRPL_REQUIRE_LICENCE if you may "
            "use these."
        )


def _not_here(name: str, entry: WeightsEntry) -> str:
    """Message for an absent file where a download was not asked for."""
    if not entry.repo_id:
        return f"{name}: the bundled file {place(name, entry)} is missing; reinstall the package."
    return (
        f"{name}: the weights '{entry.tag}' are not on this machine, and weights='local' never downloads. "
        f"To download them once: srpl fetch {name} (YAML: weights: {entry.tag}). {_by_hand(name, entry)} "
        "weights: None means random weights, whose scores mean nothing."
    )


def _not_downloaded(name: str, entry: WeightsEntry, reason: str) -> str:
    """Message for an absent file whose download failed."""
    return f"{name}: the weights '{entry.tag}' could not be downloaded ({reason}). {_by_hand(name, entry)}"


def _by_hand(name: str, entry: WeightsEntry) -> str:
    """Address, size, licence and the manual way: the end of every message about absent weights."""
    return (
        f"Published at {entry.url} ({_megabytes(entry)}; SHA-256: {entry.sha256 or 'not published'}; licence: "
        f"{entry.licence or 'not stated'}; trained on: {entry.training_data or 'not stated'}). By hand: download it on "
        f"any machine, then run srpl convert {entry.filename} --critic {name}, which puts it at {place(name, entry)} "
        "(copy that file to a machine without network)."
    )


def _megabytes(entry: WeightsEntry) -> str:
    return f"{entry.bytes / 1e6:.0f} MB" if entry.bytes else "size not stated"
