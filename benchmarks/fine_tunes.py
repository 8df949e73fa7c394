r"""RLFN x4 fine-tuned with L1 and each critic at several shares, measured on four test sets, with crops to look at.

    python benchmarks/fine_tunes.py --data DIR --critics haarpsi texture_stats --shares 0.3 0.5 0.7
    python benchmarks/fine_tunes.py --data DIR --critics 'texture_stats {"scales": 2}' --sets Set14

DIR contains cid22_512_train, the test sets and sr_weights/rlfn/rlfn_x4.pth (docs/data.md). The
published network (row `start`) is trained further with L1 alone (`l1`, the control) and with L1 and a critic. `share`
is the critic's part of the gradient's norm at the output. JSON after a name gives constructor arguments of the critic,
such as 'texture_stats {"scales": 2}'. Prints a table per test set; writes summary.json and crops to runs/fine_tunes.
Networks and numbers are kept; an interrupted run continues. On one core a training of 500 steps takes some minutes, and
so does measuring a network on Urban100.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from trials.measures import measure
from trials.networks import RLFN
from trials.training import Photographs, Plan, fine_tune, image_pairs, restore, save

from sr_perceptual_loss import CriticLoss, create_critic
from sr_perceptual_loss.critics.registry import critic_class

SETS = {"Set5": "Set5", "Set14": "Set14_x4", "BSD100": "BSD100_x4", "Urban100": "Urban100_x4"}
COLUMNS = ("psnr_y", "ssim_y", "haarpsi", "score", "hf_ratio", "peak_2", "peak_3", "peak_4", "lattice", "dots")
#: (set, part of the image's name, top, left) of the crops that are shown.
SHOWN = (
    ("Set14", "img_001", 150, 60),
    ("Set14", "img_003", 120, 150),
    ("Set14", "img_005", 90, 40),
    ("Set5", "butterfly", 60, 60),
    ("BSD100", "img_010", 100, 100),
    ("Urban100", "img_004", 200, 300),
)
SIDE = 128


def loss_of(critic: str) -> CriticLoss:
    """The loss of `NAME` or `NAME {"argument": value}`."""
    name, _, arguments = critic.partition(" ")
    if not arguments:
        return CriticLoss(name)
    variant = critic_class(name)(**json.loads(arguments))
    if variant.card.needs_weights:
        variant.load_state_dict(create_critic(name).state_dict())
    return CriticLoss(variant)


def trained(name: str, critic: str | None, share: float, data: Path, plan: Plan, out: Path) -> nn.Module:
    """The network of one row, from the folder of results or trained now."""
    network = RLFN.published(data / "sr_weights" / "rlfn" / "rlfn_x4.pth")
    file = out / f"network-{name}-{plan.key()}.pt"
    if name == "start":
        return network
    if file.is_file():
        network.load_state_dict(torch.load(file, weights_only=True))
        return network

    def progress(step: int, steps: int, value: float) -> None:
        if step % 50 == 0:
            print(f"{name}: step {step}/{steps}, L1 {value:.4f}", flush=True)

    loss = None if critic is None else loss_of(critic)
    fine_tune(network, loss, share, Photographs(data / "cid22_512_train"), plan, progress)
    save(network, file)
    return network


def save_crops(images: dict[str, Tensor], where: str, out: Path, network: str) -> None:
    """The shown crops of one test set as PNG files."""
    for folder, part, top, left in SHOWN:
        for name in (n for n in images if folder == where and part in n):
            image = images[name][0]
            top, left = (min(a, side - SIDE) for a, side in zip((top, left), image.shape[-2:], strict=True))
            crop = (image[:, top : top + SIDE, left : left + SIDE] * 255).round().byte().permute(1, 2, 0)
            Image.fromarray(crop.contiguous().numpy()).save(out / f"{folder}-{part}-{network}.png")


def measured(name: str, network: nn.Module, where: str, data: Path, plan: Plan, out: Path) -> dict[str, float]:
    """Measures of one network on one test set; its crops go to a file."""
    file = out / f"measured-{name}-{where}-{plan.key()}.json"
    if file.is_file():
        return dict(json.loads(file.read_text()))
    pairs = image_pairs(data / SETS[where])
    images = restore(network, pairs)
    references = [(title, hr) for title, _, hr in pairs]
    save_crops(images, where, out, name)
    save_crops(dict(references), where, out, "GT")
    row = measure(images, references, create_critic("texture_stats"))
    file.write_text(json.dumps(row, indent=1))
    print(f"{where}, {name}: " + ", ".join(f"{c} {row[c]:.4g}" for c in COLUMNS), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cid22_512_train, sr_weights, test sets")
    parser.add_argument("--critics", nargs="+", default=["haarpsi", "texture_stats"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.3, 0.5, 0.7])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-4, help="Adam's, falling to a tenth along a cosine")
    parser.add_argument("--out", type=Path, default=Path("runs/fine_tunes"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(steps=options.steps, batch=options.batch, rate=options.rate)
    jobs: list[tuple[str, str | None, float]] = [("start", None, 0.0), ("l1", None, 0.0)]
    jobs += [(f"{critic}-{share:g}", critic, share) for critic in options.critics for share in options.shares]
    summary: dict[str, dict[str, dict[str, float]]] = {where: {} for where in options.sets}
    for name, critic, share in jobs:
        network = trained(name, critic, share, options.data, plan, options.out).eval()
        for where in options.sets:
            summary[where][name] = measured(name, network, where, options.data, plan, options.out)
    for where, rows in summary.items():
        table = Table("network", *COLUMNS, title=f"{where}; RLFN x4, {plan.steps} steps, batch {plan.batch}")
        for name, row in rows.items():
            table.add_row(name, *(f"{row[c]:.4f}" for c in COLUMNS))
        Console(width=120).print(table)
    (options.out / "summary.json").write_text(json.dumps({"plan": plan.key(), **summary}, indent=1) + "\n")


if __name__ == "__main__":
    main()
