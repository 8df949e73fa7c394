"""What the reports share: one HTML file with its charts, pictures, style and scripts inside of it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from sr_perceptual_loss import __version__
from sr_perceptual_loss.weights.file import atomic_path

__all__ = ["COLOURS", "chart", "heat", "line", "picture", "write_page"]

#: Of runs, critics and kinds of distortion; they repeat.
COLOURS = ("#1f6fb4", "#e07b00", "#2a9d3a", "#c22f2f", "#8556b8", "#7a5545", "#d766b5", "#6b7280", "#a3a500", "#12a5b8")
#: From "no loss of quality" to the largest one: five points of the colour map inferno.
HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


def write_page(path: Path, template: str, **context: object) -> None:
    """Write a page from a template of this folder; the file is replaced as a whole.

    Raises:
        ModuleNotFoundError: jinja2 or plotly is missing.
        WeightsError: the place cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = lambda value: f"{value:.4f}" if math.isfinite(value) else "not defined"
    environment.filters["json"] = lambda value: json.dumps(value, default=str)
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    # 4.8 MB of JavaScript are 2 MB in this form, which browsers of 2023 and later unpack themselves.
    packed = base64.b64encode(gzip.compress(script, 6, mtime=0)).decode("ascii")
    text = environment.get_template(template).render(plotly=packed, version=__version__, **context)
    with atomic_path(path) as temporary:
        # File names may hold bytes that are no text.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def chart(
    title: str, traces: Sequence[Mapping[str, Any]], *, height: int = 230, marks: Sequence[float] = (), **layout: Any
) -> dict[str, Any]:
    """A chart for the template: traces of plotly, vertical lines at ``marks``, and keys of plotly's layout.

    What is common to all charts is in ``base.html``.
    """
    shape = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": "#c22f2f", "dash": "dot"}}
    layout |= {"height": height, "shapes": [{**shape, "x0": x, "x1": x} for x in marks]}
    return {"title": title, "data": list(traces), "layout": layout}


def line(x: Sequence[float], y: Sequence[float | None], colour: str, name: str = "", **options: Any) -> dict[str, Any]:
    """A line of plotly; ``None`` leaves a gap."""
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": {"color": colour}, **options}


def picture(source: Path | Image.Image) -> str:
    """A picture as a data URI: the bytes of a PNG file, or lossless PNG of an image."""
    if isinstance(source, Image.Image):
        content = io.BytesIO()
        source.save(content, format="PNG", optimize=True)
        data = content.getvalue()
    else:
        data = source.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def heat(values: ArrayLike) -> Image.Image:
    """A map (H, W) of numbers in [0, 1] in colours: black for 0, yellow for 1."""
    values, points = np.clip(np.asarray(values, dtype=np.float64), 0, 1), np.linspace(0, 1, len(HEAT))
    channels = [np.interp(values, points, channel) for channel in np.array(HEAT, dtype=np.float64).T]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))
