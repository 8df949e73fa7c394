r"""One start, one budget, many losses, judged by what none of them optimises and compared at equal PSNR cost.

    python benchmarks/loss_comparison.py --data DIR --start rlfn --losses texture_stats haarpsi --gan 0 0.006
    python benchmarks/loss_comparison.py --data DIR --start rlfn --table 0.25

DIR contains cid22_512_train, the test sets and sr_weights (docs/data.md). Each row is the plain
sum L1 + weight x loss + gan x adversarial loss. The weights are those at which the loss has the given shares of the
gradient at the output of the start network, so that no loss is tuned by hand. `--weights` gives them instead: the
recipe of docs/results.md is `--losses texture_stats --weights 0.1 --gan 0.006 --steps 2500 --sets Set5 Set14`.

A loss looks better when it may cost more PSNR. `--table COST` interpolates every judge at the same cost in dB against
the L1 control, for each loss, with 95 % intervals over the pictures. A judge that the loss contains is in brackets.

Rows are kept in --rows, one JSON file each, and the trained networks in --out. An interrupted run continues in the
middle of a training.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from trials.adversarial import Recipe, train
from trials.equal_cost import Curve, at_cost, markdown
from trials.judges import judge
from trials.networks import RLFN
from trials.training import Photographs, Plan, image_pairs, pixel_stage, plain_weight, restore, save
from trials.vgg import VggLoss

from sr_perceptual_loss import CriticLoss, SSIMLoss
from sr_perceptual_loss.losses.base import PairLoss

SETS = {"Set5": "Set5", "Set14": "Set14_x4", "BSD100": "BSD100_x4", "Urban100": "Urban100_x4", "CLIC": "clic2025"}
STARTS = ("rlfn", "small")
#: Side of the square in the middle of each CLIC photograph.
CLIC = 512


@dataclass(frozen=True)
class Row:
    """One training: where it starts, which loss, how much GAN. ``share`` 0: the weight is given."""

    start: str
    loss: str
    share: float
    gan: float
    seed: int
    steps: int
    weight: float | None = None

    @property
    def name(self) -> str:
        """Of its files."""
        amount = f"{self.share:g}" if self.weight is None else f"weight{self.weight:g}"
        return f"{self.start}-{self.loss}-{amount}-gan{self.gan:g}-{self.steps}-seed{self.seed}"


def build_loss(name: str, vgg: Path | None) -> PairLoss | VggLoss | None:
    """The loss of a row; ``none`` is the L1 control."""
    if name == "vgg":
        if vgg is None:
            raise SystemExit("vgg: --vgg FILE is missing, the weights of VGG16 (trials/vgg.py says which)")
        return VggLoss(vgg)
    return None if name == "none" else SSIMLoss() if name == "ssim" else CriticLoss(name)


def start_network(start: str, data: Path, photographs: Photographs, out: Path) -> nn.Module:
    """The network that all rows of a start continue from."""
    if start == "rlfn":
        return RLFN.published(data / "sr_weights" / "rlfn" / "rlfn_x4.pth")
    plan = Plan(pixel_steps=10_000, batch=8)
    return pixel_stage("shuffle", photographs, plan, out / "start", _progress("start small"))


def _progress(what: str):  # noqa: ANN202 - trials.training.Progress
    def progress(step: int, steps: int, value: float) -> None:
        if step % 250 == 0:
            print(f"{what}: step {step}/{steps}, L1 {value:.4f}", flush=True)

    return progress


def test_pairs(where: str, data: Path) -> list[tuple[str, Tensor, Tensor]]:
    """(name, LR, GT) of a set; of CLIC the middle of each photograph."""
    pairs = image_pairs(data / SETS[where])
    if where != "CLIC":
        return pairs
    cropped = []
    for name, lr, hr in pairs:
        top, left = ((side // 4 - CLIC // 4) // 2 for side in hr.shape[-2:])
        small = lr[..., top : top + CLIC // 4, left : left + CLIC // 4]
        cropped.append((name, small, hr[..., 4 * top : 4 * top + CLIC, 4 * left : 4 * left + CLIC]))
    return cropped


def run(row: Row, options: argparse.Namespace, photographs: Photographs) -> None:
    """Train what is missing of a row and judge it on the sets that are missing."""
    file = options.rows / f"{row.name}.json"
    kept = json.loads(file.read_text()) if file.is_file() else {**asdict(row), "sets": {}}
    missing = [where for where in options.sets if where not in kept["sets"]]
    if not missing:
        return
    network = start_network(row.start, options.data, photographs, options.out)
    weights = options.out / f"{row.name}.pt"
    if weights.is_file():
        network.load_state_dict(torch.load(weights, weights_only=True))
    elif row.steps:
        loss = build_loss(row.loss, options.vgg)
        if loss is not None and row.weight is None:
            kept["weight"] = plain_weight(network, loss, row.share, photographs, Plan(batch=4, seed=row.seed))
        recipe = Recipe(kept["weight"] or 0.0, row.gan, row.steps, seed=row.seed)
        state = options.out / f"{row.name}.state"
        train(network, loss, recipe, photographs, state, _progress(row.name))
        save(network, weights)
        state.unlink(missing_ok=True)
    network.eval()
    for where in missing:
        pairs = test_pairs(where, options.data)
        kept["sets"][where] = judge(restore(network, pairs), [(name, hr) for name, _, hr in pairs])
        part = file.with_suffix(".part")
        part.write_text(json.dumps(kept, indent=1) + "\n")
        part.replace(file)
        print(f"{row.name}: judged on {where}", flush=True)


def curves(options: argparse.Namespace) -> dict[tuple[str, float], Curve]:
    """(loss, GAN) -> its rows by share, from the files that are there."""
    found: dict[tuple[str, float], Curve] = {}
    for file in sorted(options.rows.glob(f"{options.start}-*-{options.steps}-seed*.json")):
        row = json.loads(file.read_text())
        if all(where in row["sets"] for where in options.sets):
            pictures = {f"{where}/{n}": values for where in options.sets for n, values in row["sets"][where].items()}
            found.setdefault((row["loss"], row["gan"]), {}).setdefault(
                (row["share"], row["share"] or row["weight"]), []
            ).append(pictures)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--start", choices=STARTS, default="rlfn")
    parser.add_argument("--losses", nargs="+", default=["none"], help="none, ssim, vgg, or a critic")
    parser.add_argument(
        "--shares", nargs="+", type=float, default=[0.5, 0.7, 0.85], help="of the gradient at the start"
    )
    parser.add_argument("--weights", nargs="+", type=float, help="of the loss, in place of shares")
    parser.add_argument("--gan", nargs="+", type=float, default=[0.0], help="weights of the adversarial loss")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["Set5", "Set14", "Urban100", "CLIC"])
    parser.add_argument("--vgg", type=Path, help="weights of VGG16, for the loss vgg")
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/measured/loss_comparison"))
    parser.add_argument("--out", type=Path, default=Path("runs/loss_comparison"))
    parser.add_argument("--table", type=float, metavar="COST", help="train nothing; compare at this PSNR cost in dB")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table is not None:
        print(markdown(at_cost(curves(options), options.table), options.table))
        return
    options.rows.mkdir(parents=True, exist_ok=True)
    photographs = Photographs(options.data / "cid22_512_train")
    for seed in options.seeds:
        for gan in options.gan:
            for loss in options.losses:
                amounts = [(0.0, weight) for weight in options.weights or ()] or [(s, None) for s in options.shares]
                for share, weight in amounts if loss != "none" else [(0.0, None)]:
                    run(Row(options.start, loss, share, gan, seed, options.steps, weight), options, photographs)


if __name__ == "__main__":
    main()
