"""Weights file, report and card of a finished run; every number in them was measured on the file that is written."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sr_perceptual_loss._version import __version__
from sr_perceptual_loss.critics.rqi_lite import RQILite
from sr_perceptual_loss.training.lite.labels import LABEL_SOURCES
from sr_perceptual_loss.weights import load_weights, save_weights

__all__ = ["GATES", "gate_rows", "write_card", "write_weights"]

#: Gate -> (where its value stands in the report, "<=" or ">=", threshold).
GATES: dict[str, tuple[tuple[str, ...], str, float]] = {
    "antisymmetry, largest abs(f(a,b) + f(b,a))": (("antisymmetry",), "<=", 1e-5),
    "SRCC to own labels, new photographs, all types": (("judged", "all", "srcc"), ">=", 0.85),
    "SRCC on types left out of training": (("judged", "unseen", "srcc"), ">=", 0.65),
    "attack from GT, 20 steps of 0.002: mean f": (("attacks", "from_gt_mean"), "<=", 0.05),
    "attack from bicubic, 40 steps of 0.004: mean f": (("attacks", "bicubic_attacked_score"), "<=", 0.0),
    "the same: change of HaarPSI": (("attacks", "haarpsi_change"), ">=", 0.0),
}

_INTRODUCTION = """rqi_lite is neither RQI nor Efficient-PBAN: it shares no weights, code or labels with them.

Its targets are **not human ratings of its training images** but averages of published KADID-10k ratings per type and
level (Lin, Hosu, Saupe 2019), adjusted by classical measures. It is **not validated for ranking modern SR models**. It
**can be exploited as a loss**: keep a pixel loss beside it, `form: hinge`, and an eye on `over_gt_rate`.
Published results need the authors' or one's own human-trained weights."""


def write_weights(critic: RQILite, path: Path, *, training: Mapping[str, Any], data: str) -> tuple[RQILite, str]:
    """Write the weights in half precision and read them again.

    Args:
        critic: with the averaged weights; left as it is.
        path: ``.safetensors`` file.
        training: summary for the header.
        data: one sentence on photographs and labels.

    Returns:
        A critic with the weights of the file, in float32 and eval mode on the CPU, and the file's SHA-256.
    """
    half = copy.deepcopy(critic).cpu().half()
    summary = {**training, "labels": LABEL_SOURCES}
    digest = save_weights(
        half,
        path,
        training=json.dumps(summary),
        training_data=data,
        licence="not cleared: KADID-10k's own terms are not verified; do not publish before a person has",
        commercial_use=None,
        origin="trained with srpl train (scheme: synthetic); neither RQI nor Efficient-PBAN",
    )
    with torch.random.fork_rng(devices=[]):
        fresh = RQILite(**critic.config)
    load_weights(fresh, path)
    return fresh.eval(), digest


def _value(report: Mapping[str, Any], place: tuple[str, ...]) -> float | None:
    current: Any = report
    for key in place:
        if not isinstance(current, Mapping) or key not in current:
            return None
        current = current[key]
    return float(current)


def gate_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(gate, threshold, measured, verdict) in words; what was not measured says so."""
    rows = []
    for name, (place, sign, threshold) in GATES.items():
        value = _value(report, place)
        if value is None:
            rows.append((name, f"{sign} {threshold:g}", "not measured", "open"))
            continue
        passed = value <= threshold if sign == "<=" else value >= threshold
        rows.append((name, f"{sign} {threshold:g}", f"{value:.4g}", "pass" if passed else "fail"))
    rows.append(
        ("SR fine-tune of 500 steps, three heads, hinge", "see docs/rqi_lite.md", "by benchmarks/robustness.py", "open")
    )
    return rows


def write_card(path: Path, report: Mapping[str, Any]) -> None:
    """Write the card as Markdown.

    Args:
        path: file.
        report: everything measured, as in ``report.json``.
    """
    judged = [
        f"| {name} | {v['n']} | {v['srcc']:.3f} | {v['haarpsi_srcc']:.3f} |"
        for name, v in report["judged"].items()
        if "srcc" in v
    ]
    pairs = report["judged"]["pairs without GT"]
    lines = [
        "# rqi_lite",
        "",
        _INTRODUCTION,
        "",
        f"{report['parameters']:,} parameters, {report['bytes'] / 1e6:.2f} MB in half precision, SHA-256 "
        f"`{report['sha256']}`. Written by sr_perceptual_loss {__version__} from measured values.",
        "",
        "## Training",
        "",
        f"{report['steps']} steps, {report['pairs_seen']:,} pairs, seed {report['seed']}, {report['device']}, "
        f"{report['photographs']['train']} photographs ({report['photographs']['held_out']} held out; hash of their "
        f"names and bytes `{report['photographs']['sha256'][:16]}`), label list `{report['label_list_sha256'][:16]}`.",
        "",
        "Where labels come from:",
        "",
        *(f"* {sentence}" for sentence in LABEL_SOURCES),
        "",
        "Left out of training: " + (", ".join(report["left_out"]) or "nothing") + ".",
        "",
        "## Rank correlation with its own labels, held-out photographs",
        "",
        "| subset | n | rqi_lite | HaarPSI |",
        "|---|---|---|---|",
        *judged,
        "",
        "HaarPSI is part of some labels (families without an anchor, residuals), so its column is partly circular.",
        f"Pairs of two distorted versions, judged without GT: {pairs['accuracy']:.3f} right of {pairs['n']} (label gap "
        "above 0.05).",
        "",
        "## Gates",
        "",
        "| gate | threshold | measured | |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in gate_rows(report)),
        "",
        "Agreement with people is not measured here.",
        "",
    ]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("\n".join(lines), encoding="utf-8")
    temporary.replace(path)
