"""Run by test_basicsr_ddp.py on gloo processes: our GAN model, three steps, then faults of the last rank.

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

#: What the loss of a project does on the last rank, and a NaN in the ground truth of that rank.
FAULTS = ("nothing", "target", "value", "gradient", "error", "discriminator")


@LOSS_REGISTRY.register()
class SpoiltLoss(torch.nn.Module):
    """A loss of a project with a fault on one rank."""

    fault = ""

    def forward(self, output, gt):
        difference = (output - gt).square().mean()
        if self.fault == "value":
            return difference * float("nan")
        if self.fault == "nothing":
            return torch.zeros(())  # no graph, so no hook is called on this rank
        if self.fault == "error":
            raise ValueError("its own message")
        return (difference - difference.detach()).sqrt() if self.fault == "gradient" else difference


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.net_g.parameters()]).double().tolist()


def attempt(model, batch, iteration):
    """The error of a step; the weights of the generator must be as before."""
    before = weights(model)
    model.feed_data(batch)
    try:
        model.optimize_parameters(iteration)
    except (NonFiniteError, ValueError) as error:
        assert weights(model) == before
        return f"{type(error).__name__}: {error}"
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
    if rank == 0:  # an evaluation on one rank waits for nobody
        with torch.no_grad():
            model.cri_perceptual(model.output, model.gt)
    out = {"keys": keys, "log": model.log_dict, "weights": weights(model), "errors": {}}
    for fault in FAULTS:
        model = build_model(opt)
        spoilt = batch()
        if rank == ranks - 1:
            if fault == "target":
                spoilt["gt"][1, 0, 0, 0] = float("nan")
            next(m for m in model.cri_perceptual.modules() if isinstance(m, SpoiltLoss)).fault = fault
            if fault == "discriminator":
                nan = torch.tensor(float("nan"))
                model.cri_gan.register_forward_hook(lambda *call, nan=nan: call[-1] * nan, prepend=True)
        # Iteration 3 is gated: only the discriminator is trained.
        out["errors"][fault] = attempt(model, spoilt, 3 if fault == "discriminator" else 2)
        dist.barrier()  # nobody waits in another collective call
    Path(sys.argv[2], f"{rank}.json").write_text(json.dumps(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
