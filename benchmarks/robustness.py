r"""What happens to pictures when a critic is optimised: attacks on pixels, and three small SR networks per critic.

    python benchmarks/robustness.py --photographs ../shared/data/cid22_512_train --test ../shared/data/Set14_x4 \
        --rated ../shared/data/kadid_i01 ../shared/data/tid2013_i01 --critics haarpsi texture_stats

Beside each critic: the L1 control, trained for the same number of steps on the same crops. Prints one table of attacks,
one of fine-tunes (means over the seeds) and the gates, and writes runs/robustness/summary.json and contact_sheet.png.
Finished parts are kept; an interrupted run goes on, and several runs with other critics, heads or seeds can share the
work. About 2 minutes of one core per critic, head and seed, 2 per head and seed for the pixel stage.

What a network of some 60 thousand parameters does at one grid frequency differs from seed to seed, and for one seed
from CPU to CPU, by as much as the gate allows: judge on several seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from robustness_lab.attacks_networks import HEADS
from robustness_lab.fine_tuning import Schedule
from robustness_lab.gates import Gate, GateRule, check_gates
from robustness_lab.ordering import ordered_pairs, read_rated
from robustness_lab.photographs import Photographs, x4_pairs
from robustness_lab.running import FROM_BICUBIC, FROM_GT, Trial
from speed.baselines import build_rival
from speed.calibrating import pictures
from speed.measuring import gradient, interleaved

from sr_perceptual_loss import Critic, CriticLoss, create_critic
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.ssim_loss import SSIMLoss

CONTROL = "l1"
COLUMNS = ("psnr_y", "ssim_y", "haarpsi", "hf_ratio", "peak_2", "peak_3", "peak_4", "lattice", "score", "above_gt")


def loss_of(name: str, weights: str, augment: str) -> tuple[Critic, PairLoss | None]:
    """The critic that judges, and the loss (None for the control); `ssim` is judged by HaarPSI."""
    if name == CONTROL:
        return create_critic("haarpsi"), None
    if name == "ssim":
        return create_critic("haarpsi"), SSIMLoss()
    loss = CriticLoss(name, weights=weights if name == "rqi_lite" else "local", augment=json.loads(augment or "{}"))
    return loss.critic, loss


def cost(critic: Critic) -> float:
    """Forward and backward to a 256-pixel image, in units of the time of LPIPS-VGG; medians of 5 interleaved calls."""
    sr, hr = pictures(1, 256)
    rival, form = build_rival("lpips_vgg"), critic.inference_form()
    calls = {
        "critic": lambda: gradient(lambda x: form.score(x, hr), sr),
        "lpips": lambda: gradient(lambda x: rival(x, hr), sr),
    }
    seconds = interleaved(calls, 5)
    return statistics.median(seconds["critic"]) / statistics.median(seconds["lpips"])


def order_gate(critic: Critic, folders: list[Path]) -> Gate:
    """Whether the rated pictures are ordered as people order them."""
    rated = [item for folder in folders for item in read_rated(folder)]
    right, total = ordered_pairs(critic, rated)
    return Gate("rated pairs in order", right, f"all of {total}", right == total)


def fine_tuned(trial: Trial, shares: dict[str, float], seeds: Sequence[int]) -> tuple[dict, dict]:
    """Head -> means of the measures over the seeds; head -> the measures of each seed."""
    each = {
        head: [replace(trial, share=share, plan=replace(trial.plan, seed=seed)).head(head) for seed in seeds]
        for head, share in shares.items()
    }
    means = {head: {c: statistics.fmean(row[c] for row in rows) for c in rows[0]} for head, rows in each.items()}
    return means, each


def shares_of(heads: Sequence[str], shares: Sequence[float]) -> dict[str, float]:
    """Head -> share, from one number for all or one for each."""
    if len(shares) not in (1, len(heads)):
        raise SystemExit(f"--share: got {len(shares)} numbers, expected one, or one for each of {len(heads)} heads.")
    return dict(zip(heads, shares if len(shares) > 1 else shares * len(heads), strict=True))


def contact_sheet(out: Path, names: list[str], pictures: list[str], side: int = 160) -> None:
    """One row per kind of trial, one column per critic."""
    sheet = Image.new("RGB", (len(names) * (side + 4), len(pictures) * (side + 18)), "white")
    for column, name in enumerate(names):
        for row, what in enumerate(pictures):
            files = sorted(out.glob(f"picture-{name}-{what}*.pt"))
            if not files:
                continue
            image = torch.load(files[-1], weights_only=True)[0]
            top, left = ((length - side) // 2 for length in image.shape[-2:])
            crop = image[:, max(0, top) :, max(0, left) :][:, :side, :side]
            place = (column * (side + 4), row * (side + 18))
            sheet.paste(Image.fromarray(crop.permute(1, 2, 0).numpy()), (place[0], place[1] + 16))
            ImageDraw.Draw(sheet).text(place, f"{name} {what}", fill="black")
    sheet.save(out / "contact_sheet.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="folder to fine-tune on")
    parser.add_argument("--test", type=Path, required=True, help="folder of x4 test pairs, or of photographs")
    parser.add_argument("--rated", type=Path, nargs="*", default=[], help="folders with rated pictures and one CSV")
    parser.add_argument("--pictures", type=int, default=8, help="test pictures, the smallest ones")
    parser.add_argument("--critics", nargs="*", default=["haarpsi", "ssim", "texture_stats"])
    parser.add_argument("--weights", default="local", help="of rqi_lite: a .safetensors file")
    parser.add_argument("--augment", default="", help='JSON, such as {"shift": 4, "rescale": [0.67, 1.0]}')
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    parser.add_argument(
        "--share", nargs="+", type=float, default=[0.5], help="of the gradient's norm; one, or per head"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of initialisation and crops")
    parser.add_argument("--pixel-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rate", type=float, default=Schedule.rate, help="learning rate with the critic, and of L1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"))
    options = parser.parse_args()
    console = Console(width=150)
    photographs = Photographs(options.photographs)
    pairs = sorted(x4_pairs(options.test), key=lambda pair: pair[2].numel())[: options.pictures]
    plan = Schedule(pixel_steps=options.pixel_steps, steps=options.steps, batch=options.batch, rate=options.rate)
    attacks = Table("critic", "from", "stage", *COLUMNS, title="attacks on pixels")
    shares = shares_of(options.heads, options.share)
    title = f"{options.steps} steps, means over {len(options.seeds)} seeds, shares {shares}"
    tunes = Table("critic", "head", *COLUMNS, title=title)
    control: dict[str, dict[str, float]] = {}
    summary: dict[str, object] = {"pictures": [name for name, _, _ in pairs], "plan": plan.key(), "shares": shares}
    for name in [CONTROL, *options.critics]:
        critic, loss = loss_of(name, options.weights, options.augment)
        trial = Trial(name, critic, loss, 0.0, photographs, pairs, plan, options.out, console.print)
        attacked: dict[str, dict[str, dict[str, float]]] = {}
        if loss is not None and name != "ssim":
            attacked = {attack.start: trial.attack(attack) for attack in (FROM_GT, FROM_BICUBIC)}
        for start, stages in attacked.items():
            for stage, row in stages.items():
                attacks.add_row(name, start, stage, *(f"{row[c]:.3f}" for c in COLUMNS))
        found, each = fine_tuned(trial, shares, options.seeds)
        for head, row in found.items():
            tunes.add_row(name, head, *(f"{row[c]:.3f}" for c in COLUMNS))
        summary[name] = {"attacks": attacked, "heads": found, "seeds": each}
        if name == CONTROL:
            control = found
        elif attacked:
            rule = GateRule.of("learned" if critic.card.needs_weights else "weight_free")
            gates = check_gates(rule, attacked["bicubic"], {h: (control[h], found[h]) for h in found})
            gates += [order_gate(critic, options.rated)] if options.rated else []
            summary[f"{name} cost"] = cost(critic)
            console.print(f"{name}: {summary[f'{name} cost']:.3f} of the time of LPIPS-VGG")
            summary[f"{name} gates"] = [vars(gate) for gate in gates]
            for gate in gates:
                verdict = "[green]pass[/]" if gate.passed else "[red]FAIL[/]"
                console.print(f"{verdict} {name}: {gate.name} = {gate.value:.4g} ({gate.limit})")
    console.print(attacks)
    console.print(tunes)
    contact_sheet(options.out, [CONTROL, *options.critics], [f"tune-{h}" for h in options.heads] + ["attack-bicubic"])
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    console.print(f"wrote {options.out / 'summary.json'} and contact_sheet.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
