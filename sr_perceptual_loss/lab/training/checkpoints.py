"""The full state of a training on disk: complete or not there at all, the newest one wins.

A state is a folder ``checkpoints/step_00000500``, written under another name and then renamed, so that an interruption
at any moment leaves the one before.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sr_perceptual_loss.errors import InputError

__all__ = ["Progress", "newest", "read_progress", "save_atomically"]

_STEP = re.compile(r"step_(\d{8,})")
_PROGRESS = "progress.json"


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        epoch: current epoch, from 0.
        batch: batches of it that are done.
        step: optimizer steps done.
        best: best validation value so far; None before the first one.
        best_step: step of it.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_step: int = 0


def newest(out: Path) -> Path | None:
    """Folder of the newest complete state, or None."""
    folder = out / "checkpoints"
    found = [p for p in folder.iterdir() if p.is_dir() and _STEP.fullmatch(p.name)] if folder.is_dir() else []
    return max(found, key=lambda p: int(p.name[5:]), default=None)


def read_progress(folder: Path) -> Progress:
    """Where the training stood when this state was written.

    Raises:
        InputError: the folder is not one of ours.
    """
    try:
        return Progress(**json.loads((folder / _PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder}: not a state of a training ({error}); delete it to go on from an older one."
        ) from None


def save_atomically(
    out: Path, progress: Progress, write: Callable[[Path], None], *, main: bool, wait: Callable[[], None]
) -> Path:
    """Write a state and remove the older ones.

    Args:
        out: folder of the run.
        progress: stored beside the state.
        write: writes the state of this process into a folder; called in every process.
        main: True in the process that renames and removes.
        wait: barrier of all processes.

    Returns:
        The folder.
    """
    folder = out / "checkpoints"
    target = folder / f"step_{progress.step:08d}"
    temporary = folder / f".{target.name}.tmp"
    if main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    wait()
    write(temporary)
    wait()
    if main:
        (temporary / _PROGRESS).write_text(json.dumps(asdict(progress), indent=2), encoding="utf-8")
        _flush(temporary)
        if target.exists():  # left by a run that was interrupted after it; the new one is as complete
            shutil.rmtree(target)
        temporary.replace(target)
        for old in folder.iterdir():
            if old != target and (_STEP.fullmatch(old.name) or old.name.endswith(".tmp")):
                shutil.rmtree(old, ignore_errors=True)
    wait()
    return target


def _flush(folder: Path) -> None:
    """The rename must not reach the disk before the content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
