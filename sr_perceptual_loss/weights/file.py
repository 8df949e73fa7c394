"""The weights file of this package: one safetensors file per critic, described by its header.

Nothing is ever unpickled. A file is written under a temporary name and moved into place, so it is never incomplete.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sr_perceptual_loss import __version__
from sr_perceptual_loss.checks import as_path, on_disk
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights.manifest import COMMERCIAL_USE
from sr_perceptual_loss.weights.matching import Storable, Suggest, load_state, refuse_non_finite, stored_entries

__all__ = ["WeightsFile", "atomic_path", "existing_file", "load_weights", "read", "save", "sha256_of"]

SUFFIX = ".safetensors"
FORMAT = "1"
#: How texts begin that are saved in place of weights -> what they are, and the cure.
_TEXTS = {
    (b"<!doctype", b"<html", b"<head", b"<?xml", b"<script"): "a web page (HTML), an error or login page that was "
    "saved instead of the file. Download the file itself (on the hub: the /resolve/ address, not /blob/).",
    (b"version https://git-lfs",): "a pointer of Git LFS, not the file that it stands for. Get it: git lfs pull",
    (b"{",): "JSON text, such as the index of a checkpoint in several files; expected one file with all weights. Join "
    "its parts with safetensors.torch: save_file({k: v for part in PARTS for k, v in load_file(part).items()}, FILE).",
}


@dataclass(frozen=True)
class WeightsFile:
    """A weights file in memory."""

    path: Path
    critic: str  # its name
    config: dict[str, Any]  # its constructor's arguments
    state: dict[str, Tensor]  # its state dict, without aliases
    metadata: dict[str, str]  # the whole header, with keys ``srpl.*``
    sha256: str  # of the file


def read(path: str | Path) -> WeightsFile:
    """Read a ``.safetensors`` file written by :func:`save`.

    Args:
        path: the file; ``~`` is expanded.

    Returns:
        Its content; not checked against a network.

    Raises:
        WeightsError: not found, not of this package, damaged, or a format that could run code when opened.
    """
    path = existing_file(path)
    first_bytes(path)
    if path.suffix != SUFFIX:
        raise WeightsError(
            f"{path}: got the suffix {path.suffix!r}, expected {SUFFIX}, since pickles such as .pth may run code when "
            f"opened. Convert it once: srpl convert {path} --critic NAME"
        )
    metadata, state = unpack(path)
    if "srpl.format" not in metadata or "srpl.critic" not in metadata:
        raise WeightsError(
            f"{path}: a safetensors file, but not one of this package: 'srpl.format' or 'srpl.critic' is not in its "
            f"header (entries: {', '.join([*state][:5]) or 'none'}). To use it: srpl convert {path} --critic NAME"
        )
    if metadata["srpl.format"] != FORMAT:
        raise WeightsError(
            f"{path}: written in format {metadata['srpl.format']!r} by sr_perceptual_loss "
            f"{metadata.get('srpl.version', '?')}; this version ({__version__}) reads format {FORMAT!r}: upgrade it."
        )
    config = _parse_config(path, metadata.get("srpl.config", "{}"))
    return WeightsFile(path, metadata["srpl.critic"], config, state, metadata, sha256_of(path))


def unpack(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of any safetensors file; raises an error if it is truncated, padded or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if "UTF-8" in str(error):
            raise WeightsError(f"{path}: safetensors opens only names in UTF-8: rename it and its folders.") from None
        raise WeightsError(
            f"{path}: is not a whole safetensors file ({error}): truncated, damaged, or another format under this "
            "name. If torch.save wrote it, rename it to .pth and convert it; else get it again."
        ) from None


def existing_file(value: str | Path) -> Path:
    """The path of an existing file; a name with composed accents is also found if the disk has it decomposed.

    Raises:
        WeightsError: no such file, or a folder, a pipe, a device or a broken link.
    """
    path = as_path(value)
    with contextlib.suppress(OSError, ValueError):  # no access, or a text that no file name can be
        if path.is_file() or (path := on_disk(path)).is_file():
            return path
    raise WeightsError(f"{path}: {_absence(path)}. Give the path of an existing file, or a tag (see: srpl list).")


def _absence(path: Path) -> str:
    """Why a path is not that of a file."""
    try:
        if path.is_dir():
            return "is a folder"
        if path.exists():
            return "is a pipe or a device"
        if path.is_symlink():
            return f"no such file: a link to {path.readlink()}, which does not exist"
        close = difflib.get_close_matches(path.name, (entry.name for entry in path.absolute().parent.iterdir()), n=1)
        hint = f"; beside it there is {close[0]!r}" if close else ""
        hint += "; '\\' is a part of names here, write '/' between folders" if "\\" in path.name else ""
        return f"no such file (in {path.absolute().parent}{hint})"
    except FileNotFoundError:
        return "no such file (its folder does not exist)"
    except (OSError, ValueError) as error:
        return f"no such file ({error})"


def first_bytes(path: Path) -> bytes:
    """First bytes of a file that may hold weights; raises an error if it is no file, empty, or known to be a text."""
    try:
        with existing_file(path).open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}). Check its permissions (chmod).") from None
    if not head:
        raise WeightsError(f"{path}: is empty (0 bytes), probably an interrupted download or copy. Get it again.")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for starts, what in _TEXTS.items():
        if start.startswith(starts) and b"\0" not in head:  # files of tensors have zeros in their first bytes
            raise WeightsError(f"{path}: is {what}")
    return head


def save(
    critic: Storable,
    path: str | Path,
    *,
    training: str = "",
    training_data: str = "",
    licence: str = "",
    commercial_use: bool | None = None,
    origin: str = "",
    source_sha256: str = "",
) -> str:
    """Write a critic's weights as one self-contained file; an existing file is replaced in one step.

    Args:
        critic: the critic; aliases are left out, since reading restores them.
        path: file to write, ``.safetensors``; missing folders are created.
        training: summary of how the weights were trained.
        training_data: what they were trained on.
        licence: licence of the weights.
        commercial_use: True, False, or None where it is not stated.
        origin: who made them, in one sentence.
        source_sha256: SHA-256 of the checkpoint they were converted from.

    Returns:
        SHA-256 of the written file.

    Raises:
        WeightsError: NaN or infinity in the weights, or the file cannot be written.
        InputError: another suffix, or constructor arguments that JSON cannot store.
    """
    path = as_path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: got the suffix {path.suffix!r}, expected a file name that ends in {SUFFIX}.")
    if os.fsencode(path) != os.fsencode(path).decode("utf-8", "replace").encode():
        raise WeightsError(f"{path}: safetensors opens only names in UTF-8; name another file (--out FILE).")
    metadata = {
        "srpl.format": FORMAT,
        "srpl.critic": critic.card.name,
        "srpl.config": _config_text(critic),
        "srpl.version": __version__,
        "srpl.training": training,
        "srpl.training_data": training_data,
        "srpl.licence": licence,
        "srpl.commercial_use": COMMERCIAL_USE[commercial_use],
        "srpl.origin": origin,
        "srpl.source_sha256": source_sha256,
    }
    state = stored_entries(critic)
    refuse_non_finite(state, f"{critic.card.name} (not saved)")
    # Cloned, since safetensors refuses tensors that share their storage.
    state = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    # A file name may have bytes that no text can hold, such as those of another encoding.
    metadata = {key: value.encode("utf-8", "backslashreplace").decode() for key, value in metadata.items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata=metadata)
    return sha256_of(path)


def load_weights(critic: Storable, path: str | Path, *, suggest: Suggest | None = None) -> WeightsFile:
    """Fill a critic with the weights of a file; every entry must fit.

    Args:
        critic: its weights are overwritten.
        path: ``.safetensors`` file written by ``save_weights`` or ``srpl convert``.
        suggest: names the critic that a set of keys looks like, for the error message.

    Returns:
        The content of the file.

    Raises:
        WeightsError: damaged, of another critic, or of the same critic with other constructor arguments.
    """
    file = read(path)
    name = critic.card.name
    if file.critic != name:
        raise WeightsError(f"{file.path} holds weights of the critic '{file.critic}', not '{name}'.")
    config = _parse_config(file.path, _config_text(critic))
    keys = sorted(key for key in {*file.config, *config} if file.config.get(key) != config.get(key))
    if keys:
        saved, built = (", ".join(f"{key}={c.get(key)!r}" for key in keys) for c in (file.config, config))
        raise WeightsError(
            f"{file.path}: saved with {saved}; this critic was built with {built}. Build it from the file instead: "
            f"create_critic('{name}', weights='{file.path}')."
        )
    load_state(critic, file.state, source=str(file.path), suggest=suggest)
    return file


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file; computed again in a process only if its time stamp, size or inode changes."""
    path = Path(path).resolve()
    stat = path.stat()
    return _sha256(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@functools.lru_cache
def _sha256(path: Path, *_: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``: moved over it if the block succeeds, removed if it fails (WeightsError)."""
    path = path.resolve()  # a link stays a link; the file that it points to is replaced
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path}: cannot be written: it is a folder, a pipe or a device. Name a file.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        # safetensors makes files that only their owner can read. A store may be shared, so the umask decides.
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


def _config_text(critic: Storable) -> str:
    try:
        return json.dumps(critic.config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{critic.card.name}: its constructor arguments cannot be stored ({error}); "
            "they must be plain numbers, strings, booleans, lists and tuples."
        ) from None


def _parse_config(path: Path, text: str) -> dict[str, Any]:
    """Constructor arguments from JSON; lists become tuples again."""
    try:
        config = json.loads(text)
        return {key: _tuples(value) for key, value in config.items()}
    except (ValueError, RecursionError, AttributeError) as error:
        raise WeightsError(
            f"{path}: 'srpl.config' in its header is not a JSON object ({error}). Convert or save it again."
        ) from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
