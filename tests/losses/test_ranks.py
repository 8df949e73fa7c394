"""Two processes: what one rank meets becomes known to the other, in the same step, and nobody waits for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss.losses import distributed as ranks
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss

WORKER = Path(__file__).with_name("ranks_worker.py")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two ranks found, in one start of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(folder / "store"), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=150)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(e[-2000:] for e in errors)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.fault(15, 45)
def test_a_rank_without_images_takes_part(both):
    sr, hr = make_pair(3, 32, 32, dtype=torch.float64)
    alone = SSIMPerceptualRatioLoss("haarpsi")
    alone(sr.requires_grad_(), hr)
    (weight, keys, size), (other, other_keys, other_size) = (found["empty"] for found in both)
    assert weight == other == pytest.approx(float(alone.terms["lambda"]))
    assert keys == other_keys == sorted(alone.terms)
    assert size > 0 == other_size


@pytest.mark.fault(15, 65)
def test_a_guard_on_a_rank_without_images_takes_part(both):
    assert both[0]["empty guard"] == both[1]["empty guard"] and both[0]["empty guard"]["psnr"] > 20


@pytest.mark.fault(4, 45)
def test_nan_on_one_rank_stops_a_balanced_loss_on_all(both):
    for found in both:
        assert found["nan"].startswith("NonFiniteError") and "on rank 1" in found["nan"]


@pytest.mark.fault(45)
def test_an_error_inside_a_balanced_loss_stops_all(both):
    assert both[0]["balancer"].startswith("NonFiniteError: a: ") and "on rank 1" in both[0]["balancer"]
    assert both[1]["balancer"] == "ValueError: broken here"


@pytest.mark.fault(45)
def test_validation_on_one_rank_waits_for_nobody(both):
    assert both[0]["validation"] < 0 and "validation" not in both[1]


def test_one_process_is_one_rank():
    assert ranks.world_size() == 1 and ranks.format_ranks([0]) == ""
    device = torch.device("cpu")
    assert ranks.ranks_with_flag(True, device) == [0] and ranks.ranks_with_flag(torch.tensor(False), device) == []
