"""One self-contained HTML file: settings, table, plots, and the pictures that critic and people order differently."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.agreement import Evaluation
from sr_perceptual_loss.lab.evaluation.disagreements import Disagreement, worst_disagreements
from sr_perceptual_loss.lab.evaluation.plots import scatter_png, scene_histogram_png
from sr_perceptual_loss.weights.disk import atomic_path

__all__ = ["report_html", "write_report", "write_result"]

#: Larger pictures are reduced to this longer side; the report says so at each.
LONGEST_SIDE = 384

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1240px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.warning { background: #fde8e8; padding: .5em 1em; font-weight: 600; }
.case { display: flex; gap: 1em; margin: 1em 0 2em; flex-wrap: wrap; } figure { margin: 0; max-width: 384px; }
figure img { max-width: 100%; image-rendering: auto; } figcaption { font-size: 13px; color: #444; }
"""


def write_result(path: Path, evaluation: Evaluation, settings: Mapping[str, object]) -> None:
    """Settings and all numbers as JSON; replaced as a whole, never half written.

    Args:
        path: the file.
        evaluation: what to write.
        settings: plain values.

    Raises:
        WeightsError: the place cannot be written.
    """
    text = json.dumps({"settings": dict(settings)} | evaluation.as_dict(), indent=2, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_report(
    path: Path, evaluation: Evaluation, settings: Mapping[str, object], *, worst: int = 8, warning: str = ""
) -> None:
    """Write :func:`report_html` to a file; replaced as a whole, never half written.

    Args:
        path: the file.
        evaluation: what to show.
        settings: plain values, shown as a table.
        worst: how many disagreements are shown as pictures.
        warning: shown at the top, such as that the weights are random.

    Raises:
        InstallError: matplotlib or scipy is missing.
        WeightsError: the place cannot be written.
    """
    text = report_html(evaluation, settings, worst=worst, warning=warning)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def report_html(evaluation: Evaluation, settings: Mapping[str, object], *, worst: int = 8, warning: str = "") -> str:
    """The report; it loads nothing from elsewhere.

    Args:
        evaluation: what to show.
        settings: plain values, shown as a table.
        worst: how many disagreements are shown as pictures.
        warning: shown at the top.

    Returns:
        An HTML document.

    Raises:
        InstallError: matplotlib or scipy is missing.
    """
    title = f"{settings.get('critic', 'critic')} on {evaluation.labels.name}"
    cases = worst_disagreements(evaluation.labels, evaluation.predictions, worst)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="warning">{escape(warning)}</p>' if warning else "",
        _list("Notes", evaluation.notes),
        "<h2>Agreement with people</h2>",
        _numbers(evaluation),
        *_plots(evaluation),
        "<h2>Gravest disagreements</h2>",
        _how_graded(evaluation),
        *(_case(case) for case in cases),
        "" if cases else "<p>None: the critic contradicts people nowhere.</p>",
        "<h2>Settings</h2>",
        _table(("setting", "value"), ((key, _text(value)) for key, value in settings.items())),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(part for part in parts if part) + "\n</body></html>\n"
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _list(heading: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{escape(heading)}</h2><ul>{items}</ul>" if items else ""


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="number">{escape(text)}</td>' if i else f"<td>{escape(text)}</td>" for i, text in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "not defined"


def _numbers(evaluation: Evaluation) -> str:
    confidence = evaluation.agreement.confidence if evaluation.agreement else 0.95
    rows = (
        (
            row.name,
            _number(row.value),
            f"[{row.low:.4f}, {row.high:.4f}]" if math.isfinite(row.low) else "-",
            str(row.count),
            row.meaning,
        )
        for row in evaluation.rows
    )
    return _table(("number", "value", f"{confidence:.0%} interval (bootstrap)", "count", "what it is"), rows)


def _plots(evaluation: Evaluation) -> list[str]:
    labels, agreement = evaluation.labels, evaluation.agreement
    if agreement is None:
        return []
    x = np.array([evaluation.predictions[r.dist, r.ref] for r in labels.rated])
    y = np.array([r.score for r in labels.rated])
    names = {"x_label": "critic score", "y_label": "opinion score"}
    if not labels.comparable_across_scenes:
        # Levels of scenes do not compare here, so each scene is shown about its own mean.
        scenes = np.array([r.scene for r in labels.rated], dtype=object)
        for scene in set(scenes):
            mask = scenes == scene
            x[mask] -= x[mask].mean()
            y[mask] -= y[mask].mean()
        names = {name: f"{text} minus the mean of the scene" for name, text in names.items()}
    scatter = scatter_png(x.tolist(), y.tolist(), [r.distortion for r in labels.rated], agreement.fit, **names)
    parts = ["<h2>Score against opinion</h2>", _embedded(scatter, "opinion score against critic score")]
    if agreement.scene_srcc:
        parts.append("<h2>Spearman per scene</h2>")
        parts.append(_embedded(scene_histogram_png(list(agreement.scene_srcc.values())), "histogram over scenes"))
    return parts


def _how_graded(evaluation: Evaluation) -> str:
    if evaluation.labels.rated:
        return (
            "<p>Two versions of one scene that people and the critic order in opposite ways, by the smaller of the two "
            "distances in rank, as a share of the largest distance that the scene allows.</p>"
        )
    return "<p>Votes that the critic contradicts, the clearest first (|2p - 1|).</p>"


def _case(case: Disagreement) -> str:
    captions = [f"reference of scene {case.scene}: {case.ref.name}"]
    for place, (path, role) in enumerate(((case.better, "people prefer"), (case.worse, "the critic prefers"))):
        opinion = f"opinion {case.opinions[place]:.4g}" if case.ranks else f"{case.opinions[place]:.0%} of votes"
        rank = f", rank {case.ranks[place]:g} in the scene" if case.ranks else ""
        captions.append(f"{role} {path.name}: {opinion}, score {case.predictions[place]:.4f}{rank}")
    difference = f", rank difference by the critic {abs(case.ranks[0] - case.ranks[1]):g}" if case.ranks else ""
    figures = "".join(
        f"<figure>{_picture(path)}<figcaption>{escape(caption)}</figcaption></figure>"
        for path, caption in zip((case.ref, case.better, case.worse), captions, strict=True)
    )
    return f'<h3>Disagreement {case.size:.2f}{difference}</h3><div class="case">{figures}</div>'


def _picture(path: Path) -> str:
    """The picture itself inside the page, without loss unless it is reduced."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except OSError as error:
        raise InputError(f"{path}: no readable image ({str(error).splitlines()[0]}).") from None
    note = ""
    if max(image.size) > LONGEST_SIDE:
        note = f"<br><small>reduced from {image.width}x{image.height}</small>"
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return _embedded(content.getvalue(), path.name) + note


def _embedded(png: bytes, description: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">'
