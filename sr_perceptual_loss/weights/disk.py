"""Files as bytes: what is this file, is it whole, what is its hash, and writing without half files.

Nothing here knows critics or the hub.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sr_perceptual_loss.errors import WeightsError

__all__ = [
    "SUFFIX",
    "atomic_path",
    "looks_like_html",
    "looks_like_safetensors",
    "safetensors_header",
    "sha256_of",
    "what_is",
]

SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".tar")
# A network of a thousand entries has a header of 150 kB; the safetensors library itself would accept 100 MB.
HEADER_CAP = 16 * 2**20


def what_is(path: Path) -> str:
    """Name what is wrong with a file that should be in our format, judged by its name and first bytes.

    Returns:
        What it is and the cure, or an empty text if it may well be a safetensors file.
    """
    if not path.exists():
        return "no such file. Give the path of an existing .safetensors file, or a tag (see: srpl list)."
    if path.is_dir():
        return "is a folder, expected a .safetensors file; give the path of the file inside it."
    size = path.stat().st_size
    if size == 0:
        return "is empty (0 bytes), probably an interrupted download or copy. Delete it and get it again."
    with path.open("rb") as file:
        head = file.read(512)
    if looks_like_html(head):
        return (
            "is a web page (HTML), not weights: the download saved an error or login page. Delete it and download "
            "the file itself (on the hub: the /resolve/ address, not /blob/)."
        )
    # Asked first, since the length field of a genuine header may begin with the very bytes of a pickle.
    pickled = not looks_like_safetensors(head, size) and (
        head.startswith((b"PK\x03\x04", b"\x1f\x8b")) or head[:1] == b"\x80"
    )
    if pickled or path.suffix.lower() in PICKLE_SUFFIXES:
        return (
            "is a PyTorch or pickle checkpoint, which may run code when opened; only .safetensors files are read. "
            f"Convert it once: srpl convert {path} --critic NAME"
        )
    if path.suffix != SUFFIX:
        return (
            f"has the suffix {path.suffix!r}, expected a {SUFFIX} file. Convert others: srpl convert FILE --critic NAME"
        )
    return ""


def looks_like_html(head: bytes) -> bool:
    """Whether a file begins as a web page does."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<script"))


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of ``size`` bytes begins with a header length and a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size


def safetensors_header(path: Path) -> dict[str, Any]:
    """Parse the header and check that the file is exactly as long as the header says.

    Raises:
        WeightsError: truncated, trailing bytes, oversized or unreadable header.
    """
    size = path.stat().st_size
    again = "Delete it and fetch or convert it again."
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or file.read(1) != b"{":
            raise WeightsError(f"{path}: not a safetensors file (its header does not start as one must). {again}")
        if length > HEADER_CAP:
            raise WeightsError(f"{path}: header of {length} bytes, at most {HEADER_CAP} expected: not ours. {again}")
        if length > size - 8:
            raise WeightsError(f"{path}: truncated: header of {length} bytes in a file of {size} bytes. {again}")
        raw = b"{" + file.read(length - 1)
    try:
        header = json.loads(raw)
        end = max((int(v["data_offsets"][1]) for k, v in header.items() if k != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError):
        raise WeightsError(f"{path}: damaged safetensors header (no JSON description of tensors). {again}") from None
    if 8 + length + end != size:
        fault = "truncated" if size < 8 + length + end else "trailing bytes"
        raise WeightsError(f"{path}: {fault}: got {size} bytes, its header describes {8 + length + end}. {again}")
    return header


_HASHES: dict[tuple[str, int, int, int], str] = {}


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file; computed once per process as long as time stamp, size and inode stay the same."""
    path = Path(path).resolve()
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)
    if key not in _HASHES:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        _HASHES[key] = digest.hexdigest()
    return _HASHES[key]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``: moved over it if the block succeeds, removed if it fails.

    Raises:
        WeightsError: the place cannot be written, or the disk is full.
    """
    # A link stays a link: the file that it points to is replaced.
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        # safetensors makes its files readable for their owner only; a store may be shared, so the umask decides.
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: cannot be written ({error}). Free some space, choose another path, or set SRPL_HOME to a folder "
            "that can be written."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
