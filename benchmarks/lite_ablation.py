"""rqi_lite trained with each attack of its recipe switched off alone: the ablation table of docs/rqi_lite.md.

    python benchmarks/lite_ablation.py --config examples/critics/rqi_lite_cpu.yml --steps 120

Each row is a run of `srpl train` with one setting changed; its report is read. Finished runs are kept, interrupted
ones go on. Rows of one seed that differ by a few hundredths say nothing. `--ensemble 3` adds the smallest score of
three seeds with all attacks, attacked as one critic.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from sr_perceptual_loss import Critic, create_critic
from sr_perceptual_loss.benchmarking.table import markdown
from sr_perceptual_loss.training.lite.judging import attack_values
from sr_perceptual_loss.training.lite.loop import train_lite
from sr_perceptual_loss.training.lite.preparing import prepare
from sr_perceptual_loss.training.lite.settings import read_lite_config
from sr_perceptual_loss.training.reporting import Reporter

#: Row -> what is changed in the file.
ROWS: dict[str, tuple[str, ...]] = {
    "all attacks": (),
    "none": ("attack.pool=0", "attack.networks=0"),
    "no pixel ascent": ("attack.pixels=0",),
    "no networks": ("attack.networks=0",),
    "no patterns": ("attack.patterns=0",),
    "no noise, shift, rescale": ("attack.noise=0", "attack.shift=0", "attack.rescale=1"),
    "gradient penalty .01": ("attack.penalty=0.01",),
    "more pixel ascent": ("attack.pixels=2", "attack.pool=512", "attack.pairs=48", "attack.weight=2"),
}
#: Column -> (where it stands in the report, format).
COLUMNS: dict[str, tuple[tuple[str, ...], str]] = {
    "SRCC, all": (("judged", "all", "srcc"), ".3f"),
    "left-out types": (("judged", "unseen", "srcc"), ".3f"),
    "pairs without GT": (("judged", "pairs without GT", "accuracy"), ".3f"),
    "f after attack from GT": (("attacks", "from_gt_mean"), ".2f"),
    "f after attack from bicubic": (("attacks", "bicubic_attacked_score"), ".2f"),
    "change of HaarPSI": (("attacks", "haarpsi_change"), ".3f"),
}


def value(report: dict, place: tuple[str, ...]) -> float | None:
    found: object = report
    for key in place:
        found = found.get(key) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


class Smallest:
    """The smallest score of several critics, as `CriticLoss(ensemble=...)` takes it."""

    def __init__(self, critics: list[Critic]) -> None:
        self.critics = critics

    def encode_target(self, hr: Tensor) -> tuple[Tensor, ...]:
        """Nothing: each critic does it by itself."""
        return ()

    def score(self, sr: Tensor, hr: Tensor, *, target_features: tuple[Tensor, ...] | None = None) -> Tensor:
        """(N,) scores."""
        return torch.stack([critic.score(sr, hr) for critic in self.critics]).amin(0)


def ensemble_row(options: argparse.Namespace) -> list[str]:
    """Train (or find) seeds beside the first one, and attack the smallest score."""
    folders = []
    for seed in range(options.seed, options.seed + options.ensemble):
        out = options.out if seed == options.seed else options.out / f"seed_{seed}"
        row("all attacks", (), argparse.Namespace(**{**vars(options), "out": out, "seed": seed}))
        folders.append(out / "all_attacks")
    critics = [create_critic("rqi_lite", weights=f / "rqi_lite.safetensors").requires_grad_(False) for f in folders]
    config = read_lite_config(folders[0] / "config.yml")
    gt = prepare(config, Reporter(1, 0, active=False)).attacked(config)
    found = attack_values(cast(Critic, Smallest(critics)), gt)
    change = found["bicubic_attacked_haarpsi"] - found["bicubic_haarpsi"]
    values = (f"{found['from_gt_mean']:.2f}", f"{found['bicubic_attacked_score']:.2f}", f"{change:.3f}")
    return [f"smallest of {options.ensemble} seeds, all attacks", "-", "-", "-", *values]


def row(name: str, changes: tuple[str, ...], options: argparse.Namespace) -> list[str]:
    """Train (or find) one row and read its report."""
    out = options.out / name.replace(" ", "_").replace(",", "").replace(".", "")
    steps = (f"steps={options.steps}", f"attack.start={options.steps // 3}", f"validation.every={options.steps}")
    report = out / "report.json"
    if not report.is_file():
        begin = time.process_time()
        config = read_lite_config(options.config, (f"out={out}", *steps, f"seed={options.seed}", *changes))
        train_lite(config, resume=out.is_dir())
        print(f"{name}: {(time.process_time() - begin) / 60:.1f} CPU minutes", flush=True)
    found = json.loads(report.read_text())
    cells = [(value(found, place), form) for place, form in COLUMNS.values()]
    return [name, *("-" if number is None else format(number, form) for number, form in cells)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("examples/critics/rqi_lite_cpu.yml"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ensemble", type=int, default=0, help="number of seeds; 0: none")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/lite_ablation"))
    options = parser.parse_args()
    lines = [row(name, ROWS[name], options) for name in options.only]
    lines += [ensemble_row(options)] if options.ensemble else []
    print(markdown((f"{options.steps} steps", ["what", *COLUMNS], lines)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
