"""The end of a run: weights, everything measured on them, card."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from sr_perceptual_loss.critics.rqi_lite import RQILite
from sr_perceptual_loss.training.lite.card import gate_rows, write_card, write_weights
from sr_perceptual_loss.training.lite.judging import HeldOut, antisymmetry, attack_values, judge, type_names
from sr_perceptual_loss.training.lite.preparing import Prepared
from sr_perceptual_loss.training.lite.settings import LiteConfig

__all__ = ["finish"]


def finish(
    critic: RQILite, config: LiteConfig, data: Prepared, judged: HeldOut, *, device: torch.device, steps: int
) -> dict[str, Any]:
    """Write ``rqi_lite.safetensors``, ``report.json`` and ``card.md``.

    Args:
        critic: with the averaged weights.
        config: the run.
        data: photographs and labels.
        judged: held-out groups.
        device: to measure on.
        steps: steps done.

    Returns:
        The report; all its numbers belong to the written file.
    """
    path = config.out / "rqi_lite.safetensors"
    photographs: dict[str, Any] = {
        "train": len(data.train),
        "held_out": data.held_out_count,
        "sha256": data.photographs_sha256(),
    }
    pairs = steps * config.groups.count * config.pairs.per_group
    training = {
        "scheme": config.scheme,
        "steps": steps,
        "pairs": pairs,
        "seed": config.seed,
        "settings": config.as_dict(),
    }
    written, digest = write_weights(
        critic,
        path,
        training=training,
        data=f"{len(data.train)} photographs ({photographs['sha256'][:16]}), own versions",
    )
    written = written.to(device)
    written.requires_grad_(False)
    attacks = attack_values(written, data.attacked(config).to(device))
    attacks["haarpsi_change"] = attacks["bicubic_attacked_haarpsi"] - attacks["bicubic_haarpsi"]
    report: dict[str, Any] = {
        "parameters": sum(p.numel() for p in written.parameters()),
        "bytes": path.stat().st_size,
        "sha256": digest,
        "steps": steps,
        "pairs_seen": pairs,
        "seed": config.seed,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "photographs": photographs,
        "label_list_sha256": hashlib.sha256(config.data.labels.read_bytes()).hexdigest(),
        "left_out": type_names(config.data.types_out),
        "judged": judge(written, judged, left_out=config.data.types_out, device=device),
        "antisymmetry": antisymmetry(written, judged, device),
        "attacks": attacks,
    }
    report["gates"] = gate_rows(report)
    temporary = config.out / ".report.json.tmp"
    temporary.write_text(json.dumps(report, indent=1), encoding="utf-8")
    temporary.replace(config.out / "report.json")
    write_card(config.out / "card.md", report)
    return report
