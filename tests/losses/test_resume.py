"""What is saved, what a new process makes of it, and what travels to a worker."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pairs import make_pair
from tiny_critics import tiny

from sr_perceptual_loss import CriticLoss, create_critic, save_weights
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss

OPTIONS = {"crops": {"size": 24, "count": 2}, "schedule": {"start": 2, "ramp": 6}}


def values(loss, iterations):
    """Weight, loss and norms of some iterations: all that a run shows."""
    found = []
    for iteration in iterations:
        sr, hr = make_pair(2, 40, 40, seed=iteration)
        loss.step(iteration)
        value = loss(sr.requires_grad_(), hr)
        value.backward()
        shown = [float(loss.terms[name]) for name in sorted(loss.terms)]
        found.append([loss.factor, float(value.detach()), float(sr.grad.abs().sum()), *shown])
    return found


def saved(loss):
    """The loss's state as a file holds it."""
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    return buffer.getvalue()


NEW_PROCESS = """
import io, json, pickle, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from losses.test_resume import NEW_LOSSES, values
given = pickle.load(open(sys.argv[2], "rb"))
torch.manual_seed(99)  # a new process knows nothing of the old one's
found = {}
for kind, state in given["states"].items():
    loss = NEW_LOSSES[kind]()
    loss.load_state_dict(torch.load(io.BytesIO(state), weights_only=True), strict=True)
    found[kind] = values(loss, range(6, 11))
found["pickled"] = values(given["loss"], range(6, 11))
found["class"] = type(given["loss"].critic).__name__
print(json.dumps(found))
"""

NEW_LOSSES = {
    "critic": lambda: CriticLoss("haarpsi", **OPTIONS),
    "ratio": lambda: SSIMPerceptualRatioLoss("haarpsi", **OPTIONS),
}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run of ten iterations, and what a new process makes of its state after five (in mid warm-up)."""
    folder = tmp_path_factory.mktemp("resume")
    weights = folder / "critic.safetensors"
    save_weights(create_critic("tiny_efficient_pban", weights=None), weights)
    whole, states = {}, {}
    for kind, make in NEW_LOSSES.items():
        whole[kind] = values(make(), range(1, 11))[5:]
        first = make()
        values(first, range(1, 6))
        states[kind] = saved(first)
    travelling = CriticLoss("tiny_efficient_pban", weights=weights, **OPTIONS)
    package = pickle.dumps({"loss": travelling, "states": states})
    (folder / "package.pkl").write_bytes(package)
    whole["pickled"] = values(travelling, range(6, 11))
    done = subprocess.run(
        [sys.executable, "-c", NEW_PROCESS, str(Path(__file__).parents[1]), str(folder / "package.pkl")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SRPL_HOME": str(folder / "empty")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return whole, json.loads(done.stdout.splitlines()[-1]), states, package


@pytest.mark.fault(40)
@pytest.mark.parametrize("kind", NEW_LOSSES)
def test_a_new_process_continues_in_mid_warm_up(resumed, kind):
    whole, found, _, _ = resumed
    assert [row[0] for row in whole[kind]] == pytest.approx([4 / 6, 5 / 6, 1, 1, 1])
    for mine, theirs in zip(whole[kind], found[kind], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)


@pytest.mark.fault(36)
def test_the_saved_state_is_counters(resumed):
    states = resumed[2]
    assert len(states["critic"]) < 2_000 and len(states["ratio"]) < 10_000
    assert torch.load(io.BytesIO(states["critic"]), weights_only=True) == {}


@pytest.mark.fault(39)
def test_a_worker_process_gets_the_critic_by_name_offline(resumed):
    whole, found, _, package = resumed
    assert len(package) < 20_000, "the critic travelled along"
    assert found["class"] == "TinyEfficientPBAN"
    for mine, theirs in zip(whole["pickled"], found["pickled"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.fault(36)
def test_strict_loading(build):
    loss, other = build(), build()
    sr, hr = make_pair(2, 40, 40)
    loss(sr.requires_grad_(), hr)
    state = loss.state_dict()
    assert len(saved(loss)) < 10_000 and not any(isinstance(v, torch.Tensor) for v in state.values())
    other.load_state_dict(state, strict=True)
    assert other.state_dict() == state
    with pytest.raises(RuntimeError, match=r"Unexpected key.*critic\.conv"):
        build().load_state_dict({**state, "critic.conv.weight": torch.zeros(1)}, strict=True)


@pytest.mark.fault(36)
def test_a_state_from_before_the_balance_existed():
    """Strictly it is missed by name; leniently the averages start anew."""
    loss = SSIMPerceptualRatioLoss("haarpsi")
    with pytest.raises(RuntimeError, match=r"Missing key.*balancer\._extra_state"):
        loss.load_state_dict({}, strict=True)
    assert loss.load_state_dict({}, strict=False).missing_keys == ["balancer._extra_state"]
    assert loss.state_dict()["balancer._extra_state"] == {}


@pytest.mark.fault(35, 37)
def test_the_balanced_loss_with_a_learned_critic_is_out_of_reach():
    loss = SSIMPerceptualRatioLoss(tiny("efficient_pban"))
    before = loss.perceptual.frozen.digest()
    loss.train().requires_grad_(True).zero_grad()
    loss.apply(lambda module: [torch.nn.init.ones_(p) for p in module.parameters()])
    assert not list(loss.parameters()) and not list(loss.buffers())
    assert loss.perceptual.frozen.digest() == before and not loss.critic.training
