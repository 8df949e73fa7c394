"""Does the HackingGuard detect an exploited critic without false alarms? Small x4 network, photographs, one CPU.

    python benchmarks/guard.py            # 12 minutes on one idle core; --seeds 0 for one seed, --quick to try it out
    python benchmarks/guard.py --attack   # the second table alone: adversarial images instead of training

A residual pixel-shuffle network is trained with L1 first (a network that lacks image information draws grids even for
HaarPSI). Then each run fine-tunes it: with a deliberately weak critic (a tiny untrained CNN), which should cause an
alarm within 300 steps, and with HaarPSI and SSIM for 500 steps, which should not. Two guards check each run, every 20
and every 100 steps. Prints a table and writes runs/guard/summary.json. Interrupted, it continues with the next run;
delete runs/guard to measure again.

With --attack nothing is fine-tuned: after three clean checks the outputs are attacked (PGD on the critic, 10 steps
within +-eps) for three checks; the table holds the share of trials with an alarm.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from sr_perceptual_loss import Critic, CriticCard, CriticLoss, SizeRule, SSIMLoss
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.monitor.dots import dot_maps, dotted_share
from sr_perceptual_loss.monitor.guard import HackingGuard
from sr_perceptual_loss.monitor.measures import fidelity
from sr_perceptual_loss.monitor.spectrum import high_frequency_ratio, periodic_excess

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "guard"
sys.path.append(str(ROOT / "examples"))

import demo  # noqa: E402 - its photographs

SCALE, PATCH, BATCH = 4, 20, 8
#: run -> (critic, weight of L1, steps). The critic's weight makes its gradient at the output as large as that of L1 of
#: weight 1, measured at the first step.
RUNS: dict[str, tuple[str, float, int]] = {
    "weak critic alone": ("weak", 0.0, 300),
    "weak critic, L1": ("weak", 1.0, 300),
    "weak critic x0.3, L1": ("weak", 3.3, 300),
    "HaarPSI alone": ("haarpsi", 0.0, 500),
    "HaarPSI, L1": ("haarpsi", 1.0, 500),
    "SSIM alone": ("ssim", 0.0, 500),
}


class WeakCritic(Critic):
    """The mean of an untrained three-layer CNN: differentiable and deterministic, but unrelated to quality."""

    card = CriticCard("weak", "none", SizeRule(minimum=8), (-1.0, 1.0), relative=False, needs_weights=False)

    def __init__(self, seed: int = 0) -> None:
        super().__init__({"seed": seed})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Conv2d(6, 16, 3), nn.LeakyReLU(0.2), nn.Conv2d(16, 16, 3, 2), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 3)
            )

    def _encode_target(self, hr: Tensor) -> tuple[Tensor, ...]:
        return ()

    def _compare(self, sr: Tensor, hr: Tensor, target: tuple[Tensor, ...]) -> Tensor:
        return self.net(torch.cat([sr, hr], 1)).mean((1, 2, 3))


class Network(nn.Module):
    """Residual body, two pixel shuffles, bilinear skip: the design of MSRResNet, 40 k parameters."""

    def __init__(self, width: int = 16, blocks: int = 4) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(blocks)
        )
        self.up = nn.Sequential(
            nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.LeakyReLU(0.1),
            nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.LeakyReLU(0.1),
            nn.Conv2d(width, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, lr: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 4 H, 4 W)."""
        x = F.leaky_relu(self.head(lr), 0.1)
        for block in self.body:
            x = x + block(x)
        return self.up(x) + F.interpolate(lr, scale_factor=SCALE, mode="bilinear", align_corners=False)


def photographs(names: tuple[str, ...]) -> list[tuple[Tensor, Tensor]]:
    """(LR, HR) of bundled photographs."""
    pairs = []
    for name in names:
        hr = torch.from_numpy(demo.read_bundled(name)).permute(2, 0, 1)[None].float() / 255
        pairs.append((F.interpolate(hr, scale_factor=1 / SCALE, mode="bicubic", antialias=True).clamp(0, 1), hr))
    return pairs


