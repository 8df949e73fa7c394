"""Two (slow: four) ranks: the same log keys in every step, equal weights, a mean log; a fault of one stops all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import L1

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.mark.fault(45)
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_basicsr_ranks_agree(options, tmp_path, ranks):
    critic = {"type": "CriticLoss", "critic": "haarpsi", "loss_weight": 0.5, "crops": {"size": 48}}
    train = {"pixel_opt": L1, "losses": [critic, {"type": "SpoiltLoss"}], "net_d_iters": 2}
    opt = options("PerceptualESRGANModel", train)
    (tmp_path / "opt.json").write_text(json.dumps(opt))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(tmp_path / "opt.json"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)]
    first, last = results[0], ranks - 1
    assert {"l_g_pix", "l_g_haarpsi", "l_g_gan", "score_haarpsi"} <= set(first["keys"][0])
    for rank in results:
        assert all(keys == first["keys"][0] for keys in rank["keys"])
        assert rank["weights"] == first["weights"]
    # Iteration 3 is gated: the generator's entries are zero, on all ranks.
    assert first["log"]["l_g_haarpsi"] == 0 and first["log"]["l_d_real"] > 0
    stops_all_ranks([rank["errors"] for rank in results], last)
    # On rank 0, whose log is kept in a file, and not only on the rank with the fault.
    assert f"iteration 2: spoilt: the loss is NaN or infinite on rank {last}" in done.stderr + done.stdout


def stops_all_ranks(errors, last):
    where = f"NaN or infinite on rank {last}"
    for rank, own in enumerate(errors):
        assert own["nothing"] == "", "a loss that is constant on one rank is no fault, and nobody waits"
        assert own["value"].startswith(f"NonFiniteError: iteration 2: spoilt: the loss is {where}")
        assert f"iteration 2: spoilt: the gradient to the SR output is {where}" in own["gradient"]
        assert f"iteration 3: gan_opt (discriminator): the loss is {where}" in own["discriminator"]
        if rank != last:
            assert f"spoilt failed on rank {last}" in own["error"]
            assert f"haarpsi failed on rank {last}" in own["target"] and "pixel_opt: the loss" in own["target"]
    # The rank with the error raises its own.
    assert errors[last]["error"] == "ValueError: its own message"
    assert "iteration 2: " in errors[last]["target"] and "hr" in errors[last]["target"]
