"""Determinism: nothing global is read or changed, and an exception leaves nothing behind."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import Critic, CriticCard, CriticLoss, NonFiniteError, SizeRule
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss

#: Run before and after; prints what anybody could have changed.
STATE = """
import json, sys, random, numpy, torch
def state():
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    return [torch.get_rng_state().sum().item(), hash(random.getstate()), int(numpy.random.get_state()[1].sum()),
            str(torch.get_default_dtype()), str(torch.get_default_device()), torch.get_num_threads(),
            torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
            cudnn.benchmark, cudnn.deterministic, cudnn.enabled, cudnn.allow_tf32, cuda.matmul.allow_tf32,
            torch.get_float32_matmul_precision()]
torch.manual_seed(5); random.seed(5); numpy.random.seed(5); torch.set_num_threads(1)
found = {"before": state()}
import sr_perceptual_loss as srpl
found["import"] = state()
for name in srpl.__all__:
    getattr(srpl, name)
found["names"] = state()
import tiny_critics
found["tiny"] = state()
losses = [srpl.CriticLoss("haarpsi", crops={"size": 24, "count": 2}), srpl.SSIMLoss(),
          srpl.SSIMPerceptualRatioLoss("haarpsi"), srpl.CriticLoss("tiny_efficient_pban", weights=None),
          srpl.RQILoss("tiny_rqi_maniqa", weights=None, crops={"small": "resize"})]
found["construction"] = state()
sr, hr = torch.full((1, 3, 40, 40), 0.4), torch.full((1, 3, 40, 40), 0.6)
hr[..., ::2] = 0.2
for loss in losses:
    x = sr.clone().requires_grad_()
    loss(x, hr).backward()
found["call"] = state()
for loss in losses:
    for bad in ((sr * float("nan"), hr), (sr, hr[..., :-1]), (sr, hr * 255)):
        try:
            loss(bad[0].clone().requires_grad_(), bad[1]).backward()
            sys.exit(f"{loss} took what is wrong")
        except (ValueError, FloatingPointError):
            pass
found["exception"] = state()
print(json.dumps(found))
"""


@pytest.mark.fault(42, 44)
def test_import_construction_call_and_exception_change_nothing():
    """In a process of its own, since this one has imported everything."""
    done = subprocess.run(
        [sys.executable, "-c", STATE],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == ["before", "import", "names", "tiny", "construction", "call", "exception"]
    for moment, state in found.items():
        assert state == found["before"], moment


def run(loss, steps=4, **options):
    """Losses of a small training with crops; everything random is in the loss."""
    values, (sr, hr) = [], make_pair(2, 48, 56)
    for iteration in range(steps):
        loss.step(iteration)
        values.append(loss((sr + 0.01 * iteration).requires_grad_(), hr).item())
    return values


@pytest.mark.fault(42)
@pytest.mark.parametrize("kind", ["critic", "ratio"])
def test_same_seed_same_losses_whatever_the_global_state(kind):
    make = {
        "critic": lambda seed: CriticLoss("haarpsi", crops={"size": 24, "count": 2, "seed": seed}),
        "ratio": lambda seed: SSIMPerceptualRatioLoss("haarpsi", crops={"size": 24, "seed": seed}),
    }[kind]
    torch.manual_seed(0)
    first = run(make(7))
    torch.manual_seed(1)
    random.seed(3)
    np.random.seed(4)
    torch.rand(17)
    before = torch.get_rng_state()
    assert run(make(7)) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert run(make(8)) != first and len(set(first)) == len(first)


@pytest.mark.fault(43)
def test_deterministic_algorithms(build):
    sr, hr = make_pair(2, 48, 48)
    torch.use_deterministic_algorithms(True)
    try:
        gradients = []
        for _ in range(2):
            x = sr.clone().requires_grad_()
            build()(x, hr).backward()
            gradients.append(x.grad)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*gradients)


@pytest.mark.fault(44)
def test_cudnn_flags_of_the_host_stay(build):
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic)
    sr, hr = make_pair(1, 40, 44)
    try:
        for flags in ((True, False), (False, True)):
            cudnn.benchmark, cudnn.deterministic = flags
            build()(sr.clone().requires_grad_(), hr).backward()
            assert (cudnn.benchmark, cudnn.deterministic) == flags
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def value_and_gradient(loss, sr, hr, **options):
    x = sr.clone().requires_grad_()
    value = loss(x, hr, **options)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


class Shaky(Critic):
    """score = mean(hr) - mean((sr - hr)^2), failing where it is told to."""

    card = CriticCard("shaky", "none", SizeRule(minimum=4), (-1.0, 1.0), relative=False, needs_weights=False)

    def __init__(self):
        super().__init__({})
        self.fails = ""

    @classmethod
    def tiny(cls):
        return cls()

    def _encode_target(self, hr):
        if self.fails == "encode":
            raise RuntimeError("out of memory while encoding")
        return (hr.mean((1, 2, 3)),)

    def _compare(self, sr, hr, target):
        if self.fails == "compare":
            raise RuntimeError("out of memory while comparing")
        return target[0] - ((sr - hr) ** 2).mean((1, 2, 3))


@pytest.mark.fault(49)
@pytest.mark.parametrize("fails", ["encode", "compare"])
@pytest.mark.parametrize("make", [CriticLoss, SSIMPerceptualRatioLoss])
def test_the_call_after_an_exception(make, fails):
    (sr, hr), (other, reference) = make_pair(2, 24, 24), make_pair(2, 24, 24, seed=1)
    loss, fresh = (make(Shaky(), crops={"size": 12, "count": 2}) for _ in range(2))
    loss.step(3)
    fresh.step(3)
    loss.critic.fails = fails
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            loss(sr.clone().requires_grad_(), hr)
    loss.critic.fails = ""
    found, wanted = (value_and_gradient(each, other, reference) for each in (loss, fresh))
    torch.testing.assert_close(found, wanted)


@pytest.mark.fault(49)
def test_a_non_finite_value_leaves_nothing_behind(build):
    sr, hr = make_pair(2, 40, 44)
    loss, fresh = build(), build()
    for bad in ((sr * float("nan"), hr), (sr, hr * 255), (sr[:, :, :-1], hr)):
        with pytest.raises((NonFiniteError, ValueError)):
            loss(bad[0].clone().requires_grad_(), bad[1]).backward()
    for found, wanted in zip(value_and_gradient(loss, sr, hr), value_and_gradient(fresh, sr, hr), strict=True):
        torch.testing.assert_close(found, wanted)
    assert loss.state_dict() == fresh.state_dict()
