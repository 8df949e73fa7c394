"""The page of ``srpl evaluate``: how well one critic, or several side by side, agree with people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sr_perceptual_loss.lab.data.images import read_pixels
from sr_perceptual_loss.lab.evaluation.agreement import Evaluation
from sr_perceptual_loss.lab.evaluation.comparison import differences
from sr_perceptual_loss.lab.evaluation.correlation import indices_by_content
from sr_perceptual_loss.lab.evaluation.disagreements import Disagreement, largest_disagreements
from sr_perceptual_loss.lab.report.page import COLOURS, chart, heat, line, picture, write_page

__all__ = ["write_evaluation_report"]

#: Larger images are reduced to this longer side; the report notes it below each of them.
LONGEST_SIDE = 384
#: More would make the page slow.
MOST_DOTS = 4000


def write_evaluation_report(
    path: Path,
    evaluations: Mapping[str, Evaluation],
    settings: Mapping[str, Mapping[str, object]],
    *,
    worst: int = 8,
    warning: str = "",
) -> None:
    """Write the HTML page; the file is replaced as a whole.

    ``evaluations`` are those of one label set, and ``settings`` plain values, both by name of the critic. ``worst``
    disagreements of each critic are shown as images. The ``warning`` is at the top of the page.

    Raises:
        InputError: an image that cannot be read.
        WeightsError: the place cannot be written.
    """
    labels = next(iter(evaluations.values())).labels
    write_page(
        path,
        "evaluation.html",
        title=f"{', '.join(evaluations)} on {labels.name}",
        warning=warning,
        notes=dict.fromkeys(note for evaluation in evaluations.values() for note in evaluation.notes),
        names=list(evaluations),
        rows=_rows(evaluations),
        differences=differences(evaluations),
        charts=list(_charts(evaluations)),
        rated=bool(labels.rated),
        cases={
            name: [_case(case) for case in largest_disagreements(labels, evaluation.predictions, worst)]
            for name, evaluation in evaluations.items()
        },
        settings=_settings(settings),
    )


def _settings(settings: Mapping[str, Mapping[str, object]]) -> dict[str, list[object]]:
    """Key -> the value of each critic, or one value if they are equal."""
    table = {key: [own.get(key, "-") for own in settings.values()] for own in settings.values() for key in own}
    return {key: values[:1] if all(value == values[0] for value in values) else values for key, values in table.items()}


def _rows(evaluations: Mapping[str, Evaluation]) -> dict[str, dict[str, Any]]:
    """Number -> its meaning, and the row of each critic that has it."""
    rows: dict[str, dict[str, Any]] = {}
    for name, evaluation in evaluations.items():
        for row in evaluation.rows:
            rows.setdefault(row.name, {"meaning": row.meaning, "cells": {}})["cells"][name] = row
    return rows


def _charts(evaluations: Mapping[str, Evaluation]) -> Iterator[dict[str, Any]]:
    """Opinions against the scores of each critic, and the correlations of the references."""
    for name, evaluation in evaluations.items():
        if evaluation.labels.rated:
            yield _scatter(name, evaluation)
    values = {name: list(e.content_srcc.values()) for name, e in evaluations.items() if e.content_srcc}
    if values:
        box = {"type": "box", "orientation": "h", "boxpoints": "all", "jitter": 0.4}
        traces = [
            {**box, "x": v, "name": f"{name}, mean {np.mean(v):.3f}", "marker": {"color": COLOURS[i % len(COLOURS)]}}
            for i, (name, v) in enumerate(values.items())
        ]
        yield chart("Spearman's correlation of each reference", traces, height=420)


def _scatter(name: str, evaluation: Evaluation) -> dict[str, Any]:
    """One dot per image, coloured by distortion, with the fitted curve."""
    rated = evaluation.labels.rated
    x = np.array([evaluation.predictions[r.dist, r.ref] for r in rated])
    y = np.array([r.score for r in rated])
    axes = ["score of the critic", "opinion score"]
    if not evaluation.labels.comparable_across_contents:
        for index in indices_by_content([r.content for r in rated]).values():
            x[index] -= x[index].mean()
            y[index] -= y[index].mean()
        axes = [f"{text} minus the mean of the reference" for text in axes]
    kinds = np.array([r.distortion for r in rated], dtype=str)
    present, counts = np.unique(kinds, return_counts=True)
    frequent = sorted(present[np.argsort(-counts, kind="stable")][: len(COLOURS)])  # the others are grey
    groups = [(kind or "all images", kinds == kind, COLOURS[i]) for i, kind in enumerate(frequent)]
    if len(present) > len(frequent):
        groups.insert(0, (f"{len(present) - len(frequent)} others", ~np.isin(kinds, frequent), "#b8bcc4"))
    step = -(-len(x) // MOST_DOTS)
    drawn = np.arange(len(x)) % step == 0
    files = np.array([r.dist.name for r in rated], dtype=str)
    traces = [
        {"type": "scatter", "mode": "markers", "name": str(kind)}
        | {"marker": {"size": 5, "color": colour, "opacity": 0.7}}
        | {"x": x[mask & drawn].tolist(), "y": y[mask & drawn].tolist(), "text": files[mask & drawn].tolist()}
        for kind, mask, colour in groups
    ]
    if evaluation.fit is not None and not evaluation.fit.reason:
        curve = np.linspace(x.min(), x.max(), 200)
        traces.append(line(curve.tolist(), evaluation.fit(curve).tolist(), "#000000", "logistic fit", hoverinfo="skip"))
    xaxis, yaxis = ({"title": {"text": text}} for text in axes)
    every = f", one of {step} images" * (step > 1)
    layout: dict[str, Any] = {"showlegend": True, "hovermode": "closest", "xaxis": xaxis, "yaxis": yaxis}
    return chart(f"{name} against people{every}", traces, height=420, **layout)


def _case(case: Disagreement) -> dict[str, Any]:
    """What the template shows of one disagreement."""
    captions = []
    for place, (path, role) in enumerate(((case.better, "people prefer"), (case.worse, "the critic prefers"))):
        opinion = f"opinion {case.opinions[place]:.4g}" if case.ranks else f"{case.opinions[place]:.0%} of votes"
        rank = f", rank {case.ranks[place]:g} of this reference" if case.ranks else ""
        captions.append(f"{role} {path.name}: {opinion}, score {case.predictions[place]:.4f}{rank}")
    difference = f", rank difference by the critic {abs(case.ranks[0] - case.ranks[1]):g}" if case.ranks else ""
    ref, *versions = (read_pixels(path) for path in (case.ref, case.better, case.worse))
    maps = [np.abs(x.astype(np.float64) - ref).mean(2) for x in versions if x.shape == ref.shape]
    top = max((float(np.percentile(lost, 99.5)) for lost in maps), default=0.0) or 1.0
    return {
        "heading": f"{case.size:.2f}{difference}",
        "reference": _reduced(Image.fromarray(ref)) | {"caption": f"reference {case.content}: {case.ref.name}"},
        "versions": [_reduced(Image.fromarray(x)) | {"caption": c} for x, c in zip(versions, captions, strict=True)],
        "maps": [_reduced(heat(lost / top)) | {"mean": float(lost.mean())} for lost in maps],
        "top": top,
    }


def _reduced(image: Image.Image) -> dict[str, Any]:
    """An image as lossless PNG, reduced where it is large."""
    reduced = f"reduced from {image.width}x{image.height}" if max(image.size) > LONGEST_SIDE else ""
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return {"src": picture(image), "reduced": reduced}
