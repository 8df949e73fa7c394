"""The full state of a run on disk, and whether a folder belongs to the run that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from sr_perceptual_loss._checks import InputError
from sr_perceptual_loss.training.checkpoints import Progress, read_progress, save_atomically
from sr_perceptual_loss.training.lite.settings import LiteConfig

__all__ = ["check_same_lite_run", "read_state", "write_lite_config", "write_state"]

#: Keys that may differ between a run and its continuation.
_FREE = ("workers", "device", "log_every", "checkpoint", "minutes")
_FILE = "state.pt"


def write_state(out: Path, step: int, content: dict[str, Any]) -> None:
    """Write a state atomically and remove older ones; tensors, numbers, lists and dicts only."""

    def write(folder: Path) -> None:
        torch.save(content, folder / _FILE)

    save_atomically(out, Progress(step=step), write, main=True, wait=lambda: None)


def read_state(folder: Path) -> tuple[int, dict[str, Any]]:
    """Step and content of a state, on the CPU; what loads it moves it.

    Raises:
        InputError: not a state of this training.
    """
    progress = read_progress(folder)
    try:
        content = torch.load(folder / _FILE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(
            f"{folder}: damaged state ({str(error).splitlines()[0]}); delete it and start again."
        ) from None
    return progress.step, content


def write_lite_config(config: LiteConfig) -> None:
    """Keep the resolved configuration beside the results."""
    temporary = config.out / ".config.yml.tmp"
    temporary.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False), encoding="utf-8")
    temporary.replace(config.out / "config.yml")


def check_same_lite_run(config: LiteConfig) -> None:
    """Refuse to go on in the folder of another run.

    Raises:
        InputError: naming the first key that differs.
    """
    path = config.out / "config.yml"
    if not path.exists():
        return
    before, now = yaml.safe_load(path.read_text(encoding="utf-8")), config.as_dict()
    for key, value in now.items():
        if key not in _FREE and isinstance(before, dict) and before.get(key) != value:
            raise InputError(
                f"{config.out}: holds a run with another '{key}': {before.get(key)}, now {value}. Choose another out, "
                "or the same values."
            )
