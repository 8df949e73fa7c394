"""A training run of our BasicSR models, as the folder of the experiment holds it.

What the lines and files are is described where they are written, in ``integrations/basicsr/recording.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sr_perceptual_loss.errors import InputError

__all__ = ["Run", "read_run"]


@dataclass(frozen=True)
class Run:
    """One run, after all its interruptions."""

    name: str
    starts: list[dict[str, Any]]  # of each process that trained; ``start`` is the iteration it continued from
    curves: dict[str, dict[int, float | None]]  # name, such as losses/l_pix -> iteration -> value, in rising order
    events: list[dict[str, Any]]  # alarms of the guard, and what stopped the run
    last: int  # last iteration in the record
    written: float  # time of the last line, in seconds since 1970
    skipped: int  # lines that could not be read
    options: dict[str, str]  # name -> text of each option file
    images: dict[str, dict[str, tuple[Path, int]]]  # "<set>/<image>" -> kind -> file and iteration (-1: of none)

    @property
    def total(self) -> int:
        """Iterations that the run is to have; 0 if it is not known."""
        return int(self.starts[-1]["total"]) if self.starts else 0

    @property
    def state(self) -> str:
        """Whether it is complete, in words."""
        at = f"iteration {self.last}" + (f" of {self.total}" if self.total else "")
        if self.total and self.last >= self.total:
            return f"complete: {at}"
        stopped = any("stopped" in event for event in self.events)
        return f"{'stopped' if stopped else 'in progress or interrupted'}: {at}"


def read_run(folder: Path) -> Run:
    """Read a run; it may still be in progress.

    Raises:
        InputError: the folder has no record of a run.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise InputError(
            f"{folder}: no metrics.jsonl. Expected the folder of an experiment, such as experiments/NAME, of a run of "
            "one of our models (model_type: Perceptual...), which write this file from version 0.2.0 on."
        )
    starts: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    written, skipped = 0.0, 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(text) if text.strip() else {}
            written = row.get("time", written)
        except (ValueError, AttributeError):  # half a line, of a process that was killed or of a full disk
            skipped += 1
            continue
        if "start" in row:
            # A run that goes on from an older state repeats what came after it.
            starts.append(row)
            rows = [old for old in rows if old["iter"] <= row["start"]]
        elif "iter" in row:
            rows.append(row)
    curves: dict[str, dict[int, float | None]] = {}
    for row in rows:
        for name, value in row.get("values", {}).items():
            curves.setdefault(name, {})[row["iter"]] = value
    return Run(
        name=folder.resolve().name,
        starts=starts,
        curves={name: dict(sorted(curve.items())) for name, curve in curves.items()},
        events=[row for row in rows if "alarm" in row or "stopped" in row],
        last=max((row["iter"] for row in rows), default=0),
        written=written,
        skipped=skipped,
        options={file.name: file.read_text(errors="replace") for file in sorted(folder.glob("*.y*ml"))},
        images=_images(folder / "validation_images"),
    )


def _images(folder: Path) -> dict[str, dict[str, tuple[Path, int]]]:
    """The readable pictures; of a kind that is there twice, the newest."""
    images: dict[str, dict[str, tuple[Path, int]]] = {}
    for path in sorted(folder.glob("*/*/[a-z]*.png")):
        kind, _, iteration = path.stem.partition("_")
        number = int(iteration) if iteration.isdigit() else -1
        kinds = images.setdefault(f"{path.parent.parent.name}/{path.parent.name}", {})
        try:
            with Image.open(path) as image:
                image.verify()
        except (OSError, SyntaxError):
            continue
        if kind not in kinds or kinds[kind][1] < number:
            kinds[kind] = path, number
    return {name: kinds for name, kinds in images.items() if {"before", "now"} <= kinds.keys()}
