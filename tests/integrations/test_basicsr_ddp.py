"""Two (slow: four) ranks: the same log keys in every step, equal weights, a mean log; a NaN stops all ranks."""

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
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(ranks)]
    first, last = found[0], ranks - 1
    assert {"l_g_pix", "l_g_haarpsi", "l_g_gan", "score_haarpsi"} <= set(first["keys"][0])
    for rank in found:
        assert all(keys == first["keys"][0] for keys in rank["keys"])
        assert rank["weights"] == first["weights"]
    # Iteration 3 is gated: the generator's entries are zero, on all ranks.
    assert first["log"]["l_g_haarpsi"] == 0 and first["log"]["l_d_real"] > 0
    stops_all_ranks(found, last)
    # On rank 0, whose log is kept in a file, and not only on the rank with the fault.
    assert f"iteration 2: spoilt: the loss is NaN or infinite on rank {last}." in done.stderr + done.stdout


def stops_all_ranks(found, last):
    for rank, own in enumerate(found):
        errors = own["errors"]
        assert errors["nothing"] == "", "a loss that is constant on one rank is no fault, and nobody waits"
        # The pixel loss is called first, and a NaN of the target meets it.
        assert errors["target"] == (
            f"iteration 2: pixel_opt: the loss is NaN or infinite on rank {last}. Stopped before the optimizer step."
        ), rank
        assert errors["value"].startswith(f"iteration 2: spoilt: the loss is NaN or infinite on rank {last}.")
        words = f"iteration 2: spoilt: the gradient to the SR output is NaN or infinite on rank {last}."
        assert errors["gradient"].startswith(words)
