"""What this machine has fetched, and the lock that lets one process at a time fetch.

``weights.lock.json`` pins each published file to the commit and SHA-256 of its first use, because some authors publish
no hash: another file under the same name is then refused instead of silently taken.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from filelock import FileLock, Timeout

from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights.disk import atomic_path

__all__ = ["PINS", "Pin", "exclusive", "read_pin", "write_pin"]

logger = logging.getLogger("sr_perceptual_loss")

PINS = "weights.lock.json"


@dataclass(frozen=True)
class Pin:
    """One published file as it was at first use.

    Attributes:
        repo: Hugging Face repository.
        filename: file in it.
        revision: commit; empty if a person downloaded it.
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


def read_pin(home: Path, key: str) -> Pin | None:
    """The pin of ``key`` (critic-tag), or None.

    Raises:
        WeightsError: the lock file is damaged.
    """
    record = _read(home / PINS).get(key)
    if record is None:
        return None
    names = {field.name for field in fields(Pin)}
    if not isinstance(record, dict) or not names <= record.keys():
        raise WeightsError(
            f"{home / PINS}: the entry '{key}' is damaged, expected an object with {', '.join(sorted(names))}. "
            "Remove that entry; the next fetch pins the file anew."
        )
    return Pin(**{name: record[name] for name in names})


def write_pin(home: Path, key: str, pin: Pin) -> None:
    """Add or replace one pin; call it inside :func:`exclusive`."""
    pins = _read(home / PINS)
    pins[key] = asdict(pin)
    with atomic_path(home / PINS) as temporary:
        temporary.write_text(
            json.dumps({"format": 1, "weights": pins}, indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )


@contextlib.contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Hold the store: of several processes one fetches and the others wait for it.

    Raises:
        WeightsError: the store cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(home / ".weights.lock"))
        try:
            lock.acquire(timeout=1)
        except Timeout:
            logger.info("waiting for another process that is fetching weights into %s", home)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise WeightsError(
            f"{home}: the weights store cannot be written or locked ({error}). Set SRPL_HOME to a folder that can be "
            "written, or give weights as the path of a .safetensors file."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pins = content["weights"]
        if not isinstance(pins, dict):
            raise TypeError("'weights' is no object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path}: unreadable ({error}). It records which published files this machine trusts: mend it, or delete "
            "it to trust the next downloads anew."
        ) from None
    return dict(pins)
