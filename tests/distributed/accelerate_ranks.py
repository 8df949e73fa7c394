"""One rank of test_accelerate.py: an SR loop on Accelerate, then `srpl train` with a NaN on the last rank."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from pairs import make_pair

from sr_perceptual_loss import CriticLoss
from sr_perceptual_loss.errors import NonFiniteError
from sr_perceptual_loss.lab.training import loop
from sr_perceptual_loss.lab.training.config import read_config

STEPS = 3


def sr_loop(accelerator: Accelerator) -> dict[str, object]:
    """Train a small network; the loss is not handed to ``prepare``."""
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 3, 3, padding=1)
    loss = CriticLoss("haarpsi")
    sr, hr = make_pair(8, 32, 32)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(sr, hr), batch_size=2)
    net, optimizer, data = accelerator.prepare(net, torch.optim.Adam(net.parameters(), lr=1e-3), data)
    scores = []
    for a, b in data:
        optimizer.zero_grad()
        accelerator.backward(loss(net(a), b))
        optimizer.step()
        scores.append(accelerator.reduce(loss.terms["score"], reduction="mean").item())
    with torch.no_grad():
        final = CriticLoss("haarpsi", reduction="none")(sr, hr).tolist()
    weights = torch.cat([p.detach().double().flatten() for p in net.parameters()]).tolist()
    return {"weights": weights, "scores": scores, "final": final, "log": sorted(loss.terms)}


def spoil(rank: int) -> None:
    """From the third step on, one process has a NaN in its losses."""
    original, calls = loop.objective, [0]

    def objective(kind, predictions, labels, *, delta):
        calls[0] += 1
        values = original(kind, predictions, labels, delta=delta)
        bad = calls[0] >= 3 and torch.distributed.get_rank() == rank
        return torch.where(torch.arange(len(values)) == 0, float("nan"), values) if bad else values

    loop.objective = objective


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    out: dict[str, object] = sr_loop(accelerator)
    spoil(accelerator.num_processes - 1)
    try:
        loop.train(read_config(folder / "train.yml"), verbose=False)
        out["error"] = ""
    except NonFiniteError as error:
        out["error"] = str(error)
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(out))
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
