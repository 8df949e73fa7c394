"""The results of an evaluation as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sr_perceptual_loss.lab.evaluation.agreement import Evaluation
from sr_perceptual_loss.lab.evaluation.comparison import differences
from sr_perceptual_loss.weights.file import atomic_path

__all__ = ["write_result"]


def write_result(
    path: Path, evaluations: Mapping[str, Evaluation], settings: Mapping[str, Mapping[str, object]]
) -> None:
    """Write settings (plain values) and all numbers as JSON; the file is replaced as a whole.

    One critic: ``{"settings", "numbers", ...}``. Several: ``{"critics": {name: the same}, "differences": [...]}``.

    Raises:
        WeightsError: the place cannot be written.
    """
    critics = {
        name: {"settings": dict(settings[name])} | evaluation.as_dict() for name, evaluation in evaluations.items()
    }
    compared = {"critics": critics, "differences": [difference.as_dict() for difference in differences(evaluations)]}
    content = compared if len(critics) > 1 else next(iter(critics.values()))
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
