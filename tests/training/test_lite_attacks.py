"""What hardens the critic: the pool, periodic patterns, networks that attack, augmentation, the gradient's l1 norm."""

from __future__ import annotations

import pytest
import torch
from lite_run import FUSION, write_labels
from pairs import make_pair
from tiny_critics import tiny

from sr_perceptual_loss import InputError
from sr_perceptual_loss.training.attacks.patterns import attack_tile, draw_tile, with_pattern
from sr_perceptual_loss.training.attacks.pool import AttackPool
from sr_perceptual_loss.training.distortions.level_table import level_means
from sr_perceptual_loss.training.lite.hardening import Hardening, shrunk
from sr_perceptual_loss.training.lite.labels import Labels
from sr_perceptual_loss.training.lite.objective import PairScores, augmented, gradient_l1, pair_loss
from sr_perceptual_loss.training.lite.settings import AttackConfig, LiteObjectiveConfig

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def labels(tmp_path):
    return Labels(level_means(write_labels(tmp_path / "labels.csv"), leave_out=["I03"]), FUSION)


def test_pool_is_a_ring_and_comes_back():
    pool = AttackPool(4, 8)
    for first in (0, 3):
        images = torch.stack([torch.full((3, 8, 8), (first + i) / 10) for i in range(3)])
        pool.add(images, images, [-float(first + i) for i in range(3)])
    assert len(pool) == 4
    images, references, values = pool.draw(9, generator(), CPU)
    assert sorted(values.tolist()) == [-5, -4, -3, -2] and torch.equal(images, references)
    # Each image belongs to its label, within half a step of 8 bits.
    assert torch.allclose(images[:, 0, 0, 0], -values / 10, atol=0.5 / 255 + 1e-6)
    other = AttackPool(4, 8)
    other.load_state_dict(pool.state_dict())
    for one in (pool, other):
        one.add(images[:1], references[:1], [7.0])
    assert all(torch.equal(a, b) for a, b in zip(*(p.draw(4, generator(1), CPU) for p in (pool, other)), strict=True))


def test_pool_refuses_other_sizes():
    pool = AttackPool(2, 8)
    with pytest.raises(InputError, match=r"pool: got images \(1, 3, 9, 8\)"):
        pool.add(torch.zeros(1, 3, 9, 8), torch.zeros(1, 3, 9, 8), [0.0])
    full = AttackPool(3, 8)
    full.add(torch.zeros(3, 3, 8, 8), torch.zeros(3, 3, 8, 8), [0.0] * 3)
    with pytest.raises(InputError, match="the state holds 3 images"):
        pool.load_state_dict(full.state_dict())


@pytest.mark.parametrize("period", [2, 3, 4, 8])
def test_tiles_repeat_with_their_period_and_rms(period):
    tile = draw_tile(period, generator(period))
    assert tile.shape == (1, 3, period, period)
    assert tile.mean((2, 3)).abs().max() < 1e-6 and float(tile.square().mean()) == pytest.approx(1)
    gray = torch.full((1, 3, 26, 27), 0.5)
    drawn = with_pattern(gray, tile, 0.02) - 0.5
    assert torch.allclose(drawn[..., period:, :], drawn[..., :-period, :])
    assert torch.allclose(drawn[..., period:], drawn[..., :-period])
    whole = drawn[..., :24, :24]
    assert float(whole.square().mean().sqrt()) == pytest.approx(0.02, rel=1e-4)


def test_an_attacking_tile_raises_the_score():
    critic = tiny("rqi_lite")
    _, gt = make_pair(3, 64, 64)
    start = draw_tile(4, generator(1))
    tile = attack_tile(critic, gt, gt, start, amplitude=0.03, steps=4)
    before, after = (critic.score(with_pattern(gt, t, 0.03), gt).mean() for t in (start, tile))
    assert after > before
    assert float(tile.square().mean()) == pytest.approx(1, rel=1e-5) and not tile.requires_grad
    assert all(p.grad is None for p in critic.parameters())


def settings(**changed):
    plain = {
        "start": 0, "pool": 12, "pairs": 4, "pixels": 0, "pixel_images": 2, "pixel_steps": 4, "networks": 0,
        "restart": 2, "patterns": 0,
    }  # fmt: skip
    return AttackConfig(**{**plain, **changed})


@pytest.fixture
def make(labels):
    def build(seed=0, **changed):
        return Hardening(tiny("rqi_lite"), labels, settings(**changed), side=64, seed=seed, device=CPU)

    return build


def groups():
    sr, gt = make_pair(2, 64, 64)
    return torch.stack([gt, sr], 1), torch.tensor([[0.95, 0.6]] * 2)


