"""What our losses and the guard know, beside BasicSR's checkpoints: ``srpl_states/<iteration>.srpl.state``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sr_perceptual_loss.errors import WeightsError

__all__ = ["read_side_state", "save_side_state", "side_file"]

VERSION = 2


def side_file(training_states: Path, iteration: int) -> Path:
    """Not in ``training_states/``, where ``--auto_resume`` takes every name that ends in "state" for a number."""
    return training_states.parent / "srpl_states" / f"{iteration}.srpl.state"


def save_side_state(state: Mapping[str, Any], path: Path) -> None:
    """Write the file atomically: it is complete, or it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("*.part"):  # of a process that was killed
        left.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    torch.save({"version": VERSION, **state}, part)
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # the content reaches the disk before the name does
    part.replace(path)


def read_side_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what :func:`save_side_state` wrote.

    Raises:
        WeightsError: the file is damaged, or of another version of this package.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        problem = "" if state.get("version") == VERSION else "it is of another version of this package"
    except Exception as error:  # a damaged file may raise anything
        problem = f"it is damaged: {type(error).__name__}"
    if problem:
        raise WeightsError(
            f"{path}: {problem}. Delete it to go on with a guard and a balancer that start anew, or resume from an "
            "older iteration."
        )
    return state
