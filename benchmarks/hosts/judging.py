"""Measure networks on whole test images, before and after: a table, a JSON file, and a picture for docs/hosts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from host_data import SCALE, small_sr
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sr_perceptual_loss import create_critic

#: Column -> format.
FORMS = {"psnr_y": ".2f", "ssim_y": ".4f", "haarpsi": ".4f"}


@torch.no_grad()
def restore(network: nn.Module, pairs: Sequence[small_sr.Pair], seed: int = 0) -> dict[str, Tensor]:
    """SR images in 8-bit steps; random networks start from the same seed at every image, as our validation has it."""
    found = {}
    for name, lr, hr in pairs:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sr = network(lr)[..., : hr.shape[-2], : hr.shape[-1]]
        found[name] = (sr.clamp(0, 1) * 255).round() / 255
    return found


@torch.no_grad()
def measure(
    images: Mapping[str, Tensor], pairs: Sequence[small_sr.Pair], critics: Mapping[str, str | None]
) -> dict[str, float]:
    """PSNR-Y, SSIM-Y, HaarPSI, and the scores of further critics (name -> weights file), border 4."""
    means = small_sr.measure(images, pairs)
    cut = slice(SCALE, -SCALE)
    for name, weights in critics.items():
        critic = create_critic(name, weights=weights).eval()
        scores = [float(critic.score(images[n][..., cut, cut], hr[..., cut, cut])) for n, _, hr in pairs]
        means[name] = float(np.mean(scores))
    return means


def show(results: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Print stage x measure for every set, as Markdown cells are written; keep the numbers as JSON.

    Args:
        results: set -> stage -> measure -> mean.
        path: of the JSON file.
    """
    measures = list(next(iter(next(iter(results.values())).values())))
    table = Table("set", "stage", *measures)
    for title, stages in results.items():
        for stage, row in stages.items():
            table.add_row(title, stage, *(f"{row[m]:{FORMS.get(m, '.4f')}}" for m in measures))
    Console().print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
