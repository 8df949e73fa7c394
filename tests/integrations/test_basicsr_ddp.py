"""Two ranks: the same log keys in every step, equal weights, and a log that is the mean of both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .conftest import L1

SCRIPT = Path(__file__).with_name("two_ranks.py")


def test_two_ranks_agree(options, tmp_path):
    critic = {"type": "CriticLoss", "critic": "haarpsi", "loss_weight": 0.5, "crops": {"size": 48}}
    train = {"pixel_opt": L1, "losses": [critic], "net_d_iters": 2}
    opt = options("PerceptualESRGANModel", train)
    (tmp_path / "opt.json").write_text(json.dumps(opt))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29631"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(tmp_path / "opt.json"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert zero["keys"] == one["keys"]
    assert all(keys == zero["keys"][0] for keys in zero["keys"])
    assert {"l_g_pix", "l_g_haarpsi", "l_g_gan", "score_haarpsi"} <= set(zero["keys"][0])
    assert zero["weights"] == one["weights"]
    # Iteration 3 is gated: the generator's entries are zero, on both ranks.
    assert zero["log"]["l_g_haarpsi"] == 0 and zero["log"]["l_d_real"] > 0
