"""What share of a training step a critic costs: forward, losses, backward, Adam, for two small x4 networks.

    python benchmarks/training_step.py                       # both networks, batch 1, all critics
    python benchmarks/training_step.py --batch 4 --critics efficient_pban haarpsi rqi_topiq
    python benchmarks/training_step.py --gt 224              # the patch of the RQI recipe: no enlargement
    python benchmarks/training_step.py --critics haarpsi efficient_pban --ratio     # the cost of balancing by gradients

Networks: SwinIR-light (BasicSR's architecture, 60 channels, 4 x 6 blocks; left out if BasicSR is missing), and a
stand-in of CAMixerSR's size (36 channels, 20 blocks of convolutions and window attention, 0.7 M parameters; it is not
CAMixerSR). Losses: L1 alone, and L1 with VGG19 or one critic; with --ratio, SSIM and one critic as a weighted sum and
balanced by gradient norms. Patches are --gt pixels (128); a critic that takes 224x224 only sees them enlarged (crops:
{size: 224, small: resize}), every other critic sees the whole patch. All weights are random, which does not change the
cost. All kinds of step run in turn, in random order, on one thread; medians of process CPU time. Prints a table and
writes runs/bench/training_step_<device>_gt<gt>.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from critics import machine, markdown
from speed.baselines import build_baseline
from speed.cases import calibrate, image_pair
from speed.measuring import interleaved
from torch import Tensor, nn

from sr_perceptual_loss import CriticLoss, SSIMPerceptualRatioLoss, create_critic, list_critics
from sr_perceptual_loss.errors import InstallError

OUT = Path(__file__).resolve().parent.parent / "runs" / "bench"
SCALE = 4

Loss = Callable[[Tensor, Tensor], Tensor]


class Block(nn.Module):
    """Window attention, then two 3x3 convolutions and a 1x1 pair, each residual."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.qkv, self.proj = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.mlp = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); sides are multiples of the window."""
        n, c, h, w = x.shape
        side = self.window
        cut = self.qkv(x).view(n, 3, c, h // side, side, w // side, side)
        q, k, v = cut.permute(1, 0, 3, 5, 4, 6, 2).reshape(3, -1, side * side, c)
        attended = F.scaled_dot_product_attention(q, k, v).view(n, h // side, w // side, side, side, c)
        x = x + self.proj(attended.permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w))
        x = x + self.conv(x)
        return x + self.mlp(x)


class CAMixerSize(nn.Module):
    """The size of CAMixerSR: 36 channels, 20 blocks, pixel shuffle x4."""

    def __init__(self, width: int = 36, blocks: int = 20, window: int = 8) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(Block(width, window) for _ in range(blocks)))
        self.tail = nn.Sequential(nn.Conv2d(width, 3 * SCALE**2, 3, padding=1), nn.PixelShuffle(SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, 4H, 4W)."""
        features = self.head(x)
        return self.tail(features + self.body(features)) + F.interpolate(x, scale_factor=SCALE, mode="bilinear")


def swinir_light(depth: int = 6) -> nn.Module:
    """BasicSR's SwinIR at the size of its lightweight setting."""
    from sr_perceptual_loss.integrations.basicsr_shim import require_basicsr

    require_basicsr()
    from basicsr.archs.swinir_arch import SwinIR

    return SwinIR(
        img_size=64, window_size=8, img_range=1.0, depths=[depth] * 4, embed_dim=60, num_heads=[6] * 4, mlp_ratio=2,
        upscale=SCALE, upsampler="pixelshuffledirect", resi_connection="1conv",
    )  # fmt: skip


NETWORKS = {"swinir_light": swinir_light, "camixer_size": CAMixerSize}


def losses(critics: list[str], device: str, *, ratio: bool) -> dict[str, Loss]:
    """By name; each is added to L1."""
    by_name: dict[str, Loss] = {"L1": lambda sr, hr: sr.new_zeros(())}
    if not ratio:
        vgg = build_baseline("vgg19", device)
        by_name["+ VGG19"] = lambda sr, hr: vgg(sr, hr).mean()
    for name in critics:
        critic = create_critic(name, weights=None)
        calibrate(critic)
        fixed = critic.input_size.fixed
        crops = None if fixed is None else {"size": fixed, "small": "resize"}
        if ratio:
            for balance in ("none", "grad_norm"):
                loss = SSIMPerceptualRatioLoss(critic.to(device), loss_balance=balance, crops=crops)
                by_name[f"+ SSIM, {name}: {balance}"] = loss
        else:
            by_name[f"+ {name}"] = CriticLoss(critic.to(device), crops=crops, loss_weight=0.01)
    return by_name


def steps(network: nn.Module, extra: dict[str, Loss], lr: Tensor, hr: Tensor) -> dict[str, Callable[[], None]]:
    """One training step for each loss, on the same network and batch."""
    # A rate of zero: the network stays what it is, and Adam's work is the same.
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0)

    def step(loss: Loss) -> None:
        optimizer.zero_grad()
        sr = network(lr)
        (F.l1_loss(sr, hr) + loss(sr, hr)).backward()
        optimizer.step()

    return {name: (lambda loss=loss: step(loss)) for name, loss in extra.items()}


def table(rows: list[dict]) -> str:
    """Milliseconds per step, and the share of the loss in it."""
    heads = ["network", "batch", "what", "ms", "spread", "of L1's step", "share of the loss"]
    lines = []
    for row in rows:
        base = next(r for r in rows if (r["network"], r["batch"], r["loss"]) == (row["network"], row["batch"], "L1"))
        seconds, plain = statistics.median(row["seconds"]), statistics.median(base["seconds"])
        share = "-" if row is base else f"{100 * (1 - plain / seconds):.0f} %"
        spread = (max(row["seconds"]) - min(row["seconds"])) / seconds
        numbers = [f"{1000 * seconds:.0f}", f"{100 * spread:.0f} %", f"{seconds / plain:.2f}", share]
        lines.append([row["network"], str(row["batch"]), row["loss"], *numbers])
    return markdown(heads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--critics", nargs="*", default=list_critics())
    parser.add_argument("--ratio", action="store_true", help="SSIMPerceptualRatioLoss instead of CriticLoss")
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--gt", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    setting = {**machine(options.device), "gt": options.gt, "repeats": options.repeats, "threads": 1}
    extra = losses(options.critics, options.device, ratio=options.ratio)
    rows: list[dict] = []
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"training_step_{options.device.replace(':', '')}_gt{options.gt}.json"
    for name in options.networks:
        try:
            network = NETWORKS[name]().to(options.device)
        except (InstallError, ImportError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        for batch in options.batch:
            _, hr = (image.to(options.device) for image in image_pair(batch, options.gt))
            lr = F.interpolate(hr, scale_factor=1 / SCALE, mode="bicubic", antialias=True).clamp(0, 1)
            print(f"{name}, batch {batch}", file=sys.stderr)
            seconds = interleaved(steps(network, extra, lr, hr), options.repeats, device=options.device)
            rows += [{"network": name, "batch": batch, "loss": key, "seconds": s} for key, s in seconds.items()]
            path.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1))
    print(", ".join(f"{key}: {value}" for key, value in setting.items()))
    print(table(rows))


if __name__ == "__main__":
    main()
