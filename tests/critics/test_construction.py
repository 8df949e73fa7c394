"""What surrounds a critic's construction or call, such as a default dtype, changes neither scores nor gradients."""

from __future__ import annotations

import contextlib
import multiprocessing
import os

import accelerate
import pytest
import torch
from pairs import make_pair
from tiny_critics import CRITICS, pair_for, tiny

from sr_perceptual_loss import (
    CriticLoss,
    FrozenCritic,
    InputError,
    SSIMLoss,
    SSIMPerceptualRatioLoss,
    create_critic,
    load_weights,
    save_weights,
)
from sr_perceptual_loss.critics.registry import critic_class


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "empty weights": accelerate.init_empty_weights,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def value_and_gradient(score, sr, hr):
    leaf = sr.clone().requires_grad_()
    value = score(leaf, hr)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.fixture(scope="module", params=CRITICS)
def normal(request, tmp_path_factory):
    """Name for create_critic, its weights, a pair, and score and gradient of a critic that was built normally."""
    critic, weights = tiny(request.param), None
    if critic.card.needs_weights:
        weights = tmp_path_factory.mktemp("weights") / "w.safetensors"
        save_weights(critic, weights)
    pair = pair_for(critic, 1)
    frozen = FrozenCritic(critic.card.name, weights=weights)
    return critic.card.name, weights, pair, value_and_gradient(frozen.score, *pair)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_a_critic_is_the_same_whatever_it_is_built_in(normal, surroundings):
    name, weights, pair, expected = normal
    with SURROUNDINGS[surroundings]():
        frozen = FrozenCritic(name, weights=weights)
        random = create_critic(name, weights=None)
    for critic in (frozen.critic, frozen.form, random):
        tensors = [*critic.parameters(), *critic.buffers()]
        assert {t.dtype for t in tensors if t.is_floating_point()} <= {torch.float32}
        assert {t.device.type for t in tensors} <= {"cpu"} and not any(t.is_inference() for t in tensors)
    torch.testing.assert_close(value_and_gradient(frozen.score, *pair), expected, rtol=0, atol=0)
    assert random.score(*pair).isfinite().all()


@pytest.mark.parametrize("surroundings", ["bfloat16", "meta"])
def test_a_score_is_the_same_whatever_it_is_computed_in(normal, surroundings):
    name, weights, pair, expected = normal
    frozen = FrozenCritic(name, weights=weights)
    with SURROUNDINGS[surroundings]():
        found, master = value_and_gradient(frozen.score, *pair), frozen.critic.score(*pair)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(master, frozen.critic.score(*pair))


LOSSES = {
    "ssim": SSIMLoss,
    "ms_ssim": lambda: SSIMPerceptualRatioLoss("haarpsi", distortion="ms_ssim", crops={"size": 64, "count": 2}),
    "eq12": lambda: SSIMPerceptualRatioLoss("haarpsi", loss_balance="eq12", alpha=1, beta=0.5),
    "crops": lambda: CriticLoss("haarpsi", crops={"size": 200, "small": "resize", "scales": [1, 2]}),
}


@pytest.mark.filterwarnings("ignore:eq12")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("surroundings", ["bfloat16", "meta"])
def test_a_loss_is_the_same_whatever_surrounds_it(loss, surroundings):
    pair = make_pair(1, 176, 168)
    expected = value_and_gradient(LOSSES[loss](), *pair)
    with SURROUNDINGS[surroundings]():
        found = value_and_gradient(LOSSES[loss](), *pair)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_move_or_cast_in_inference_mode_leaves_a_loss_that_can_train():
    loss, (sr, hr) = CriticLoss(tiny("rqi_topiq")), make_pair(1, 48, 48, dtype=torch.float64)
    with torch.inference_mode():
        loss.double()
    assert value_and_gradient(loss, sr, hr)[1].abs().sum() > 0


@pytest.mark.parametrize("surroundings", ["meta", "inference mode"])
def test_a_critic_object_without_usable_weights_is_refused(surroundings):
    with SURROUNDINGS[surroundings]():
        critic = critic_class("tiny_rqi_topiq")()
    with pytest.raises(InputError, match="tiny_rqi_topiq.*meta.*inference"):
        CriticLoss(critic)


def test_weights_are_loaded_onto_the_meta_device(tmp_path):
    source, path = create_critic("tiny_efficient_pban", weights=None), tmp_path / "w.safetensors"
    save_weights(source, path)
    with torch.device("meta"):
        critic = critic_class("tiny_efficient_pban")().eval()
    load_weights(critic, path)
    sr, hr = make_pair(1, 48, 48)
    assert torch.equal(critic.score(sr, hr), source.score(sr, hr))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_critic_built_in_a_forked_process():
    context = multiprocessing.get_context("fork")
    sr, hr = make_pair(1, 48, 48)
    expected = tiny("rqi_topiq").score(sr, hr).item()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(tiny("rqi_topiq").score(sr, hr).item()))
    process.start()
    assert receiver.poll(60) and receiver.recv() == expected
    process.join()