def batches(pairs: list[tuple[Tensor, Tensor]], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless random crops, flipped at random."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    while True:
        crops = []
        for _ in range(BATCH):
            lr, hr = pairs[draw(len(pairs))]
            top, left = draw(lr.shape[2] - PATCH + 1), draw(lr.shape[3] - PATCH + 1)
            a = lr[..., top : top + PATCH, left : left + PATCH]
            b = hr[..., SCALE * top : SCALE * (top + PATCH), SCALE * left : SCALE * (left + PATCH)]
            crops.append((a.flip(-1), b.flip(-1)) if draw(2) else (a, b))
        yield torch.cat([a for a, _ in crops]), torch.cat([b for _, b in crops])


def pretrained(pairs: list[tuple[Tensor, Tensor]], seed: int, steps: int) -> Network:
    """The network after L1; kept in runs/guard."""
    torch.manual_seed(seed)
    net, path = Network(), OUT / f"pretrained_{seed}_{steps}.pt"
    if path.is_file():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 1e-4)
    data = batches(pairs, 1000 + seed)
    for _ in track(range(steps), f"L1 first, seed {seed}"):
        lr, hr = next(data)
        optimizer.zero_grad()
        F.l1_loss(net(lr), hr).backward()
        optimizer.step()
        schedule.step()
    torch.save(net.state_dict(), path)
    return net


def make_loss(kind: str, seed: int) -> PairLoss:
    return SSIMLoss() if kind == "ssim" else CriticLoss(WeakCritic(seed) if kind == "weak" else kind)


def gradient_norm(loss: PairLoss | nn.Module, sr: Tensor, hr: Tensor) -> float:
    image = sr.detach().requires_grad_()
    return float(torch.autograd.grad(loss(image, hr), image)[0].norm())


