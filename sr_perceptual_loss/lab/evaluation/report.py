"""The results of an evaluation as JSON, and as one self-contained HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from sr_perceptual_loss.lab.data.images import read_pixels
from sr_perceptual_loss.lab.evaluation.agreement import Evaluation
from sr_perceptual_loss.lab.evaluation.correlation import indices_by_content
from sr_perceptual_loss.lab.evaluation.disagreements import Disagreement, largest_disagreements
from sr_perceptual_loss.lab.evaluation.plots import scatter_png, srcc_histogram_png
from sr_perceptual_loss.weights.file import atomic_path

__all__ = ["write_report", "write_result"]

#: Larger images are reduced to this longer side; the report notes it below each of them.
LONGEST_SIDE = 384

TEMPLATE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1240px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
.warning { background: #fde8e8; padding: .5em 1em; font-weight: 600; }
.case { display: flex; gap: 1em; margin: 1em 0 2em; flex-wrap: wrap; } figure { margin: 0; max-width: 384px; }
figure img { max-width: 100%; } figcaption { font-size: 13px; color: #444; }
</style></head><body>
<h1>{{ title }}</h1>
{% if warning %}<p class="warning">{{ warning }}</p>{% endif %}
{% if notes %}<h2>Notes</h2><ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<h2>Agreement with people</h2>
<table><tr><th>number</th><th>value</th><th>95% interval (bootstrap)</th><th>count</th><th>meaning</th></tr>
{% for row in rows %}
<tr><td>{{ row.name }}</td><td>{{ row.value | number }}</td>
<td>{% if row.low == row.low %}[{{ row.low | number }}, {{ row.high | number }}]{% else %}-{% endif %}</td>
<td>{{ row.count }}</td><td>{{ row.meaning }}</td></tr>
{% endfor %}
</table>
{% for heading, png in plots %}
<h2>{{ heading }}</h2><img alt="{{ heading }}" src="data:image/png;base64,{{ png }}">
{% endfor %}
<h2>Largest disagreements</h2>
{% if rated %}
<p>Two versions of one reference that people and the critic order in opposite ways. The size is the smaller of the two
distances in rank, as a share of the largest possible distance.</p>
{% else %}
<p>Votes that the critic contradicts, the clearest first (|2p - 1|).</p>
{% endif %}
{% for case in cases %}
<h3>Disagreement {{ case.heading }}</h3><div class="case">
{% for image in case.images %}
<figure><img alt="{{ image.name }}" src="data:image/png;base64,{{ image.png }}">
{% if image.reduced %}<br><small>{{ image.reduced }}</small>{% endif %}
<figcaption>{{ image.caption }}</figcaption></figure>
{% endfor %}
</div>
{% else %}
<p>None.</p>
{% endfor %}
<h2>Settings</h2>
<table><tr><th>setting</th><th>value</th></tr>
{% for key, value in settings.items() %}
<tr><td>{{ key }}</td><td>{{ value if value is string else value | json }}</td></tr>
{% endfor %}
</table>
</body></html>
"""


def write_result(path: Path, evaluation: Evaluation, settings: Mapping[str, object]) -> None:
    """Write settings (plain values) and all numbers as JSON; the file is replaced as a whole.

    Raises:
        WeightsError: the place cannot be written.
    """
    text = json.dumps({"settings": dict(settings)} | evaluation.as_dict(), indent=2, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_report(
    path: Path, evaluation: Evaluation, settings: Mapping[str, object], *, worst: int = 8, warning: str = ""
) -> None:
    """Write the HTML page; the file is replaced as a whole.

    ``settings`` are plain values. ``worst`` disagreements are shown as images. ``warning`` stands at the top.

    Raises:
        InputError: an image that cannot be read.
        WeightsError: the place cannot be written.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters["number"] = lambda value: f"{value:.4f}" if math.isfinite(value) else "not defined"
    environment.filters["json"] = lambda value: json.dumps(value, default=str)
    text = environment.from_string(TEMPLATE).render(
        title=f"{settings.get('critic', 'critic')} on {evaluation.labels.name}",
        warning=warning,
        notes=evaluation.notes,
        rows=evaluation.rows,
        plots=_plots(evaluation),
        rated=bool(evaluation.labels.rated),
        cases=[_case(case) for case in largest_disagreements(evaluation.labels, evaluation.predictions, worst)],
        settings=settings,
    )
    with atomic_path(path) as temporary:
        # File names may hold bytes that are no text.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _plots(evaluation: Evaluation) -> list[tuple[str, str]]:
    """(heading, PNG in base 64) of each plot."""
    labels = evaluation.labels
    if not labels.rated:
        return []
    x = np.array([evaluation.predictions[r.dist, r.ref] for r in labels.rated])
    y = np.array([r.score for r in labels.rated])
    axes = {"x_label": "critic score", "y_label": "opinion score"}
    if not labels.comparable_across_contents:
        for index in indices_by_content([r.content for r in labels.rated]).values():
            x[index] -= x[index].mean()
            y[index] -= y[index].mean()
        axes = {name: f"{text} minus the mean of the reference" for name, text in axes.items()}
    scatter = scatter_png(x.tolist(), y.tolist(), [r.distortion for r in labels.rated], evaluation.fit, **axes)
    plots = [("Critic score against opinion score", scatter)]
    if evaluation.content_srcc:
        plots.append(("Spearman per reference", srcc_histogram_png(list(evaluation.content_srcc.values()))))
    return [(heading, _base64(png)) for heading, png in plots]


def _case(case: Disagreement) -> dict[str, Any]:
    """What the template shows of one disagreement."""
    captions = [f"reference {case.content}: {case.ref.name}"]
    for place, (path, role) in enumerate(((case.better, "people prefer"), (case.worse, "the critic prefers"))):
        opinion = f"opinion {case.opinions[place]:.4g}" if case.ranks else f"{case.opinions[place]:.0%} of votes"
        rank = f", rank {case.ranks[place]:g} of this reference" if case.ranks else ""
        captions.append(f"{role} {path.name}: {opinion}, score {case.predictions[place]:.4f}{rank}")
    difference = f", rank difference by the critic {abs(case.ranks[0] - case.ranks[1]):g}" if case.ranks else ""
    paths = (case.ref, case.better, case.worse)
    images = [_image(path, caption) for path, caption in zip(paths, captions, strict=True)]
    return {"heading": f"{case.size:.2f}{difference}", "images": images}


def _image(path: Path, caption: str) -> dict[str, str]:
    """An image as lossless PNG in base 64, reduced where it is large."""
    image = Image.fromarray(read_pixels(path))
    reduced = f"reduced from {image.width}x{image.height}" if max(image.size) > LONGEST_SIDE else ""
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return {"name": path.name, "caption": caption, "reduced": reduced, "png": _base64(content.getvalue())}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
