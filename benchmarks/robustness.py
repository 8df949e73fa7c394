r"""What happens to images when a critic is optimised: attacks on pixels, and three small SR networks per critic.

    python benchmarks/robustness.py --photographs CID22 --test SET14 --rated KADID_I01 TID2013_I01 \
        --critics haarpsi texture_stats

The names in capitals are folders (docs/data.md). A folder for --rated contains some images of a
rated data set and one CSV with the columns ref, dist, mos.

Each critic is compared with the L1 control, trained for the same number of steps on the same crops. Prints one table of
attacks, one of fine-tunes (means over the seeds) and the gates. Writes runs/robustness/summary.json, sheet.png with
crops of all fine-tunes of the first seed, and the images of each. Finished parts are kept, so an interrupted run
continues, and runs with other critics, heads or seeds use them again. One core needs about 2 minutes per critic, head
and seed, and 2 per head and seed for the pixel stage.

With `--sums share` a loss has its share of the gradient in every step. With `plain` the weight at which it has the
share at the start stays, as in a YAML with the weight that `srpl probe` proposes.

How strongly a network of 60 thousand parameters shows one grid frequency differs from seed to seed, and for one seed
from CPU to CPU, by as much as the gate allows: use several seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from speed.cases import build_cases, image_pair
from speed.measuring import gradient, interleaved
from torch import Tensor
from trials.networks import HEADS
from trials.sheet import busiest, contact_sheet
from trials.training import Photographs, Plan, image_pairs
from trials.trial import FROM_BICUBIC, FROM_GT, Trial

from sr_perceptual_loss import Critic, CriticLoss, SSIMLoss, create_critic
from sr_perceptual_loss.lab.data.images import read_image
from sr_perceptual_loss.losses.base import PairLoss

CONTROL = "l1"
COLUMNS = (
    *("psnr_y", "ssim_y", "haarpsi", "hf_ratio", "peak_2", "peak_3", "peak_4"),
    *("lattice", "dots", "colour", "score", "above_gt"),
)
#: (bounds on the amplitude of high frequencies compared with GT, most dB of PSNR lost) after a fine-tune.
LIMITS = {"weight_free": ((0.6, 1.05), 1.0), "learned": ((0.25, 1.05), 0.5)}
#: Largest allowed spectral peak at a grid frequency, as a multiple of that of the L1 control.
PEAK = 2.0
#: Largest allowed share of the area with visible dots, and change of colour in 8-bit levels.
MOST = {"dots": 0.05, "colour": 2.0}
#: Side of the crops of the contact sheet, and how many pictures it shows at least.
SHOWN, PICTURES = 96, 3


@dataclass(frozen=True)
class Gate:
    """One limit: what was measured, the value, the limit as text, and whether the value is within it."""

    name: str
    value: float
    limit: str
    passed: bool


def check_gates(
    kind: str,
    attack: Mapping[str, Mapping[str, float]],
    heads: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]],
) -> list[Gate]:
    """Compare measurements with the limits.

    Args:
        kind: ``weight_free`` or ``learned``.
        attack: ``before`` and ``after`` an attack from bicubic: measures with ``haarpsi``.
        heads: head -> (measures of the L1 control, measures with the critic) on the same images.

    Returns:
        One :class:`Gate` per limit.
    """
    before, after = attack["before"]["haarpsi"], attack["after"]["haarpsi"]
    gates = [Gate("attack from bicubic: HaarPSI", after, f">= {before:.4f} (before)", after >= before - 1e-4)]
    (low, high), most_lost = LIMITS[kind]
    for head, (control, measured) in heads.items():
        ratio, lost = measured["hf_ratio"], control["psnr_y"] - measured["psnr_y"]
        gates.append(Gate(f"{head}: high-frequency ratio", ratio, f"{low} .. {high}", low <= ratio <= high))
        gates.append(Gate(f"{head}: PSNR lost, dB", lost, f"<= {most_lost}", lost <= most_lost))
        for key in sorted(k for k in measured if k.startswith("peak_")):
            limit, name = PEAK * control[key], f"{head}: spectral peak of period {key.removeprefix('peak_')}"
            gates.append(Gate(name, measured[key], f"<= {limit:.2f} ({PEAK:g} x control)", measured[key] <= limit))
        for key, most in MOST.items():
            gates.append(Gate(f"{head}: {key}", measured[key], f"<= {most:g}", measured[key] <= most))
    return gates


@torch.no_grad()
def ordered_pairs(critic: Critic, folder: Path) -> tuple[int, int]:
    """(pairs that the critic orders as people do, all pairs) of the rated images of a folder.

    The folder has one CSV with ref, dist, mos; the reference counts as better than all its versions.
    """
    (file,) = folder.glob("*.csv")
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    right = total = 0
    for reference in sorted({row["ref"] for row in rows}):
        hr = read_image(folder / reference)[None]
        rated = [(float("inf"), float(critic.score(hr, hr)))]
        for row in (row for row in rows if row["ref"] == reference):
            rated.append((float(row["mos"]), float(critic.score(read_image(folder / row["dist"])[None], hr))))
        for (mos_a, score_a), (mos_b, score_b) in combinations(rated, 2):
            if mos_a != mos_b:
                total += 1
                right += (score_a - score_b) * (1 if mos_a > mos_b else -1) > 0
    return right, total


def loss_of(name: str) -> tuple[Critic, PairLoss | None]:
    """The critic that scores, and the loss (None for the control); SSIM is scored by HaarPSI."""
    if name in (CONTROL, "ssim"):
        return create_critic("haarpsi"), SSIMLoss() if name == "ssim" else None
    loss = CriticLoss(name)
    return loss.critic, loss


def cost(critic: Critic) -> float:
    """Time of forward and backward to a 256-pixel image, in units of LPIPS-VGG; medians of 5 interleaved calls."""
    sr, hr = image_pair(1, 256)
    cases = build_cases([critic], ["lpips_vgg"], forms=["fast"], calibrated=False)
    forwards = {case.form: case.bind(hr) for case in cases}
    calls = {form: (lambda forward=forward: gradient(forward, sr)) for form, forward in forwards.items()}
    seconds = interleaved(calls, 5)
    return statistics.median(seconds["fast"]) / statistics.median(seconds["baseline"])


def fine_tuned(trials: Mapping[str, Trial], seeds: Sequence[int]) -> tuple[dict, dict]:
    """Head -> means of the measures over the seeds; head -> the measures of each seed."""
    each = {
        head: [replace(trial, plan=replace(trial.plan, seed=seed)).head(head) for seed in seeds]
        for head, trial in trials.items()
    }
    means = {head: {c: statistics.fmean(row[c] for row in rows) for c in rows[0]} for head, rows in each.items()}
    return means, each


def save_sheet(trials: Mapping[str, Mapping[str, Trial]], pictures: Sequence[tuple[str, Tensor]], file: Path) -> None:
    """Rows: the heads, each with some pictures. Columns: the fine-tunes. All of the first seed."""
    heads = next(iter(trials.values()))
    rows: dict[str, dict[str, Tensor]] = {f"{head}, {name}": {"GT": hr} for head in heads for name, hr in pictures}
    for column, of_heads in trials.items():
        for head, trial in of_heads.items():
            for name, _ in pictures:
                image = read_image(trial.out / trial.name_of(head) / f"{name}.png")[None]
                rows[f"{head}, {name}"][column] = image
    corners = {row: busiest(images["GT"], SHOWN) for row, images in rows.items()}
    contact_sheet(rows, corners, SHOWN).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="folder to fine-tune on")
    parser.add_argument("--test", type=Path, required=True, help="folder of x4 test pairs, or of photographs")
    parser.add_argument("--rated", type=Path, nargs="*", default=[], help="folders with rated images and one CSV")
    parser.add_argument("--pictures", type=int, default=8, help="test images, the smallest ones")
    parser.add_argument("--critics", nargs="*", default=["haarpsi", "ssim", "texture_stats"])
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    parser.add_argument("--share", nargs="+", type=float, default=[0.5], help="of the gradient's norm; one or per head")
    parser.add_argument("--sums", nargs="+", default=["share"], choices=["share", "plain"], help="plain: fixed weight")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of initialisation and crops")
    parser.add_argument("--pixel-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rate", type=float, default=Plan.rate, help="learning rate with the critic, and of L1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"))
    options = parser.parse_args()
    if len(options.share) not in (1, len(options.heads)):
        parser.error(f"--share: got {len(options.share)} numbers, expected 1 or {len(options.heads)}")
    given = options.share if len(options.share) > 1 else options.share * len(options.heads)
    shares = dict(zip(options.heads, given, strict=True))
    torch.set_num_threads(1)
    console = Console(width=170)
    photographs = Photographs(options.photographs)
    pairs = sorted(image_pairs(options.test), key=lambda pair: pair[2].numel())[: options.pictures]
    plan = Plan(pixel_steps=options.pixel_steps, steps=options.steps, batch=options.batch, rate=options.rate)
    attacks = Table("critic", "from", "stage", *COLUMNS, title="attacks on pixels")
    title = f"{options.steps} steps, means over {len(options.seeds)} seeds, shares {shares}"
    tunes = Table("critic", "sum", "head", *COLUMNS, title=title)
    summary: dict[str, object] = {"pictures": [name for name, _, _ in pairs], "plan": plan.key(), "shares": shares}
    control: dict[str, dict[str, float]] = {}
    shown: dict[str, dict[str, Trial]] = {}
    for name in [CONTROL, *options.critics]:
        critic, loss = loss_of(name)
        trial = Trial(name, critic, loss, 0.0, photographs, pairs, plan, options.out, console.print)
        attackable = loss is not None and name != "ssim"
        attacked = {attack.start: trial.attack(attack) for attack in (FROM_GT, FROM_BICUBIC) if attackable}
        for start, stages in attacked.items():
            for stage, row in stages.items():
                attacks.add_row(name, start, stage, *(f"{row[c]:.3f}" for c in COLUMNS))
        tuned, each = {}, {}
        for kind_of_sum in options.sums if loss is not None else ["share"]:
            label = name if loss is None else f"{name}, {kind_of_sum}"
            trials = {h: replace(trial, share=s, plain=kind_of_sum == "plain") for h, s in shares.items()}
            tuned[kind_of_sum], each[kind_of_sum] = fine_tuned(trials, options.seeds)
            first = replace(plan, seed=options.seeds[0])
            shown[label] = {head: replace(one, plan=first) for head, one in trials.items()}
            for head, row in tuned[kind_of_sum].items():
                tunes.add_row(name, kind_of_sum, head, *(f"{row[c]:.3f}" for c in COLUMNS))
        summary[name] = {"attacks": attacked, "heads": tuned, "seeds": each}
        control = control or tuned["share"]
        if attacked:
            kind = "learned" if critic.card.needs_weights else "weight_free"
            heads = {
                f"{head}, {how}": (control[head], row) for how, rows in tuned.items() for head, row in rows.items()
            }
            gates = check_gates(kind, attacked["bicubic"], heads)
            for folder in options.rated:
                right, total = ordered_pairs(critic, folder)
                gates.append(Gate(f"pairs of {folder.name} in order", right, f"all of {total}", right == total))
            for gate in gates:
                verdict = "[green]pass[/]" if gate.passed else "[red]FAIL[/]"
                console.print(f"{verdict} {name}: {gate.name} = {gate.value:.4g} ({gate.limit})")
            summary[f"{name} gates"] = [vars(gate) for gate in gates]
            summary[f"{name} cost"] = cost(critic)
            console.print(f"{name}: {summary[f'{name} cost']:.3f} of the time of LPIPS-VGG")
    console.print(attacks)
    console.print(tunes)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    save_sheet(
        shown, [(name, hr) for name, _, hr in pairs[:: max(1, len(pairs) // PICTURES)]], options.out / "sheet.png"
    )
    console.print(f"wrote {options.out / 'summary.json'} and sheet.png; the images are beside them")


if __name__ == "__main__":
    main()
