"""The beta/alpha ablation of the Efficient-PBAN paper (its Table 2) in small, with every balance of the ratio loss.

    python examples/table2_ablation.py                  # photographs that scikit-image bundles, nothing is downloaded
    python examples/table2_ablation.py --data FOLDER    # train on the PNG files of a folder instead

A small x4 network is trained with L1, then fine-tuned once per balance and ratio from the same start, on the same
patches. The critic is a stand-in that this script trains on a formula (`pseudo_mos`), since no Efficient-PBAN weights
are published: the shapes of the curves carry over to other critics, the numbers do not. HaarPSI is in no loss here.
Interrupted, the same command continues. Writes runs/table2/*.json, table2_ablation.md and table2_ablation.png; the
measured results are discussed in docs/table2_ablation.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from sr_perceptual_loss import Critic, CriticCard, InputError, SizeRule, create_critic, ssim
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ("motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "retina.jpg", "ihc.png", "hubble_deep_field.jpg",
         "camera.png", "grass.png", "gravel.png", "brick.png", "coins.png", "moon.png")  # fmt: skip
HELD_OUT = ("astronaut.png", "chelsea.png", "coffee.png")
SCALE, SIDE, BATCH, BORDER = 4, 80, 4, 4
PRETRAIN_STEPS, CRITIC_STEPS, STEPS, RATE = 1000, 800, 160, 2e-4
#: (beta, alpha), as the paper lists them.
RATIOS = tuple((b, 10 - b) for b in range(1, 10))
#: loss_balance -> seeds of its runs.
BALANCES: dict[str, tuple[int, ...]] = {
    "grad_norm": (0, 1),
    "eq12": (0,),
    "none": (0,),
}
MEASURES = {"psnr": ("PSNR", ".2f"), "ssim": ("SSIM", ".4f"), "critic": ("critic", ".3f"), "mos": ("pseudo-MOS", ".3f"),
            "haarpsi": ("HaarPSI", ".4f")}  # fmt: skip


class Upscaler(nn.Sequential):
    """A plain x4 network: 3x3 convolutions, pixel shuffle, added to the bicubic enlargement."""

    def __init__(self, width: int = 32, depth: int = 6) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(width, 3 * SCALE**2, 3, padding=1), nn.PixelShuffle(SCALE))

    def forward(self, lr: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, 3, 4h, 4w)."""
        return super().forward(lr) + F.interpolate(lr, scale_factor=SCALE, mode="bicubic", align_corners=False)


class StandIn(Critic):
    """Siamese CNN with a positive, upwards unbounded score. Equation (12) means nothing for Q <= 0 and stops there."""

    card = CriticCard("stand_in", "none", SizeRule(minimum=16), (1.0, 5.0), relative=False, needs_weights=False)

    def __init__(self, width: int = 16) -> None:
        super().__init__({"width": width})
        widths = (3, width, 2 * width, 3 * width, 4 * width)
        self.body = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, stride=1 if a == 3 else 2) for a, b in pairwise(widths))
        self.head = nn.Sequential(nn.Linear(2 * sum(widths[1:]) + widths[-1], 64), nn.GELU(), nn.Linear(64, 1))

    def _encode_target(self, hr: Tensor) -> tuple[Tensor, ...]:
        features = []
        image = 2 * hr - 1
        for layer in self.body:
            image = F.gelu(layer(image))
            features.append(image)
        return tuple(features)

    def _compare(self, sr: Tensor, hr: Tensor, target: tuple[Tensor, ...]) -> Tensor:
        features = self._encode_target(sr)
        # Fine layers are compared by their statistics, the coarse one place by place: like the papers' critics, and
        # unlike SSIM, this tolerates texture that has moved.
        pooled = [x.mean((2, 3)) for x in (*features, *target)]
        pooled.append((features[-1] - target[-1]).abs().mean((2, 3)))
        return F.softplus(3 + self.head(torch.cat(pooled, 1))[:, 0])


def pseudo_mos(sr: Tensor, hr: Tensor) -> Tensor:
    """1 + 4 * (match of local texture energy) * (SSIM at a quarter of the size), (N,): a made-up opinion in [1, 5]."""
    energies = []
    for image in (sr, hr):
        gray = image.mean(1, keepdim=True)
        detail = gray - F.avg_pool2d(F.pad(gray, (1, 1, 1, 1), mode="replicate"), 3, 1)
        energies.append(F.avg_pool2d(detail**2, 8, 4).add(1e-5).sqrt())
    a, b = energies
    texture = ((2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)).mean((1, 2, 3))
    coarse = ssim(F.avg_pool2d(sr, 4), F.avg_pool2d(hr, 4)).clamp_min(0)
    return 1 + 4 * texture * coarse