@pytest.mark.parametrize("name, entries", [("pixels", 2), ("patterns", 2), ("networks", 2)])
def test_each_attack_fills_the_pool_alone_and_can_be_switched_off(make, name, entries):
    hardening = make(**{name: 1})
    parameters = [p.clone() for p in hardening.critic.parameters()]
    found = hardening.attack(2, *groups())
    assert set(found) == {name} and len(hardening.pool) == entries
    _, _, values = hardening.draw(0)
    assert (values <= 0).all() and values.min() < -0.01
    # The critic itself is left alone.
    assert all(torch.equal(a, b) for a, b in zip(parameters, hardening.critic.parameters(), strict=True))
    assert all(p.grad is None for p in hardening.critic.parameters())
    off = make()
    assert off.attack(2, *groups()) == {} and off.draw(0) is None


def test_attacks_wait_for_their_start(make):
    hardening = make(pixels=1, start=5)
    assert hardening.attack(4, *groups()) == {} and set(hardening.attack(5, *groups())) == {"pixels"}


def test_attacking_networks_raise_the_critic(make, monkeypatch):
    monkeypatch.setattr("sr_perceptual_loss.training.lite.hardening._PRESSURES", (100.0,))
    hardening = make(networks=1, restart=200)
    batch, values = groups()
    gt = batch[:, 0]

    @torch.no_grad()
    def scores():
        return [float(hardening.critic.score(n(shrunk(gt)), gt).mean()) for n in hardening.attackers]

    before = scores()
    for step in range(24):
        hardening.attack(step, batch, values)
    assert all(after > start for after, start in zip(scores(), before, strict=True))


def test_honest_networks_learn_and_young_ones_start_anew(make):
    hardening = make()
    gt = groups()[0][:, 0]
    before = [(hardening.honest_output(k, gt) - gt).abs().mean() for k in range(6)]
    for step in range(1, 60):
        hardening.teach(step, gt)
    after = [(hardening.honest_output(k, gt) - gt).abs().mean() for k in range(6)]
    assert all(a < b for a, b in zip(after[:3], before[:3], strict=True))
    assert all(young > old for young, old in zip(after[3:], after[:3], strict=True))


def test_hardening_comes_back_bit_by_bit(make):
    first, second = make(pixels=2, networks=1, patterns=2), make(seed=0, pixels=2, networks=1, patterns=2)
    batch, values = groups()
    for step in range(3):
        first.attack(step, batch, values)
        first.teach(step, batch[:, 0])
    second.load_state_dict(first.state_dict())
    for one in (first, second):
        one.attack(3, batch, values)
        one.teach(3, batch[:, 0])
    for a, b in zip(first.draw(4), second.draw(4), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(first.honest[3].parameters(), second.honest[3].parameters(), strict=True):
        assert torch.equal(a, b)


def test_augmentation_changes_all_versions_alike():
    _, gt = make_pair(2, 96, 96)
    batch = gt.unsqueeze(1).repeat(1, 3, 1, 1, 1)
    config = AttackConfig(noise=0.05, shift=8, rescale=0.8)
    found = augmented(batch, config, generator(3))
    assert 64 <= found.shape[-1] < 96 and found.shape[:2] == (2, 3)
    assert torch.equal(found[:, 0], found[:, 1]) and not torch.equal(found[0, 0], found[1, 0])
    assert torch.equal(found, augmented(batch, config, generator(3)))
    off = AttackConfig(noise=0, shift=0, rescale=1.0)
    assert torch.equal(augmented(batch, off, generator(3)), batch)


def test_l1_of_the_gradient_is_that_of_autograd():
    critic = tiny("rqi_lite", torch.float64)
    sr, gt = make_pair(2, 64, 64, dtype=torch.float64)
    own = sr.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(critic.score(own, gt).sum(), own)
    model = PairScores(critic)
    found = gradient_l1(model, sr, gt, step=1e-5)
    # PairScores gives float32.
    assert found.item() == pytest.approx(float(gradient.abs().sum((1, 2, 3)).mean()), rel=0.02)
    found.backward()
    assert critic.tokens.weight.grad.abs().sum() > 0


def test_losses_have_the_sign_of_the_labels():
    config = LiteObjectiveConfig()
    wanted, same = torch.tensor([0.5, -0.5, 0.01]), torch.tensor([True, False, False])
    good, bad = (pair_loss(sign * wanted, wanted, same, config) for sign in (1, -1))
    assert float(good["huber"]) == 0 and float(bad["huber"]) > 0.3
    assert float(good["ranking"]) < 0.01 < float(bad["ranking"])
    assert float(good["levels"]) < 0.01 < float(bad["levels"])
    # The third pair is undecided: only its Huber counts.
    alone = pair_loss(wanted[2:], wanted[2:], same[2:], config)
    assert float(alone["ranking"]) == float(alone["levels"]) == 0