@torch.no_grad()
def measured(net: Network, loss: PairLoss, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """On centre crops (256 pixels) of the held-out photographs."""
    lr, hr = [], []
    for a, b in pairs:
        top, left = (a.shape[2] - 64) // 2, (a.shape[3] - 64) // 2
        lr.append(a[..., top : top + 64, left : left + 64])
        hr.append(b[..., SCALE * top : SCALE * (top + 64), SCALE * left : SCALE * (left + 64)])
    lr, hr = torch.cat(lr), torch.cat(hr)
    sr = net(lr).clamp(0, 1)
    values = {name: value for name, (value, _) in fidelity(sr, hr).items()}
    values["hf"] = float(high_frequency_ratio(sr, hr))
    values["grid"] = 255 * max(float(v) for v in periodic_excess(sr, hr).values())
    values["dots"] = dotted_share(dot_maps(sr, hr))
    values["score"] = float(loss.scores(sr, hr).mean())
    return values


def run(name: str, seed: int, net: Network, train: list[tuple[Tensor, Tensor]], limit: int) -> dict[str, Any]:
    """Fine-tune; the alarms, and the network at the end."""
    kind, fidelity_share, steps = RUNS[name]
    steps, net, loss = min(steps, limit), copy.deepcopy(net), make_loss(kind, seed)
    guards = {every: HackingGuard(every=every) for every in (20, 100)}
    alarms: dict[int, list[str]] = {every: [] for every in guards}
    for guard in guards.values():
        guard.on_alarm = lambda alarm: None
    optimizer = torch.optim.Adam(net.parameters(), 3e-4)
    data, weight = batches(train, 2000 + seed), 0.0
    for iteration in track(range(1, steps + 1), f"seed {seed}: {name}"):
        lr, hr = next(data)
        sr = net(lr)
        total = fidelity_share * F.l1_loss(sr, hr)
        loss.step(iteration)
        if not weight:
            weight = gradient_norm(nn.L1Loss(), sr, hr) / gradient_norm(loss, sr, hr)
        for every, guard in guards.items():
            alarms[every] += [str(alarm) for alarm in guard.step(iteration, sr, hr, {kind: loss})]
        total = total + weight * loss(sr, hr)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return {"steps": steps, "alarms": alarms, "net": net, "loss": loss}


def attacked(loss: PairLoss, sr: Tensor, hr: Tensor, eps: float) -> Tensor:
    """PGD: ten sign steps of eps / 4 that raise the score, within +-eps of ``sr``."""
    moved = sr.clone()
    for _ in range(10 if eps else 0):
        image = moved.requires_grad_()
        moved = image.detach() - eps / 4 * torch.autograd.grad(loss(image, hr), image)[0].sign()
        moved = torch.minimum(torch.maximum(moved, sr - eps), sr + eps).clamp(0, 1)
    return moved


def detection(net: Network, pairs: list[tuple[Tensor, Tensor]], kind: str, level: int, trials: int) -> float:
    """Share of trials in which the guard raised an alarm; level 0 is the false alarms."""
    alarms = 0
    for trial in range(trials):
        loss, seen = make_loss(kind, trial), []
        guard, data = HackingGuard(every=1), batches(pairs, 3000 + trial)
        guard.on_alarm = seen.append
        for iteration in range(1, 7):
            lr, hr = next(data)
            with torch.no_grad():
                sr = net(lr).clamp(0, 1)
            guard.step(iteration, attacked(loss, sr, hr, level / 255) if iteration > 3 else sr, hr, {kind: loss})
        alarms += bool(seen)
    return alarms / trials


def attack(console: Console, seed: int, options: argparse.Namespace) -> None:
    train = photographs(demo.TRAIN)
    net = pretrained(train, seed, 5 if options.quick else options.pretrain)
    levels, trials = (0, 1, 2, 4, 8), 2 if options.quick else 10
    table = Table("critic", *(f"eps {level}/255" if level else "not attacked" for level in levels))
    for kind in ("weak", "haarpsi", "ssim"):
        rates = [detection(net, train, kind, level, trials) for level in track(levels, f"attacks on {kind}")]
        table.add_row(kind, *(f"{rate:.0%}" for rate in rates))
    console.print(table, f"{trials} trials each", sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--pretrain", type=int, default=600)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    parser.add_argument("--attack", action="store_true", help="the second table alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    console, limit = Console(width=160), 5 if options.quick else 10**9
    if options.attack:
        attack(console, options.seeds[0], options)
        return
    train, held_out = photographs(demo.TRAIN), photographs(demo.HELD_OUT)
    columns = ("alarm (K=20)", "alarm (K=100)", "score", "PSNR", "SSIM", "HaarPSI", "HF/GT", "grid", "dots")
    table, kept = Table("seed", "run", "steps", *columns), OUT / f"summary{'_quick' * options.quick}.json"
    done = {(row["seed"], row["run"]): row for row in (json.loads(kept.read_text()) if kept.is_file() else [])}
    summary = []
    for seed in options.seeds:
        start = pretrained(train, seed, 5 if options.quick else options.pretrain)
        for name in options.runs:
            if (seed, name) not in done:
                result = run(name, seed, start, train, limit)
                before, after = (measured(n, result["loss"], held_out) for n in (start, result["net"]))
                alarms = {str(every): texts for every, texts in result["alarms"].items()}
                row = {"seed": seed, "run": name, "before": before, "after": after}
                done[seed, name] = {**row, "steps": result["steps"], "alarms": alarms}
                kept.write_text(json.dumps(list(done.values()), indent=1) + "\n")
            row = done[seed, name]
            summary.append(row)
            first = [a[0].split(":")[0].split()[1] if a else "none" for a in row["alarms"].values()]
            shown = [f"{row['before'][k]:.{d}f} -> {row['after'][k]:.{d}f}" for k, d in
                     (("score", 3), ("psnr", 2), ("ssim", 3), ("haarpsi", 3), ("hf", 2), ("grid", 2), ("dots", 2))
                     ]  # fmt: skip
            table.add_row(str(seed), name, str(row["steps"]), *first, *shown)
    console.print(table)
    for row in summary:
        for every, texts in row["alarms"].items():
            for text in texts:
                console.print(f"seed {row['seed']}, {row['run']}, K={every}: {text}", soft_wrap=True)


if __name__ == "__main__":
    main()
