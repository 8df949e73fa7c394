"""The folder of a run: ``config.yml``, ``history.jsonl`` and the states that it can continue from.

A state is a folder ``checkpoints/step_00000500``. It is written under another name and then renamed, so that the state
before it remains after an interruption at any moment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.training.config import TrainingConfig, parse_yaml
from sr_perceptual_loss.weights.file import atomic_path

__all__ = [
    "History",
    "Progress",
    "check_same_run",
    "newest_state",
    "read_progress",
    "remove_leftovers",
    "save_state",
    "write_config",
]

_STEP = re.compile(r"step_\d{8,}")
#: A state that was not finished, and the temporary files of `atomic_path`.
_UNFINISHED = re.compile(r"\.step_\d{8,}\.tmp|\.(best\.safetensors|config\.yml|history\.jsonl)\.\d+-[0-9a-f]{8}\.tmp")
#: Keys that may differ between a run and its continuation.
_MAY_DIFFER = ("workers", "device", "log_every", "checkpoint")


@dataclass
class Progress:
    """How far a training is."""

    epoch: int = 0  # the current one, from 0
    batch: int = 0  # batches of it that are done
    step: int = 0  # optimizer steps done
    best: float | None = None  # best validation value; None before the first one
    best_step: int = 0


def newest_state(out: Path) -> Path | None:
    """Folder of the newest complete state, or None."""
    states = [path for path in (out / "checkpoints").glob("step_*") if path.is_dir() and _STEP.fullmatch(path.name)]
    return max(states, key=lambda path: int(path.name[5:]), default=None)


def read_progress(state: Path) -> Progress:
    """Progress of the training when this state was written.

    Raises:
        InputError: the folder is no state of a training.
    """
    try:
        return Progress(**json.loads((state / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{state}: not a state of a training ({error}); delete it to continue from an older one."
        ) from None


def save_state(
    out: Path, progress: Progress, write: Callable[[Path], None], *, main: bool, wait: Callable[[], None]
) -> None:
    """Write a state and remove the older ones; called in every process.

    ``write`` writes the part of this process into a folder, ``wait`` is a barrier, the ``main`` process renames.
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
        (temporary / "progress.json").write_text(json.dumps(asdict(progress), indent=2), encoding="utf-8")
        _flush(temporary)
        if target.exists():  # from a run that was interrupted after it; the new one is equal
            shutil.rmtree(target)
        temporary.replace(target)
        for old in folder.iterdir():
            if old != target and _STEP.fullmatch(old.name):
                shutil.rmtree(old, ignore_errors=True)
        remove_leftovers(out)
    wait()


def remove_leftovers(out: Path) -> None:
    """Remove what a run left that was killed while it wrote; files of other names stay."""
    for path in (*out.glob(".*.tmp"), *(out / "checkpoints").glob(".*.tmp")):
        if _UNFINISHED.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _flush(folder: Path) -> None:
    """The rename must not reach the disk before the content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def write_config(config: TrainingConfig) -> None:
    """Keep the resolved configuration beside the results."""
    _replace(config.out / "config.yml", yaml.safe_dump(config.as_dict(), sort_keys=False))


def check_same_run(config: TrainingConfig) -> None:
    """Refuse to continue in the folder of another run.

    Raises:
        InputError: naming the first key that differs, or the file if it cannot be read.
    """
    path = config.out / "config.yml"
    if not path.exists():
        return
    before = parse_yaml(path)
    for key, value in config.as_dict().items():
        if key not in _MAY_DIFFER and before.get(key) != value:
            raise InputError(
                f"{config.out}: contains a run with another '{key}': {before.get(key)}, now {value}. Use another out, "
                "or the same values."
            )


def _replace(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class History:
    """Losses and validation values in a file, one JSON object per line; only the main process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut_back(self, step: int) -> None:
        """Remove what lies beyond a step, since it will be repeated, and a half-written last line."""
        entries = [entry for entry in self.entries() if entry["step"] <= step]
        _replace(self.path, "".join(json.dumps(entry) + "\n" for entry in entries))

    def add(self, step: int, values: dict[str, Any]) -> None:
        """Append one entry; it is on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[dict[str, Any]]:
        """All complete entries."""
        entries = []
        for line in self.path.read_text("utf-8", "replace").splitlines() if self.path.exists() else ():
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return [entry for entry in entries if isinstance(entry, dict) and "step" in entry]
