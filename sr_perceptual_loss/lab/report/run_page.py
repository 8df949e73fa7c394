"""The page of ``srpl report``: curves, alarms, images and settings of one training run, or of several side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sr_perceptual_loss.lab.report.page import COLOURS, chart, heat, line, picture, write_page
from sr_perceptual_loss.lab.report.run import Run

__all__ = ["write_run_report"]

#: Group of the names in the record -> heading; what has another group, or none, comes last.
HEADINGS = {
    "metrics": "Validation metrics",
    "losses": "Losses, weighted",
    "scores": "Scores of the critics on training batches (higher is better)",
    "guard": "Measures of the guard",
    "weights": "Factors of the schedules",
    "balance": "Gradient balance",
}
OTHER = "Other values"
#: A curve with more points is thinned; one with more than ``SMOOTH`` values of training gets a running mean.
MOST_POINTS, SMOOTH = 1500, 40


def write_run_report(path: Path, runs: Sequence[Run]) -> None:
    """Write the page; the file is replaced as a whole.

    Raises:
        WeightsError: the place cannot be written.
    """
    names = dict.fromkeys(name for run in runs for name in run.curves)
    sections: dict[str, list[dict[str, Any]]] = {heading: [] for heading in (*HEADINGS.values(), OTHER)}
    marks = sorted({event["iter"] for run in runs for event in run.events})
    for name in names:
        group, _, rest = name.partition("/")
        drawn = chart(rest or name, list(_traces(runs, name)), marks=marks, hovermode="x unified")
        sections[HEADINGS.get(group, OTHER)].append(drawn)
    write_page(
        path,
        "run.html",
        title=" and ".join(run.name for run in runs),
        runs=[
            {"run": run, "colour": COLOURS[i % len(COLOURS)], "images": _images(run)}
            | {"written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.written))}
            for i, run in enumerate(runs)
        ],
        several=len(runs) > 1,
        metrics=list(_first_and_last(runs)),
        sections={heading: charts for heading, charts in sections.items() if charts},
    )


def _traces(runs: Sequence[Run], name: str) -> Iterator[dict[str, Any]]:
    """The curve of each run. Many values of training are drawn pale, with their mean over a twentieth of the values."""
    most = max(len(run.curves.get(name, {})) for run in runs)
    noisy = name.startswith(("losses/", "scores/", "balance/")) and most > SMOOTH
    for number, run in enumerate(runs):
        curve, colour = run.curves.get(name, {}), COLOURS[number % len(COLOURS)]
        x, y, label = list(curve), list(curve.values()), run.name if len(runs) > 1 else ""
        step = math.ceil(len(y) / MOST_POINTS) or 1
        if not noisy:
            mode = "lines+markers" if most <= SMOOTH else "lines"
            yield line(x[::step], y[::step], colour, label, mode=mode, marker={"size": 5})
            continue
        values = np.array([math.nan if v is None else v for v in y])
        half = max(2, len(y) // 40)
        windows = (values[max(0, i - half) : i + half + 1] for i in range(0, len(y), step))
        means = [float(np.mean(w[np.isfinite(w)])) if np.isfinite(w).any() else None for w in windows]
        yield line(x[::step], y[::step], colour, label, opacity=0.3)
        yield line(x[::step], means, colour, f"{label} mean".strip(), hoverinfo="skip")


def _first_and_last(runs: Sequence[Run]) -> Iterator[tuple[str, Run, tuple[int, float], tuple[int, float]]]:
    """(metric, run, first and last (iteration, value)) of each validation metric."""
    for name in dict.fromkeys(name for run in runs for name in run.curves if name.startswith("metrics/")):
        for run in runs:
            if points := [(i, value) for i, value in run.curves.get(name, {}).items() if value is not None]:
                yield name.partition("/")[2], run, points[0], points[-1]


def _images(run: Run) -> list[dict[str, Any]]:
    """What the template shows of each validation image."""
    shown = []
    for name, kinds in run.images.items():
        files = {kind: {"src": picture(path), "iteration": i} for kind, (path, i) in kinds.items() if kind != "map"}
        if "map" in kinds:
            with Image.open(kinds["map"][0]) as image:
                about = {"critic": image.info.get("critic", "?"), "top": image.info.get("top", "?")}
                files["map"] = {"src": picture(heat(np.array(image.convert("L")) / 255)), **about}
        with Image.open(kinds["now"][0]) as image:
            size = image.size
        shown.append({"name": name, "size": size, **files})
    return shown
