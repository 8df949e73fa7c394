"""CPU time of one training step: SSIM + critic balanced by gradient norms (the default) against the plain weighted sum.

    python benchmarks/ratio_loss.py
    python benchmarks/ratio_loss.py --critics efficient_pban --rounds 20

Both kinds of step run in turn, on the same batch and network, so that what else the machine does meets both alike; the
numbers are medians of process CPU time on one thread. Weights are random: they do not change the cost. Prints a table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from sr_perceptual_loss import create_critic
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss

BALANCES = ("weighted_sum", "grad_norm")
LIMIT = 1.15


class Upscaler(nn.Sequential):
    """x4: six 3x3 convolutions of 32 channels, pixel shuffle."""

    def __init__(self) -> None:
        widths = (3, 32, 32, 32, 32, 32)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(32, 48, 3, padding=1), nn.PixelShuffle(4))


def step(network: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module, lr: Tensor, hr: Tensor) -> float:
    """CPU seconds of forward, backward and update."""
    begun = time.process_time()
    optimizer.zero_grad()
    loss(network(lr), hr).backward()
    optimizer.step()
    return time.process_time() - begun


def compare(critic: str, side: int, batch: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds per step by balance, interleaved."""
    torch.manual_seed(0)
    module = create_critic(critic, weights=None)
    hr = torch.rand(batch, 3, side // 8, side // 8)
    hr = (F.interpolate(hr, size=(side, side), mode="bicubic") + 0.05 * torch.randn(batch, 3, side, side)).clamp(0, 1)
    lr = F.avg_pool2d(hr, 4)
    network = Upscaler()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-6)
    losses = {balance: SSIMPerceptualRatioLoss(module, loss_balance=balance) for balance in BALANCES}
    found: dict[str, list[float]] = {balance: [] for balance in BALANCES}
    for round_ in track(range(rounds + 2), f"{critic}, {batch} of {side}x{side}"):
        order = BALANCES if round_ % 2 else BALANCES[::-1]
        for balance in order:
            seconds = step(network, optimizer, losses[balance], lr, hr)
            if round_ >= 2:  # the first calls allocate
                found[balance].append(seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--critics", nargs="+", default=["haarpsi", "efficient_pban"])
    parser.add_argument("--side", type=int, default=128, help="of the HR patches")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    table = Table("critic", *(f"{balance} (ms)" for balance in BALANCES), "ratio", f"<= {LIMIT}")
    for critic in args.critics:
        found = compare(critic, args.side, args.batch, args.rounds)
        medians = [statistics.median(found[balance]) for balance in BALANCES]
        # Of neighbouring steps, so that slow phases of the machine cancel.
        ratio = statistics.median(b / a for a, b in zip(*(found[x] for x in BALANCES), strict=True))
        verdict = "yes" if ratio <= LIMIT else "NO"
        table.add_row(critic, *(f"{1e3 * median:.1f}" for median in medians), f"{ratio:.3f}", verdict)
    console.print(table)


if __name__ == "__main__":
    main()
