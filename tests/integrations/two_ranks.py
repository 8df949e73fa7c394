"""Run by test_basicsr_ddp.py on two gloo processes: our GAN model, three steps, one rank's log keys and weights each.

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

import sr_perceptual_loss.integrations.basicsr  # noqa: F401

if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    BaseModel.model_to_device = lambda self, net: DistributedDataParallel(net)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    opt = json.loads(Path(sys.argv[1]).read_text())
    opt.update(dist=True, rank=rank, world_size=2)
    model = build_model(opt)
    generator = torch.Generator().manual_seed(10 + rank)
    keys = []
    for iteration in range(1, 4):
        lq = torch.rand(2, 3, 16, 16, generator=generator)
        model.feed_data({"lq": lq, "gt": torch.nn.functional.interpolate(lq, scale_factor=4)})
        model.optimize_parameters(iteration)
        keys.append(list(model.log_dict))
    weights = torch.cat([p.detach().flatten() for p in model.net_g.parameters()])
    out = {"keys": keys, "log": model.log_dict, "weights": weights.double().tolist()}
    Path(sys.argv[2], f"{rank}.json").write_text(json.dumps(out))
    dist.destroy_process_group()
