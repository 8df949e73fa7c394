"""Where weights are on this machine, and what is known about their origin."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from sr_perceptual_loss.checks import as_path
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights.file import SUFFIX, atomic_path
from sr_perceptual_loss.weights.manifest import WeightsEntry

__all__ = ["Pin", "compare", "home", "known_hash", "on_this_machine", "origin", "pin_of", "place", "write_pin"]

PINS = "weights.lock.json"
#: Origin of a file whose source was compared with no published hash.
BY_USER = "given by the user, not compared with a published hash"


def home() -> Path:
    """Folder of the store: ``$SRPL_HOME``, or ``sr_perceptual_loss`` in the user's cache; read at every call.

    A relative folder is one of the working directory at its first use in the process.

    Raises:
        WeightsError: it is a file, or the user has no home directory.
    """
    folder, cache = os.environ.get("SRPL_HOME", "").strip(), os.environ.get("XDG_CACHE_HOME", "")
    folder = folder or f"{cache if Path(cache).is_absolute() else '~/.cache'}/sr_perceptual_loss"
    try:
        path = _absolute(as_path(folder))
    except (InputError, FileNotFoundError):  # no home directory, no working directory
        raise WeightsError(
            f"{folder}: this folder for weights is unknown here; set SRPL_HOME to the absolute path of another one."
        ) from None
    if _is_file(path):
        raise WeightsError(f"{path}: is a file, but SRPL_HOME names the folder for weights; give another name.")
    return path


@functools.lru_cache
def _absolute(folder: Path) -> Path:
    return folder.absolute()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be looked up ({error.strerror}); change its permissions, or set SRPL_HOME to another one."
        ) from None


def place(name: str, entry: WeightsEntry) -> Path:
    """Path of the converted or bundled file of an entry, whether it exists or not."""
    if entry.bundled:
        return Path(str(resources.files("sr_perceptual_loss"))) / entry.filename
    return home() / "weights" / f"{name}-{entry.tag}{SUFFIX}"


def on_this_machine(name: str, entry: WeightsEntry) -> bool:
    """Whether the converted file of an entry exists; it is not read."""
    return _is_file(place(name, entry))


@dataclass(frozen=True)
class Pin:
    """One published file as it was at its first download; an entry of ``weights.lock.json``."""

    repo: str
    filename: str
    revision: str  # commit; empty if it was downloaded by hand
    sha256: str  # of the published file, like `bytes`
    bytes: int
    time: str  # of the conversion, ISO 8601 in UTC
    file: str  # name of our converted file
    file_sha256: str


def _pins() -> dict[str, Pin]:
    path = home() / PINS
    try:
        return {key: Pin(**record) for key, record in json.loads(path.read_bytes())["weights"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: damaged ({type(error).__name__}: {error}). It records which published files this machine trusts: "
            "repair it, or delete it to trust the next downloads."
        ) from None


def pin_of(name: str, entry: WeightsEntry) -> Pin | None:
    """The record of a published file; None if there is none."""
    return _pins().get(place(name, entry).stem)


def write_pin(name: str, entry: WeightsEntry, pin: Pin) -> None:
    """Add or replace a record."""
    pins = {key: asdict(value) for key, value in {**_pins(), place(name, entry).stem: pin}.items()}
    with atomic_path(home() / PINS) as temporary:
        temporary.write_text(json.dumps({"format": 1, "weights": pins}, indent=2, sort_keys=True) + "\n", "utf-8")


def compare(name: str, entry: WeightsEntry, sha256: str, what: str, pin: Pin | None) -> None:
    """Raise an error if the hash of a published file is not the one of the manifest or of the pin."""
    start = f"{name}: {what} has SHA-256 {sha256}, but this"
    end = "It is another file under the same name and was not used. If"
    if entry.sha256 and sha256 != entry.sha256:
        raise WeightsError(
            f"{start} version of the package pins {entry.sha256}. {end} its authors published a new one, upgrade the "
            f"package, or convert it to another path: srpl convert FILE --critic {name} --out MINE{SUFFIX}"
        )
    if pin and sha256 != pin.sha256:
        file = place(name, entry)
        raise WeightsError(
            f"{start} machine pinned {pin.sha256} at first use ({pin.time}). {end} you trust the new one, remove the "
            f"entry '{file.stem}' from {home() / PINS}, delete {file} and try again."
        )


def known_hash(name: str, entry: WeightsEntry) -> str:
    """SHA-256 of a published file: that of the manifest, or of the download by this machine; empty if unknown."""
    pin = pin_of(name, entry)
    return entry.sha256 or (pin.sha256 if pin and pin.revision else "")


def origin(name: str, entry: WeightsEntry) -> str:
    """What is known about the origin of the file of an entry on this machine, as a sentence."""
    if entry.bundled:
        return "part of the package"
    pin = pin_of(name, entry)
    known = pin is not None and pin.sha256 == known_hash(name, entry)
    return "converted from the published file (same SHA-256)" if known else BY_USER
