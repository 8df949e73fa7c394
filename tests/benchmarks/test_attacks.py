"""Pixel attacks raise the score that they attack; the small networks start as bicubic enlargement."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pairs import make_pair
from robustness_lab.attacks_networks import HEADS, SmallSR
from robustness_lab.attacks_pixels import pixel_attack

from sr_perceptual_loss import InputError, create_critic


def test_attack_raises_the_score_within_its_reach():
    critic = create_critic("haarpsi")
    sr, hr = make_pair(2, 32, 32)
    sr = sr.clamp(0, 1)
    before = critic.score(sr, hr)
    attacked = pixel_attack(critic, sr, hr, steps=5, rate=0.004)
    assert bool((critic.score(attacked, hr) > before).all())
    assert float((attacked - sr).abs().max()) <= 1.1 * 5 * 0.004
    assert not attacked.requires_grad
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1


def test_no_steps_change_nothing_and_the_critic_gets_no_gradient():
    critic = create_critic("rqi_topiq", weights=None, size="tiny")
    sr, hr = make_pair(1, 40, 40)
    torch.testing.assert_close(pixel_attack(critic, sr, hr, steps=0, rate=0.1), sr)
    pixel_attack(critic, sr, hr, steps=1, rate=0.01)
    assert all(p.grad is None for p in critic.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_small_networks_start_as_bicubic_and_can_learn(head):
    torch.manual_seed(0)
    network = SmallSR(head)
    lr = torch.rand(2, 3, 12, 10)
    bicubic = F.interpolate(lr, scale_factor=4, mode="bicubic", align_corners=False)
    out = network(lr)
    assert out.shape == (2, 3, 48, 40)
    assert float((out - bicubic).detach().abs().max()) < 0.02
    assert 50_000 < sum(p.numel() for p in network.parameters()) < 80_000
    (out - 0.5).square().mean().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in network.parameters() if p.dim() > 1)


def test_unknown_head_is_refused():
    with pytest.raises(InputError, match="shuffle"):
        SmallSR("shufle")
