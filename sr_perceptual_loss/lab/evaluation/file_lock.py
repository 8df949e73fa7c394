"""One run at a time per results file: two runs would overwrite each other's rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sr_perceptual_loss.checks import as_path
from sr_perceptual_loss.errors import InputError

__all__ = ["file_lock"]


@contextlib.contextmanager
def file_lock(path: Path | None) -> Iterator[None]:
    """Lock a results file (None: nothing) while the block runs, with a hidden file ``.NAME.lock`` beside it.

    The operating system frees the lock when the process ends.

    Raises:
        InputError: another run has locked it, or the folder cannot be written.
    """
    if path is None:
        yield
        return
    path = as_path(path).absolute()
    lock = FileLock(str(path.with_name(f".{path.name}.lock")))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"--out {path}: another run is writing this file. Wait until it ends (its rows are then used again), or "
            "choose another --out."
        ) from None
    except (OSError, NotImplementedError) as error:
        raise InputError(f"--out {path}: cannot be written ({error}); choose another path.") from None
    try:
        yield
    finally:
        lock.release()
