"""Files of a BasicSR run that are whole or not there, whenever the process dies.

BasicSR writes a checkpoint under its final name, so that a kill leaves half of one, which ``--auto_resume`` would take.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from basicsr.utils import get_root_logger

from sr_perceptual_loss.errors import WeightsError

__all__ = ["read_side_state", "save_side_state", "side_file", "whole_files"]

#: Beside BasicSR's folder and not in it: --auto_resume takes every name there that ends in "state" for a number.
STATE_FOLDER = "srpl_states"
#: Below the folder that is written to, hence on its disk; BasicSR passes over hidden names.
PART = ".part"


class HasOptions(Protocol):
    """The part of a BasicSR model that is needed here."""

    opt: dict[str, Any]


@contextlib.contextmanager
def whole_files(model: HasOptions, kind: str) -> Iterator[None]:
    """What BasicSR writes inside the block gets its name when it is complete, and replaces an older file in one step.

    Args:
        model: its option tree names another folder inside the block.
        kind: key of ``path`` that BasicSR writes to: ``models`` or ``training_states``.
    """
    given = model.opt
    if given.get("rank", 0) != 0:  # BasicSR writes on the first rank only
        yield
        return
    folder = Path(given["path"][kind])
    part = folder / PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model.opt = {**given, "path": {**given["path"], kind: str(part)}}
    try:
        yield
    finally:
        model.opt = given
    for file in sorted(part.iterdir()):
        # BasicSR goes on after errors in writing, and leaves what it had written.
        if zipfile.is_zipfile(file):
            _publish(file, folder / file.name)
        else:
            get_root_logger().error(f"{folder / file.name} could not be written; an older one stays. Free some space.")
    shutil.rmtree(part, ignore_errors=True)


def side_file(training_states: Path, iteration: int) -> Path:
    """Where the state of our losses lies that belongs to ``training_states/<iteration>.state``."""
    return training_states.parent / STATE_FOLDER / f"{iteration}.srpl.state"


def save_side_state(state: Mapping[str, Any], path: Path) -> None:
    """Write the state of our losses: all of the file or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob("*.part"):  # of a process that was killed
        left.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    torch.save(state, part)
    _publish(part, path)


def read_side_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what :func:`save_side_state` wrote.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        complete = {"losses", "guard"} <= state.keys()
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(_damaged(path, f"{type(error).__name__}")) from None
    if not complete:
        raise WeightsError(_damaged(path, "entries are missing"))
    return state


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path}: no state of our losses can be read from it ({why}). Delete it to go on with a guard and a balancer "
        "that start anew, or resume from an older iteration."
    )


def _publish(part: Path, path: Path) -> None:
    """The content reaches the disk before the name does."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
