r"""Variants of texture_stats as a judge and as a loss: ablation tables (the first is in docs/texture_stats.md).

    python benchmarks/texture_stats.py judge --data ../shared/data
    python benchmarks/texture_stats.py loss --data ../shared/data --share 0.6

`judge`: rank correlation with KADID-10k's mean scores by type and level, on versions of CID22 photographs that are made
here (--pictures of them, 25 types x 5 levels, the middle 384 pixels); these are not ratings of these pictures.
`loss`: RLFN x4 from its published weights, 200 steps beside L1, batch 4, 96 pixels of CID22; measured on the Set14
pictures of at most 520 pixels. About a minute of one core per variant and table; kept in runs/texture_stats.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from robustness_lab.fine_tuning import Schedule, fine_tune, restore
from robustness_lab.measures import measure
from robustness_lab.photographs import Photographs, x4_pairs
from robustness_lab.rlfn import RLFN
from sr_perceptual_loss.lab.training.synthetic import level_means, make_kadid_like

from sr_perceptual_loss import Critic, CriticLoss, create_critic
from sr_perceptual_loss.critics.texture_stats.critic import TextureStats
from sr_perceptual_loss.critics.texture_stats.measures import STATISTICS
from sr_perceptual_loss.lab.data.images import read_image
from sr_perceptual_loss.lab.data.registry import read_labels
from sr_perceptual_loss.lab.evaluation.coefficients import srcc


def without(name: str) -> dict[str, Any]:
    return {"statistics": tuple(s for s in STATISTICS if s != name)}


#: Name -> constructor arguments.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "energy alone": {"statistics": ("energy",)},
    **{f"no {name}": without(name) for name in STATISTICS[1:]},
    "2 scales": {"scales": 2},
    "4 scales": {"scales": 4},
    "window 2": {"window": 2.0},
    "window 5": {"window": 5.0},
    "swd": {"distance": "swd"},
    "coarse ssim": {"structure": "coarse_ssim"},
    "no structure": {"structure": "none"},
    "structure^.4": {"structure_weight": 0.4},
    "all places alike": {"weighting": 0.0},
    "weighting 2": {"weighting": 2.0},
}
CROP = 384
MEASURES = ("psnr_y", "ssim_y", "haarpsi", "hf_ratio", "lattice", "peak_2", "peak_3", "peak_4")


@torch.no_grad()
def judge(critic: Critic, versions: Path) -> dict[str, float]:
    """Rank correlation with the labels, over all versions and as a mean over pictures."""
    labels = read_labels("kadid10k", versions)
    rows: dict[str, list[tuple[float, float]]] = {}
    for item in labels.rated:
        rows.setdefault(item.scene, []).append(
            (float(critic.score(read_image(item.dist)[None], read_image(item.ref)[None])), item.score)
        )
    together = [row for scene in rows.values() for row in scene]
    per_scene = [srcc(*zip(*scene, strict=True)) for scene in rows.values()]
    return {"srcc": srcc(*zip(*together, strict=True)), "srcc_mean": sum(per_scene) / len(per_scene)}


def as_loss(name: str, critic: Critic | None, data: Path, share: float, steps: int) -> dict[str, float]:
    """Measures of RLFN after a short fine-tune."""
    network = RLFN.published(data / "sr_weights" / "rlfn" / "rlfn_x4.pth")
    if name != "start":
        loss = None if critic is None else CriticLoss(critic)
        plan = Schedule(steps=steps, batch=4)
        fine_tune(network, loss, share, Photographs(data / "cid22_512_train"), plan, lambda *_: None)
    pairs = [p for p in x4_pairs(data / "Set14_x4") if max(p[2].shape[-2:]) <= 520][:8]
    found = measure(restore(network, pairs), [(title, hr) for title, _, hr in pairs])
    return {key: found[key] for key in MEASURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("judge", "loss"))
    parser.add_argument("variants", nargs="*", help="of " + ", ".join(VARIANTS) + "; all by default")
    parser.add_argument("--data", type=Path, required=True, help="folder with cid22_512_train, labels, Set14_x4, ...")
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.6, help="of the gradient's norm at the output")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/texture_stats"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    versions = options.out / f"kadid_like_{options.pictures}"
    if options.table == "judge":
        table = level_means(options.data / "labels" / "iqa_lists" / "KADID-10k.txt")
        references = options.data / "cid22_512_train"
        make_kadid_like(references, versions, table, crop=CROP, limit=options.pictures)
    plain = [] if options.table == "judge" else ["start", "l1"]
    names = options.variants or [*plain, "haarpsi", *VARIANTS]
    setting = f"{options.pictures}" if options.table == "judge" else f"{options.share:g}-{options.steps}"
    for name in names:
        critic = create_critic("haarpsi") if name == "haarpsi" else TextureStats(**VARIANTS.get(name, {}))
        file = options.out / f"{options.table}-{setting}-{name}.json"
        if not file.is_file():
            if options.table == "judge":
                found = judge(critic, versions)
            else:
                found = as_loss(
                    name, None if name in ("start", "l1") else critic, options.data, options.share, options.steps
                )
            file.write_text(json.dumps(found))
        found = json.loads(file.read_text())
        print("| " + " | ".join([name, *(f"{value:.4g}" for value in found.values())]) + " |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
