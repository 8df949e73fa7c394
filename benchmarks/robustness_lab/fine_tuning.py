"""Small SR networks: pixel stage first, then the pixel loss beside a critic, as a user would fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustness_lab.attacks_networks import SmallSR
from robustness_lab.photographs import Photographs, shrink
from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.losses.base import PairLoss

__all__ = ["Schedule", "fine_tune", "pixel_stage", "restore"]

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Schedule:
    """How a small network is trained.

    Attributes:
        pixel_steps: of L1 before the critic comes.
        steps: with the critic, and of the L1 control.
        side: of GT crops.
        batch: crops per step.
        pixel_rate: Adam's learning rate in the pixel stage, falling to a tenth along a cosine.
        rate: the same in the second stage.
        seed: of initialisation and crops.
    """

    pixel_steps: int = 1500
    steps: int = 500
    side: int = 96
    batch: int = 8
    pixel_rate: float = 1e-3
    rate: float = 3e-4
    seed: int = 0

    def key(self) -> str:
        """Part of a file name that says which training it was."""
        return "-".join(f"{value:g}" for value in asdict(self).values())


def _optimiser(network: nn.Module, rate: float, steps: int) -> tuple[torch.optim.Optimizer, object]:
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps), eta_min=rate / 10)
    return optimiser, schedule


def pixel_stage(head: str, photographs: Photographs, plan: Schedule, cache: Path, progress: Progress) -> SmallSR:
    """A small network after L1 alone; kept in ``cache`` and read from there the next time."""
    file = cache / f"pixel-{head}-{plan.pixel_steps}-{plan.side}-{plan.batch}-{plan.pixel_rate:g}-{plan.seed}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = SmallSR(head)
    if file.is_file():
        network.load_state_dict(torch.load(file, weights_only=True))
        return network
    optimiser, schedule = _optimiser(network, plan.pixel_rate, plan.pixel_steps)
    for step in range(plan.pixel_steps):
        hr = photographs.crops(plan.seed, step, plan.batch, plan.side)
        loss = F.l1_loss(network(shrink(hr)), hr)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()  # type: ignore[attr-defined]
        progress(step + 1, plan.pixel_steps, float(loss.detach()))
    cache.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    torch.save(network.state_dict(), part)
    part.replace(file)
    return network


def fine_tune(
    network: nn.Module,
    loss: PairLoss | None,
    share: float,
    photographs: Photographs,
    plan: Schedule,
    progress: Progress,
) -> nn.Module:
    """Continue with L1 and a perceptual loss; without one it is the control.

    Args:
        network: changed in place; (N, 3, h, w) -> (N, 3, 4 h, 4 w) in [0, 1].
        loss: beside L1, or None.
        share: of the gradient's norm at the output that belongs to ``loss``; L1 keeps its own size, so the total is
            that of L1 divided between the two.
        photographs: to draw GT crops from.
        plan: steps, rate, crops.
        progress: called with (step, steps, loss of L1).

    Returns:
        The network.
    """
    optimiser, schedule = _optimiser(network, plan.rate, plan.steps)
    balancer = GradNormBalancer({"pixel": 1 - share, "critic": share} if loss is not None else {"pixel": 1.0})
    for step in range(plan.steps):
        # Other crops than those of the pixel stage.
        hr = photographs.crops(plan.seed + 1, step, plan.batch, plan.side)
        sr = network(shrink(hr))
        balancer.step(step)
        terms: dict[str, Callable[[Tensor], Tensor]] = {"pixel": lambda x, hr=hr: F.l1_loss(x, hr)}  # type: ignore[misc]
        if loss is not None:
            loss.step(step)
            terms["critic"] = lambda x, hr=hr, loss=loss: loss(x, hr)  # type: ignore[misc]
        total = balancer(sr, terms)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        schedule.step()  # type: ignore[attr-defined]
        progress(step + 1, plan.steps, float(F.l1_loss(sr.detach(), hr)))
    return network


@torch.no_grad()
def restore(network: nn.Module, pairs: list[tuple[str, Tensor, Tensor]]) -> dict[str, Tensor]:
    """SR images in 8-bit steps, by name."""
    return {name: (network(lr).clamp(0, 1) * 255).round() / 255 for name, lr, _ in pairs}