def read(path: Path) -> Tensor:
    """(3, H, W) in [0, 1]."""
    from PIL import Image

    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255


def photographs(names: Sequence[str]) -> list[Tensor]:
    import skimage

    return [read(Path(skimage.__file__).parent / "data" / name) for name in names]


def shrink(hr: Tensor) -> Tensor:
    size = (hr.shape[-2] // SCALE, hr.shape[-1] // SCALE)
    return F.interpolate(hr, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def patches(images: Sequence[Tensor], count: int, seed: int, batch: int = BATCH) -> Iterator[Tensor]:
    """``count`` batches of random HR patches, flipped at random; the same for the same seed."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        cuts = []
        for _ in range(batch):
            image = images[random.integers(len(images))]
            top, left = (int(random.integers(side - SIDE + 1)) for side in image.shape[-2:])
            cut = image[:, top : top + SIDE, left : left + SIDE]
            cuts.append(cut.flip(2) if random.random() < 0.5 else cut)
        yield torch.stack(cuts)


def pretrain(images: Sequence[Tensor], console: Console) -> Upscaler:
    torch.manual_seed(0)
    network = Upscaler()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PRETRAIN_STEPS, 1e-5)
    for step, hr in enumerate(patches(images, PRETRAIN_STEPS, 10)):
        optimizer.zero_grad()
        loss = F.l1_loss(network(shrink(hr)), hr)
        loss.backward()
        optimizer.step()
        rates.step()
        if step % 200 == 0:
            console.print(f"network, L1: {step}/{PRETRAIN_STEPS}  {loss.item():.4f}")
    return network


def degrade(hr: Tensor, random: np.random.Generator) -> Tensor:
    """One random degradation per image: blur, noise of some grain, sharpening, shuffled pixels; or two of them."""
    height, width = hr.shape[-2:]
    out = []
    for image in hr.split(1):
        for _ in range(int(random.integers(1, 3))):
            kind, amount = random.integers(5), float(random.random())
            if kind <= 1:
                size = [max(4, int(side / (1 + 4 * amount))) for side in (height, width)]
                small = F.interpolate(image, size=size, mode="bicubic", antialias=True)
                image = F.interpolate(small, size=(height, width), mode="bicubic")
            elif kind == 2:
                grain = 2 ** int(random.integers(3))
                noise = torch.from_numpy(random.standard_normal((1, 3, height // grain, width // grain))).float()
                image = image + 0.5 * amount**2 * F.interpolate(noise, size=(height, width))
            elif kind == 3:
                soft = F.avg_pool2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), 5, 1)
                image = image + 3 * amount * (image - soft)
            else:
                shifts = [int(x) for x in random.integers(-6, 7, 2)]
                image = (1 - amount) * image + amount * image.roll(shifts, (2, 3))
        out.append(image)
    return torch.cat(out)


def train_critic(images: Sequence[Tensor], network: Upscaler, console: Console) -> StandIn:
    torch.manual_seed(1)
    critic, random = StandIn(), np.random.default_rng(11)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, CRITIC_STEPS)
    for step, hr in enumerate(patches(images, CRITIC_STEPS, 12, batch=12)):
        with torch.no_grad():
            sr = network(shrink(hr[6:])).clamp(0, 1)
            # Fine-tuning moves towards outputs of the network with something added, so they are trained on as well.
            bad = torch.cat([degrade(hr[:6], random), sr[:3], degrade(sr[3:], random)])
            opinion = pseudo_mos(bad, hr) + 0.2 * torch.from_numpy(random.standard_normal(len(hr))).float()
        optimizer.zero_grad()
        loss = F.mse_loss(critic.score(bad, hr), opinion)
        loss.backward()
        optimizer.step()
        rates.step()
        if step % 200 == 0:
            console.print(f"critic: {step}/{CRITIC_STEPS}  mse {loss.item():.3f}")
    return critic.eval()


def rank_correlation(critic: StandIn, images: Sequence[Tensor]) -> float:
    """Spearman's, between the critic and the formula, on degraded patches of the held-out photographs."""
    random = np.random.default_rng(13)
    with torch.no_grad():
        rows = [(degrade(hr, random), hr) for hr in patches(images, 75, 14)]
        pairs = [(critic.score(bad, hr), pseudo_mos(bad, hr)) for bad, hr in rows]
    ranks = [torch.cat(x).argsort().argsort().double() for x in zip(*pairs, strict=True)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


@torch.no_grad()
def measure(network: nn.Module, critic: Critic, images: Sequence[Tensor]) -> dict[str, float]:
    """Means over 256-pixel centre crops of the held-out photographs, RGB, without border."""
    rows = []
    for image in images:
        top, left = ((side - 256) // 2 for side in image.shape[-2:])
        hr = image[None, :, top : top + 256, left : left + 256]
        cut = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER))
        sr, hr = network(shrink(hr)).clamp(0, 1)[cut], hr[cut]
        rows.append({
            "psnr": float(-10 * torch.log10(F.mse_loss(sr, hr))),
            "ssim": float(ssim(sr, hr)),
            "critic": float(critic.score(sr, hr)),
            "mos": float(pseudo_mos(sr, hr)),
            "haarpsi": float(create_critic("haarpsi").score(sr, hr)),
        })  # fmt: skip
    return {key: float(np.mean([row[key] for row in rows])) for key in MEASURES}


def fine_tune(
    start: Upscaler,
    critic: Critic,
    images: Sequence[Tensor],
    balance: str,
    ratio: tuple[int, int],
    seed: int,
) -> tuple[Upscaler, str]:
    """The network after ``STEPS`` steps, and why it stopped before if it did."""
    network = Upscaler()
    network.load_state_dict(start.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eq12 warns that it is for study only
        loss = SSIMPerceptualRatioLoss(critic, beta=ratio[0] / 10, alpha=ratio[1] / 10, loss_balance=balance)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    for step, hr in enumerate(patches(images, STEPS, 100 + seed)):
        loss.step(step)
        optimizer.zero_grad()
        try:
            loss(network(shrink(hr)), hr).backward()
        except (InputError, FloatingPointError) as error:
            return network, f"stopped at step {step}: {error}"
        optimizer.step()
    return network, ""


def prepare(out: Path, images: Sequence[Tensor], console: Console) -> tuple[Upscaler, StandIn]:
    """Start network and critic, from ``out`` if they are there."""
    network, critic = Upscaler(), StandIn()
    for name, module in (("network", network), ("critic", critic)):
        path = out / f"{name}.pt"
        if not path.is_file():
            made = pretrain(images, console) if name == "network" else train_critic(images, network, console)
            torch.save(made.state_dict(), path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        module.load_state_dict(torch.load(path, weights_only=True))
    return network, critic.eval()


def monotone(rows: Sequence[dict[str, Any]]) -> str:
    """Whether SSIM falls and the critic rises strictly over 1/9 ... 7/3, in words."""
    rows = sorted((r for r in rows if r["beta"] <= 7), key=lambda r: r["beta"])
    up = all(a["critic"] < b["critic"] for a, b in pairwise(rows))
    down = all(a["ssim"] > b["ssim"] for a, b in pairwise(rows))
    return f"critic {'rises' if up else 'does NOT rise'} and SSIM {'falls' if down else 'does NOT fall'} strictly"


def report(start: dict[str, Any], rows: Sequence[dict[str, Any]], data: str, correlation: float) -> str:
    lines = [
        f"x4, 6 convolutions, L1 for {PRETRAIN_STEPS} steps, then {STEPS} Adam steps (lr {RATE:g}, batch {BATCH} of "
        f"{SIDE}x{SIDE}) per row from the same start; trained on {data}. Stand-in critic: {CRITIC_STEPS} steps, rank "
        f"correlation with pseudo-MOS on held-out patches {correlation:.3f}.", "",
        "| balance | beta/alpha | seed | " + " | ".join(title for title, _ in MEASURES.values()) + " |",
        "|---|---|---|" + "---|" * len(MEASURES),
    ]  # fmt: skip
    for row in [start, *rows]:
        cells = " | ".join(f"{row[key]:{form}}" for key, (_, form) in MEASURES.items())
        ratio, seed = (f"{row['beta']}/{row['alpha']}", row["seed"]) if "beta" in row else ("", "")
        lines.append(f"| {row['balance']} | {ratio} | {seed} | {cells} |" + (" (a)" if row.get("note") else ""))
    notes = [f"{r['balance']} {r['beta']}/{r['alpha']} {r['note']}" for r in rows if r.get("note")]
    lines += ["", *(["(a) " + "; ".join(notes), ""] if notes else []), "Over 1/9 ... 7/3:", ""]
    for name, seeds in BALANCES.items():
        for seed in seeds:
            chosen = [r for r in rows if r["balance"] == name and r["seed"] == seed]
            lines.append(f"* {name}, seed {seed}: {monotone(chosen)}.")
    return "\n".join(lines) + "\n"


def plot(start: dict[str, Any], rows: Sequence[dict[str, Any]], path: Path) -> None:
    """PSNR and SSIM against the critic's score: above all balances, below those that do not switch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8.5))
    for axis, key, zoomed in zip(axes.flat, ("psnr", "ssim") * 2, (False, False, True, True), strict=True):
        for number, (marker, name) in enumerate(zip("^sd", BALANCES, strict=True)):
            ratio = name == "eq12"
            chosen = sorted((r for r in rows if r["balance"] == name and r["seed"] == 0), key=lambda r: r["beta"])
            if not chosen or (ratio and zoomed):
                continue
            x, y = ([r[measure] for r in chosen] for measure in ("critic", key))
            axis.plot(x, y, marker, linestyle="none" if ratio else "-",
                      color=f"C{number}", label=name, alpha=0.75, zorder=3 if name == "grad_norm" else 2)  # fmt: skip
            for row in chosen if zoomed and name == "grad_norm" else ():
                axis.annotate(f"{row['beta']}/{row['alpha']}", (row["critic"], row[key]), fontsize=8,
                              xytext=(5, 5), textcoords="offset points")  # fmt: skip
        axis.plot(start["critic"], start[key], "k*", markersize=12, label="start")
        axis.set(xlabel="critic score (held out)", ylabel=MEASURES[key][0])
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle("beta/alpha from 1/9 to 9/1 on a toy. Above: all balances. Below: without eq12; labels: grad_norm")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of PNG files to train on")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "table2")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console, begun = Console(), time.process_time()
    out = args.out / (args.data.name if args.data else "bundled")
    out.mkdir(parents=True, exist_ok=True)
    images = [read(p) for p in sorted(args.data.glob("*.png"))] if args.data else photographs(TRAIN)
    held_out = photographs(HELD_OUT)
    network, critic = prepare(out, images, console)
    correlation = rank_correlation(critic, held_out)
    console.print(f"critic: rank correlation {correlation:.3f} on held-out patches")
    # A result belongs to its settings and its critic; results of others are replaced.
    state = hashlib.sha256(b"".join(v.numpy().tobytes() for m in (network, critic) for v in m.state_dict().values()))
    state.update(repr((STEPS, RATE, BATCH, SIDE, TRAIN, HELD_OUT, str(args.data))).encode())
    key = state.hexdigest()[:12]
    jobs = [(name, ratio, seed) for name, seeds in BALANCES.items() for seed in seeds for ratio in RATIOS]
    # Equation (12) has no gradient at alpha = beta, and the loss refuses it.
    jobs.remove(("eq12", (5, 5), 0))
    start = {"balance": "start", **measure(network, critic, held_out)}
    rows = []
    for number, (name, ratio, seed) in enumerate(jobs, 1):
        path = out / f"{name}_{ratio[0]}_{ratio[1]}_seed{seed}.json"
        row = json.loads(path.read_text()) if path.is_file() else {}
        if row.get("key") != key:
            tuned, note = fine_tune(network, critic, images, name, ratio, seed)
            row = {"balance": name, "beta": ratio[0], "alpha": ratio[1], "seed": seed, "note": note, "key": key}
            row.update(measure(tuned, critic, held_out))
            path.with_suffix(".part").write_text(json.dumps(row) + "\n")
            path.with_suffix(".part").rename(path)
        rows.append(row)
        shown = "  ".join(f"{title} {row[m]:{form}}" for m, (title, form) in MEASURES.items())
        console.print(f"{number}/{len(jobs)} {name} {ratio[0]}/{ratio[1]} seed {seed}: {shown} {row['note']}")
    data = f"{len(images)} photographs of {args.data.name if args.data else 'scikit-image'}"
    text = report(start, rows, data, correlation)
    (out / "table2_ablation.md").write_text(text)
    plot(start, rows, out / "table2_ablation.png")
    console.print(text)
    console.print(f"CPU time of this call: {(time.process_time() - begun) / 60:.1f} min")


if __name__ == "__main__":
    main()
