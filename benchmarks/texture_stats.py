"""RLFN x4 fine-tuned beside L1 with variants of texture_stats: the second table of docs/texture_stats.md.

    python benchmarks/texture_stats.py --data ../shared/data --share 0.6 default
    python benchmarks/texture_stats.py --data ../shared/data l1 energy

200 steps, batch 4, 96 pixels of CID22; measured on the Set14 pictures of at most 520 pixels. Two to four minutes of one
idle core per variant; one line per variant.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from sr_perceptual_loss import CriticLoss
from sr_perceptual_loss.benchmarking.robustness.fine_tuning import Schedule, fine_tune, restore
from sr_perceptual_loss.benchmarking.robustness.measures import measure
from sr_perceptual_loss.benchmarking.robustness.photographs import Photographs, x4_pairs
from sr_perceptual_loss.benchmarking.robustness.rlfn import RLFN
from sr_perceptual_loss.critics.texture_stats import DEFAULT, TextureStats

#: Name -> constructor arguments; "start" and "l1" are the network as published and the control.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "energy": {"statistics": ("energy",)},
    "no grid": {"statistics": tuple(name for name in DEFAULT if name != "grid")},
    "swd": {"distance": "swd"},
    "haarpsi": {"structure": "haarpsi"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=["start", "l1", *VARIANTS], help="of " + ", ".join(VARIANTS))
    parser.add_argument("--data", type=Path, required=True, help="folder with cid22_512_train, Set14_x4, sr_weights")
    parser.add_argument("--share", type=float, default=0.5, help="of the gradient's norm at the output")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    photographs = Photographs(options.data / "cid22_512_train")
    pairs = [p for p in x4_pairs(options.data / "Set14_x4") if max(p[2].shape[-2:]) <= 520][:8]
    plan = Schedule(steps=options.steps, rate=3e-4, batch=4, side=96)
    for name in options.variants:
        network = RLFN.published(options.data / "sr_weights" / "rlfn" / "rlfn_x4.pth")
        loss = None if name in ("start", "l1") else CriticLoss(TextureStats(**VARIANTS[name]))
        if name != "start":
            fine_tune(network, loss, options.share, photographs, plan, lambda *_: None)
        found = measure(restore(network, pairs), [(title, hr) for title, _, hr in pairs], TextureStats())
        print(name, options.share, *(f"{key} {value:.4g}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
