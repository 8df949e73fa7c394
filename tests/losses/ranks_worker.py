"""Run by test_ranks.py, once per rank: what each rank meets where another one fails or has no images."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from pairs import make_pair

from sr_perceptual_loss import CriticLoss, HackingGuard
from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss


def outcome(work) -> str:
    """The name of what a piece of work raised and its message; or its result."""
    try:
        return str(work())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(rank: int) -> dict[str, object]:
    """One case after the other: a rank that did not take part in a collective call would hang or disturb the next."""
    found: dict[str, object] = {}
    sr, hr = make_pair(3, 32, 32, dtype=torch.float64)
    poisoned = sr * float("nan") if rank == 1 else sr
    mine = slice(0, 3) if rank == 0 else slice(0, 0)

    def leaf(images):
        return images.detach().clone().requires_grad_()

    # An empty batch on the second rank.
    loss = SSIMPerceptualRatioLoss("haarpsi")
    x = leaf(sr[mine])
    loss(x, hr[mine]).backward()
    found["empty"] = [float(loss.terms["lambda"]), sorted(loss.terms), float(x.grad.abs().sum())]
    guard = HackingGuard()
    guard.step(1, sr[mine], hr[mine], {"haarpsi": CriticLoss("haarpsi")})
    found["empty guard"] = guard.values

    # Something wrong on the second rank only.
    found["nan"] = outcome(lambda: SSIMPerceptualRatioLoss("haarpsi")(leaf(poisoned), hr))

    def raises(image):
        if rank == 1:
            raise ValueError("broken here")
        return image.square().mean()

    found["balancer"] = outcome(lambda: GradNormBalancer({"a": 1})(leaf(sr), {"a": raises}))

    # Validation on one rank waits for nobody.
    with torch.no_grad():
        if rank == 0:
            found["validation"] = float(SSIMPerceptualRatioLoss("haarpsi")(sr, hr))
    return found


if __name__ == "__main__":
    number, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2)
    result = main(number)
    dist.barrier()
    Path(out, f"{number}.json").write_text(json.dumps(result))
    dist.destroy_process_group()
