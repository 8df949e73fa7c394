"""One run at a time on a results file that is continued: two would write each other's rows over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sr_perceptual_loss.checks import as_path
from sr_perceptual_loss.errors import InputError

__all__ = ["claimed"]


@contextlib.contextmanager
def claimed(path: Path | None) -> Iterator[None]:
    """Hold a results file while the block runs; the end of the process frees it, whatever ended it.

    Args:
        path: the file, which need not exist; None holds nothing. Beside it lies a hidden ``.NAME.lock``.

    Raises:
        InputError: another run holds it, or the place cannot be written.
    """
    if path is None:
        yield
        return
    path = as_path(path).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(path.with_name(f".{path.name}.lock")))
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"--out {path}: another run is writing this file. Wait for it (this one then takes over its rows), or give "
            "another --out."
        ) from None
    except (OSError, NotImplementedError) as error:
        raise InputError(f"--out {path}: cannot be written ({error}); choose another path.") from None
    try:
        yield
    finally:
        lock.release()
