"""What our losses and the guard know, beside BasicSR's checkpoints: ``srpl_states/<iteration>.srpl.state``.

BasicSR writes its own files under their final names, so a kill may leave half of one; :func:`newest_state` passes over
it.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sr_perceptual_loss.errors import WeightsError

__all__ = ["newest_state", "read_side_state", "read_state", "save_side_state", "side_file"]

VERSION = 2
logger = logging.getLogger("sr_perceptual_loss")


def side_file(training_states: Path, iteration: int) -> Path:
    """Not in ``training_states/``, where ``--auto_resume`` takes every name that ends in "state" for a number."""
    return training_states.parent / "srpl_states" / f"{iteration}.srpl.state"


def save_side_state(state: Mapping[str, Any], path: Path) -> None:
    """Write the file atomically: it is complete, or it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("[0-9]*.srpl.state.[0-9]*.part"):  # of a process that was killed
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


def read_state(path: Path, opt: Mapping[str, Any]) -> dict[str, Any]:
    """BasicSR's ``<iteration>.state``; networks of the same iteration in torch's format must be whole.

    Raises:
        WeightsError: one of these files cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        names = [f"net_{key.removeprefix('network_')}_{state['iter']}.pth" for key in opt if key[:8] == "network_"]
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(f"{path} cannot be read: {type(error).__name__}: {str(error).partition('. ')[0]}.") from None
    for file in filter(Path.is_file, (Path(opt["path"].get("models", path.parent)) / name for name in names)):
        with file.open("rb") as content:
            start = content.read(2)
        if start == b"" or (start == b"PK" and not zipfile.is_zipfile(file)):
            raise WeightsError(f"{file}, the network that belongs to {path}, is incomplete.")
    return state


def newest_state(folder: Path, opt: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """The newest state that can be read, and its content; None where there is none. Nothing is deleted.

    Names that are hidden or no numbers are passed over, and so is, with a warning, a file that cannot be read.

    Raises:
        WeightsError: there are states, and none can be read.
    """
    states = [path for path in folder.glob("[!.]*.state") if path.stem.replace(".", "", 1).isdigit()]
    problems = []
    for path in sorted(states, key=lambda path: float(path.stem), reverse=True):
        try:
            return path, read_state(path, opt)
        except WeightsError as error:
            problems.append(str(error))
            logger.warning("--auto_resume passes over a checkpoint: %s", error)
    if problems:
        raise WeightsError(f"{problems[0]} No older state can be read either; start anew without --auto_resume.")
    return None
