"""One rank of test_plain.py: our losses in a plain DistributedDataParallel loop on gloo.

Writes ``<rank>.json``; at the end one rank meets a NaN, which ends the job.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from pairs import make_pair
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sr_perceptual_loss import CriticLoss, SSIMPerceptualRatioLoss
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.errors import NonFiniteError
from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.weights import store
from sr_perceptual_loss.weights.manifest import WeightsEntry

PER_RANK = 2


class Small(Critic):
    """Its checkpoint is what the hub of the test serves."""

    card = CriticCard(
        name="small", paper="none", input_size=SizeRule(minimum=4), score_range=(0.0, 1.0), relative=False
    )

    def __init__(self) -> None:
        super().__init__(config={})
        self.body = nn.Conv2d(3, 2, 3)

    @classmethod
    def tiny(cls):
        return cls()

    def _encode_target(self, hr):
        return (self.body(hr),)

    def _compare(self, sr, hr, target):
        return -(self.body(sr) - target[0]).square().mean((1, 2, 3))


ENTRY = WeightsEntry("official", "someone/small", "small_weights.pt", "main", "", 1, "MIT", "none", "us", True)


def batch(rank: int, ranks: int):
    """This rank's part of one batch."""
    sr, hr = make_pair(PER_RANK * ranks, 32, 32)
    return sr[rank * PER_RANK :][:PER_RANK], hr[rank * PER_RANK :][:PER_RANK]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 3, padding=1)


def weights_of(net: nn.Module) -> list[float]:
    return torch.cat([p.detach().double().flatten() for p in net.parameters()]).tolist()


def train(net: nn.Module, loss: nn.Module, rank: int, ranks: int, *, steps: int = 3, spoil: int = -1) -> str:
    """Train; the output of the rank ``spoil`` holds a NaN in the second step. Returns the error, if there was one."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    sr, hr = batch(rank, ranks)
    for step in range(steps):
        optimizer.zero_grad()
        output = net(sr)
        if step == 1 and rank == spoil:
            output = output.clone()
            output[1, 0, 0, 0] = float("nan")
        try:
            loss(output, hr).backward()
        except NonFiniteError as error:
            return str(error)
        optimizer.step()
    return ""


def balanced(rank: int, ranks: int) -> dict[str, float]:
    balancer = GradNormBalancer({"l1": 2, "square": 1})
    sr, hr = batch(rank, ranks)
    sr = sr.clone().requires_grad_()
    losses = {"l1": lambda x: (x - hr).abs().mean(), "square": lambda x: (x - hr).square().mean()}
    balancer(sr, losses).backward()
    return {name: float(value) for name, value in balancer.terms.items() if not name.startswith("cos_")}


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    out: dict[str, object] = {}
    sr, hr = batch(rank, ranks)
    critic = CriticLoss("haarpsi", reduction="none")
    out["scores"] = critic(sr, hr).tolist()
    path = store.fetch("small", ENTRY, remap=Small.remap_official, build=Small)
    out["file"] = store.read(path).sha256
    try:
        DistributedDataParallel(critic)
    except RuntimeError as error:
        out["wrapped"] = str(error)
    for name, loss in {
        "plain": CriticLoss("haarpsi", crops={"size": 24}),
        "ratio": SSIMPerceptualRatioLoss(critic="haarpsi"),
    }.items():
        net = DistributedDataParallel(network())
        out[f"{name} error"] = train(net, loss, rank, ranks)
        out[f"{name} weights"] = weights_of(net)
        out[f"{name} log"] = sorted(loss.terms)
    out["balancer"] = balanced(rank, ranks)
    last = ranks - 1
    ratio = SSIMPerceptualRatioLoss(critic="haarpsi")
    out["ratio nan"] = train(DistributedDataParallel(network()), ratio, rank, ranks, spoil=last)
    (folder / f"{rank}.json").write_text(json.dumps(out))
    dist.barrier()
    message = train(DistributedDataParallel(network()), CriticLoss("haarpsi"), rank, ranks, spoil=last)
    raise SystemExit(f"rank {rank}: {message}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
