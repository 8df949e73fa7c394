"""Run by test_basicsr_ddp.py on gloo processes: our GAN model, three steps, then a NaN on the last rank, three ways.

BasicSR always hands DDP a CUDA device id; on the CPU that one method is replaced here, in the test only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import sr_perceptual_loss.integrations.basicsr_shim
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.utils.registry import LOSS_REGISTRY

import sr_perceptual_loss.integrations.basicsr  # noqa: F401
from sr_perceptual_loss.errors import NonFiniteError


@LOSS_REGISTRY.register()
class SpoiltLoss(torch.nn.Module):
    """A loss of a project: NaN in its value or in its gradient on one rank, when told."""

    spoils = ""

    def forward(self, output, gt):
        difference = (output - gt).square().mean()
        if self.spoils == "value":
            return difference * float("nan")
        if self.spoils == "nothing":
            return torch.zeros(())  # as where there is nothing to judge: no graph, so no hook is called on this rank
        return (difference - difference.detach()).sqrt() if self.spoils == "gradient" else difference


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.net_g.parameters()]).double().tolist()


def attempt(model, batch, iteration):
    """The error of a step, which must leave the weights as they are."""
    before = weights(model)
    model.feed_data(batch)
    try:
        model.optimize_parameters(iteration)
    except NonFiniteError as error:
        assert weights(model) == before
        # The step was left half-way, inside DDP's backward pass or before it; a run would end here.
        return str(error)
    return ""


def main():
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    BaseModel.model_to_device = lambda self, net: DistributedDataParallel(net)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    opt = json.loads(Path(sys.argv[1]).read_text())
    opt.update(dist=True, rank=rank, world_size=ranks)
    generator = torch.Generator().manual_seed(10 + rank)

    def batch():
        lq = torch.rand(2, 3, 16, 16, generator=generator)
        return {"lq": lq, "gt": torch.nn.functional.interpolate(lq, scale_factor=4)}

    model = build_model(opt)
    keys = []
    for iteration in range(1, 4):
        assert attempt(model, batch(), iteration) == ""
        keys.append(list(model.log_dict))
    out = {"keys": keys, "log": model.log_dict, "weights": weights(model), "errors": {}}
    for where in ("nothing", "target", "value", "gradient"):
        model = build_model(opt)
        spoilt = batch()
        if rank == ranks - 1:
            if where == "target":
                spoilt["gt"][1, 0, 0, 0] = float("nan")
            else:
                next(m for m in model.cri_perceptual.modules() if isinstance(m, SpoiltLoss)).spoils = where
        if where == "nothing":
            model.feed_data(spoilt)
            model.optimize_parameters(2)
            out["errors"][where] = ""
            continue
        out["errors"][where] = attempt(model, spoilt, 2)
        dist.barrier()
    Path(sys.argv[2], f"{rank}.json").write_text(json.dumps(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
