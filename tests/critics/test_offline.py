"""Every critic that needs no download works with empty caches, without a network and without the compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tiny_critics import CRITICS

from sr_perceptual_loss import get_card

SCORES = """
import json, socket, sys, warnings

socket.socket.connect = socket.create_connection = socket.getaddrinfo = None
import torch
from sr_perceptual_loss import CriticLoss

warnings.simplefilter("ignore")
hr = torch.rand(1, 3, 64, 72)
sr = (hr + 0.1 * torch.randn(hr.shape)).clamp(0, 1)
losses = {name: CriticLoss(name) for name in sys.argv[1:]}
scores = {name: [float(loss.scores(image, hr)) for image in (sr, hr)] for name, loss in losses.items()}
losses["lpips"](sr.requires_grad_(), hr).backward()
print(json.dumps([scores, "torch._dynamo" in sys.modules]))
"""


def test_critics_without_a_download_score_offline(tmp_path):
    cards = {name: get_card(name) for name in CRITICS}
    names = [n for n, c in cards.items() if not c.needs_weights or any(e.bundled for e in c.weights.values())]
    assert {"dists", "haarpsi", "lpips"} <= set(names)
    empty = dict.fromkeys(("HOME", "TORCH_HOME", "XDG_CACHE_HOME"), str(tmp_path))
    environment = {key: value for key, value in os.environ.items() if key not in ("SRPL_HOME", "HF_HOME")} | empty
    command = [sys.executable, "-c", SCORES, *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    scores, compiler_loaded = json.loads(done.stdout)
    assert not compiler_loaded  # it takes seconds, which only a compiled step needs
    assert list(scores) == names
    for name, (noisy, equal) in scores.items():
        low, high = cards[name].score_range
        assert low <= noisy < equal <= high, name
    assert not any(tmp_path.iterdir())
