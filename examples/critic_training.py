"""Train small critics on a CPU and judge them on held-out pictures: one table, with the ablations of RQI.

    make .venv/.installed-dev
    .venv/bin/python examples/critic_training.py PICTURES KADID-10k.txt

PICTURES is a folder of at least 24 photographs, the second argument KADID-10k's dmos.csv or a list of its scores. The
first 60 photographs are distorted as in KADID-10k to train on, the last 16 to test on, of
which --test-pictures are scored; labels are means of KADID-10k by
type and level, so the table says how well a network learns those, not how well it agrees with people.
Everything goes to runs/critics and is not done twice; an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from sr_perceptual_loss import create_critic
from sr_perceptual_loss.data.labels import LabelSet
from sr_perceptual_loss.data.registry import read_labels
from sr_perceptual_loss.evaluation.agreement import judge
from sr_perceptual_loss.evaluation.protocol import Protocol, get_protocol
from sr_perceptual_loss.evaluation.scoring import ScoreFile, critic_digest, score_labels
from sr_perceptual_loss.training.config import read_config
from sr_perceptual_loss.training.loop import train
from sr_perceptual_loss.training.synthetic import level_means, make_kadid_like

CONFIGS = Path(__file__).parent / "critics"
#: Name in the table -> training file and what is changed in it.
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rqi_topiq": ("tiny_rqi_topiq", ()),
    "rqi_maniqa": ("tiny_rqi_maniqa", ()),
    "rqi_ahiq": ("tiny_rqi_ahiq", ()),
    "efficient_pban": ("tiny_efficient_pban", ()),
    "rqi_topiq, same distortion": ("tiny_rqi_topiq", ("pairs.same_distortion=true",)),
    "rqi_topiq, L1": ("tiny_rqi_topiq", ("objective.loss=l1",)),
    "rqi_topiq, L2": ("tiny_rqi_topiq", ("objective.loss=l2",)),
}
#: The paper's scales, and only the first of them, with 5 crops each instead of 20: this is a CPU.
PROTOCOL = Protocol("paper, 5 crops", (1.0, 1 / 2, 1 / 3), (5, 5, 5))
SINGLE = Protocol("single scale, 5 crops", (1.0,), (5,))
CROP = 64
#: KADID-10k's types that are used: blurs, JPEG and JPEG2000, noises, denoising, pixelation, quantisation, sharpening.
TYPES = (1, 2, 9, 10, 11, 13, 15, 21, 22, 24)


def make_sets(pictures: Path, scores: Path, out: Path) -> None:
    """The training and the test set; pictures are never in both."""
    files = sorted(p for p in pictures.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    test = min(16, len(files) // 3)
    table = level_means(scores)
    for name, chosen in (("train", files[: min(60, len(files) - test)]), ("test", files[-test:])):
        refs = out / f"refs_{name}"
        refs.mkdir(parents=True, exist_ok=True)
        for file in chosen:
            if not (refs / file.name).exists():
                (refs / file.name).symlink_to(file.resolve())
        made = make_kadid_like(refs, out / f"kadid_like_{name}", table, types=TYPES, crop=256, seed=0)
        print(f"{name}: {made.scenes} pictures, {made.written} versions written, {made.kept} kept", flush=True)


def train_all(out: Path, names: list[str], seeds: list[int], epochs: int | None) -> dict[str, dict[int, Path]]:
    """Weights of every run and seed."""
    weights: dict[str, dict[int, Path]] = {}
    for name in names:
        file, changes = RUNS[name]
        for seed in seeds:
            folder = out / "runs" / f"{name.replace(', ', '-').replace(' ', '_')}-seed{seed}"
            settings = [f"out={folder}", f"seed={seed}", f"data.root={out / 'kadid_like_train'}", *changes]
            settings += [f"epochs={epochs}"] if epochs else []
            begun = time.monotonic()
            result = train(read_config(CONFIGS / f"{file}.yml", settings), resume=True)
            minutes = (time.monotonic() - begun) / 60
            print(
                f"{name}, seed {seed}: validation {result.best:.3f}, {result.steps} steps, {minutes:.1f} min",
                flush=True,
            )
            weights.setdefault(name, {})[seed] = result.weights
    return weights


def held_out(name: str, weights: Path | None, labels: LabelSet, protocol: Protocol, out: Path) -> dict[str, float]:
    """Agreement with the labels of the test set."""
    critic = create_critic(name, weights=str(weights) if weights else "local")
    crop = CROP if weights and critic.input_size.fixed is None else None
    behind = {"digest": critic_digest(critic), "protocol": protocol.as_dict(), "crop": crop}
    known = ScoreFile(out / "scores.csv", behind)
    scores = score_labels(critic, labels, protocol, crop_size=crop, crops_at_once=60, known=known)
    rows = {row.name: row for row in judge(labels, scores, bootstrap=1000).rows}
    found = rows["srcc"]
    return {"srcc": found.value, "low": found.low, "high": found.high, "srcc_mean": rows["srcc_mean"].value}


def main() -> None:
    """Sets, trainings, table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/critics"))
    parser.add_argument("--seeds", type=int, default=1, help="trainings per row")
    parser.add_argument("--epochs", type=int, default=None, help="instead of the files' own")
    parser.add_argument("--test-pictures", type=int, default=8, help="held-out pictures that are scored")
    parser.add_argument("--only", action="append", choices=list(RUNS), help="rows to make; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_sets(options.pictures, options.scores, options.out)
    weights = train_all(options.out, options.only or list(RUNS), list(range(options.seeds)), options.epochs)
    labels = read_labels("kadid10k", options.out / "kadid_like_test")
    labels = labels.subset(labels.scenes[: options.test_pictures])
    print(f"\nheld out: {len(labels.rated)} versions of {len(labels.scenes)} pictures; 95 % intervals over pictures\n")
    print("| critic | seed | protocol | SRCC | 95 % interval | mean over pictures |\n|---|---|---|---|---|---|")
    table = []
    for name, seeds in weights.items():
        critic = name.split(",")[0]
        for seed, file in seeds.items():
            protocols = (PROTOCOL, SINGLE) if name == "rqi_topiq" else (PROTOCOL,)
            table += [(name, seed, p.name, held_out(critic, file, labels, p, options.out)) for p in protocols]
            _print(table[-len(protocols) :])
    table.append(
        ("haarpsi (no training)", "", "full", held_out("haarpsi", None, labels, get_protocol("full"), options.out))
    )
    _print(table[-1:])
    rows = [{"critic": n, "seed": s, "protocol": p, **values} for n, s, p, values in table]
    (options.out / "table.json").write_text(json.dumps(rows, indent=2))


def _print(rows: list[tuple[str, object, str, dict[str, float]]]) -> None:
    for name, seed, protocol, v in rows:
        interval = f"{v['low']:.3f} to {v['high']:.3f}"
        print(f"| {name} | {seed} | {protocol} | {v['srcc']:.3f} | {interval} | {v['srcc_mean']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
