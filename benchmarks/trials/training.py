"""Training of small networks as a user would do it: pixel stage first, then the pixel loss together with a critic."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_perceptual_loss import GradNormBalancer
from sr_perceptual_loss.lab.data.images import SUFFIXES, read_image
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.monitor.probe import probe
from trials.networks import SmallSR

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "examples"))

from small_sr import image_pairs, shrink  # noqa: E402 - the examples' test sets and bicubic reduction

__all__ = ["Photographs", "Plan", "fine_tune", "image_pairs", "pixel_stage", "restore", "shrink"]

#: Called with (step, steps, value of L1).
Progress = Callable[[int, int, float], None]
#: Batches on which the weight of a plain sum is measured.
PROBED = 8


@dataclass(frozen=True)
class Plan:
    """How a small network is trained.

    Attributes:
        pixel_steps: of L1 before the critic is added.
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
        """Part of a file name that identifies the training."""
        return "-".join(f"{value:g}" for value in asdict(self).values())


class Photographs:
    """The images of a folder, in memory as bytes."""

    def __init__(self, folder: Path) -> None:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if not files:
            raise SystemExit(f"{folder}: no images; expected files ending in {', '.join(SUFFIXES)}.")
        self.images = [(read_image(p) * 255).round().byte() for p in files]

    def crops(self, seed: int, step: int, count: int, side: int) -> Tensor:
        """Random crops with flips and turns, (count, 3, side, side) in [0, 1]: a function of seed and step."""
        random = np.random.default_rng([seed, step])
        crops = []
        for _ in range(count):
            image = self.images[int(random.integers(len(self.images)))]
            top, left = (int(random.integers(0, size - side + 1)) for size in image.shape[1:])
            crop = image[:, top : top + side, left : left + side]
            crop = crop.flip(2) if random.random() < 0.5 else crop
            crops.append(crop.rot90(int(random.integers(4)), (1, 2)))
        return torch.stack(crops).float() / 255


def _optimise(
    network: nn.Module, rate: float, steps: int, loss_of: Callable[[int], tuple[Tensor, float]], progress: Progress
) -> None:
    """Adam with a cosine; ``loss_of(step)`` gives the loss and the value of L1."""
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps), eta_min=rate / 10)
    for step in range(steps):
        loss, pixel = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step + 1, steps, pixel)


def pixel_stage(head: str, photographs: Photographs, plan: Plan, cache: Path, progress: Progress) -> SmallSR:
    """A small network after L1 alone; kept in ``cache`` and read from there the next time."""
    file = cache / f"pixel-{head}-{plan.pixel_steps}-{plan.side}-{plan.batch}-{plan.pixel_rate:g}-{plan.seed}.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = SmallSR(head)
    if file.is_file():
        network.load_state_dict(torch.load(file, weights_only=True))
        return network

    def loss_of(step: int) -> tuple[Tensor, float]:
        hr = photographs.crops(plan.seed, step, plan.batch, plan.side)
        loss = F.l1_loss(network(shrink(hr)), hr)
        return loss, loss.item()

    _optimise(network, plan.pixel_rate, plan.pixel_steps, loss_of, progress)
    save(network, file)
    return network


def save(network: nn.Module, file: Path) -> None:
    """Write the weights; the file is complete or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    torch.save(network.state_dict(), part)
    part.replace(file)


def plain_weight(network: nn.Module, loss: PairLoss, share: float, photographs: Photographs, plan: Plan) -> float:
    """Weight at which ``loss`` has this share of the gradient at the output of the network as it is now."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(PROBED):
            hr = photographs.crops(plan.seed + 1, step, plan.batch, plan.side)
            with torch.no_grad():
                yield network(shrink(hr)), hr

    shares = {"pixel": 1 - share, "critic": share}
    weight = probe({"pixel": F.l1_loss, "critic": loss}, batches(), shares=shares).factors["critic"]
    if weight is None:
        raise SystemExit(f"{loss.name}: its gradient is 0, so no weight gives it a share of {share:g}.")
    return weight


def fine_tune(
    network: nn.Module,
    loss: PairLoss | None,
    share: float,
    photographs: Photographs,
    plan: Plan,
    progress: Progress,
    *,
    plain: bool = False,
) -> None:
    """Continue with L1 and a perceptual loss; without one it is the control.

    Args:
        network: changed in place; (N, 3, h, w) -> (N, 3, 4 h, 4 w) in [0, 1].
        loss: added to L1, or None.
        share: of the gradient's norm at the output that belongs to ``loss``; the rest is L1's.
        photographs: to draw GT crops from.
        plan: steps, rate, crops.
        progress: called after every step.
        plain: the share holds at the start only, where it gives the weight of a plain sum.
    """
    shares = {"pixel": 1 - share, "critic": share} if loss is not None else {"pixel": 1.0}
    balancer = GradNormBalancer(shares)
    weight = plain_weight(network, loss, share, photographs, plan) if loss is not None and plain else 0.0

    def loss_of(step: int) -> tuple[Tensor, float]:
        # Other crops than those of the pixel stage.
        hr = photographs.crops(plan.seed + 1, step, plan.batch, plan.side)
        sr = network(shrink(hr))
        pixel = F.l1_loss(sr.detach(), hr).item()
        if loss is not None:
            loss.step(step)
            if plain:
                return F.l1_loss(sr, hr) + weight * loss(sr, hr), pixel
        balancer.step(step)
        terms = {"pixel": lambda image: F.l1_loss(image, hr)}
        if loss is not None:
            terms["critic"] = lambda image: loss(image, hr)
        return balancer(sr, terms), pixel

    _optimise(network, plan.rate, plan.steps, loss_of, progress)


@torch.no_grad()
def restore(network: nn.Module, pairs: list[tuple[str, Tensor, Tensor]]) -> dict[str, Tensor]:
    """SR images in 8-bit steps, by name."""
    return {name: (network(lr).clamp(0, 1) * 255).round() / 255 for name, lr, _ in pairs}
