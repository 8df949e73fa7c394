from __future__ import annotations

import copy
import io
import json
import warnings

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.losses import balance
from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.losses.distributed import mean_over_ranks
from sr_perceptual_loss.losses.gradients import gradient_cosine, per_image_norms, surrogate


def images(n=3, seed=0, dtype=torch.float64):
    return torch.rand(n, 3, 6, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


LOSSES = {
    "pixel": lambda x: ((x - 0.3) ** 2).mean(),
    "texture": lambda x: -50 * (x[..., 1:] - x[..., :-1]).abs().mean(),
    "color": lambda x: 1e-3 * (x[:, 0] - x[:, 2]).sin().mean(),
}


def gradient(loss, x):
    (found,) = torch.autograd.grad(loss, x)
    return found


def norm(g):
    return float(per_image_norms(g).mean())


def test_norms_do_not_depend_on_the_batch_size():
    x = images(4)
    whole = gradient(LOSSES["pixel"](x), x)
    first = x[:1].detach().requires_grad_()
    torch.testing.assert_close(per_image_norms(whole)[:1], per_image_norms(gradient(LOSSES["pixel"](first), first)))
    torch.testing.assert_close(per_image_norms(whole), 4 * whole.flatten(1).norm(dim=1))


def test_cosine():
    a = torch.tensor([[3.0, 4.0]])
    assert gradient_cosine(a, a) == pytest.approx(1)
    assert gradient_cosine(a, torch.tensor([[-4.0, 3.0]])) == 0
    assert gradient_cosine(a, torch.zeros(1, 2)) == 0


def test_mean_over_one_rank():
    torch.testing.assert_close(mean_over_ranks(torch.tensor([6.0, -2.0]), 4), torch.tensor([1.5, -0.5]))
    assert mean_over_ranks(torch.zeros(2), 0).tolist() == [0, 0]


def test_surrogate_has_the_given_value_and_gradient():
    x, g = images(2), torch.randn(2, 3, 6, 5, dtype=torch.float64)
    loss = surrogate(x, g, torch.tensor(-1.25, dtype=torch.float64))
    assert float(loss.detach()) == -1.25
    torch.testing.assert_close(gradient(3 * loss, x), 3 * g)


@pytest.mark.parametrize("shares", [{"pixel": 1, "texture": 1}, {"texture": 3, "pixel": 1, "color": 0.5}])
def test_gradients_have_the_given_shares_and_the_reference_its_own_size(shares, monkeypatch):
    monkeypatch.setattr(balance, "MAX_WEIGHT", 1e6)
    x, balancer = images(), GradNormBalancer(shares)
    got = gradient(balancer(x, {n: LOSSES[n] for n in shares}), x)
    total = sum(shares.values())
    own = {n: gradient(LOSSES[n](x), x) for n in shares}
    reference = norm(own[next(iter(shares))])
    expected = sum(shares[n] / total * reference / norm(g) * g for n, g in own.items())
    torch.testing.assert_close(got, expected)
    for name, g in own.items():
        assert float(balancer.terms[f"norm_{name}"]) == pytest.approx(norm(g))
        assert float(balancer.terms[f"weight_{name}"]) == pytest.approx(reference / norm(g))
    a, b = list(shares)[:2]
    assert float(balancer.terms[f"cos_{a}_{b}"]) == pytest.approx(float(gradient_cosine(own[a], own[b])))
    assert set(balancer.terms) == set(balancer.term_names)


def test_the_value_is_the_sum_by_shares_with_and_without_grad():
    x, balancer = images(), GradNormBalancer({"pixel": 1, "texture": 3})
    losses = {n: LOSSES[n] for n in ("pixel", "texture")}
    expected = 0.25 * losses["pixel"](x) + 0.75 * losses["texture"](x)
    torch.testing.assert_close(balancer(x, losses).detach(), expected.detach())
    state = copy.deepcopy(balancer.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(balancer(x, losses), expected.detach())
    torch.testing.assert_close(balancer(x.detach(), losses), expected.detach())
    balancer.eval()
    balancer(images(seed=5), losses)
    assert balancer.state_dict() == state
    assert float(balancer.terms["norm_pixel"]) > 0


def test_values_already_computed_work_like_functions():
    network = torch.nn.Conv2d(3, 3, 3, padding=1).double()
    shares = {"pixel": 1, "texture": 2}
    found = []
    for given in (True, False):
        network.zero_grad()
        sr = network(images(2).detach())
        GradNormBalancer(shares)(sr, {n: LOSSES[n](sr) if given else LOSSES[n] for n in shares}).backward()
        found.append(network.weight.grad.clone())
    torch.testing.assert_close(*found)


@pytest.mark.fault(64)
def test_a_loss_that_does_not_take_part():
    calls = []

    def color(x):
        calls.append(1)
        return LOSSES["color"](x)

    x = images()
    balancer = GradNormBalancer({"pixel": 2, "color": 2, "texture": 0})
    losses = {"pixel": LOSSES["pixel"], "color": color, "texture": lambda x: 1 / 0}
    own = gradient(LOSSES["pixel"](x), x)
    torch.testing.assert_close(gradient(balancer(x, losses, factors={"color": 0}), x), 0.5 * own)
    assert not calls and float(balancer.terms["norm_color"]) == 0
    torch.testing.assert_close(gradient(balancer(x, {"pixel": LOSSES["pixel"]}), x), 0.5 * own)
    half = gradient(balancer(x, losses, factors={"color": 0.5}), x) - 0.5 * own
    assert norm(half) == pytest.approx(0.5 * norm(0.5 * own))
    assert gradient(balancer(x, {}), x).abs().max() == 0


def test_debiased_average_by_hand():
    balancer = GradNormBalancer({"a": 1})
    assert balancer.average("a") is None
    x = torch.ones(1, 1, 1, 1, requires_grad=True)
    balancer(x, {"a": lambda image: 2 * image.sum()})
    assert balancer.average("a") == pytest.approx(2)
    balancer(x, {"a": lambda image: 6 * image.sum()})
    assert balancer.average("a") == pytest.approx((0.9 * 2 + 6) / 1.9)


@pytest.mark.fault(36, 40)
def test_state_round_trip_continues_exactly():
    losses = {n: LOSSES[n] for n in ("pixel", "texture")}
    first, second = (GradNormBalancer({"pixel": 1, "texture": 1}) for _ in range(2))
    for seed in range(3):
        first(images(seed=seed), losses)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    assert file.tell() < 10_000
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    x = images(seed=9)
    assert torch.equal(gradient(first(x, losses), x), gradient(second(x, losses), x))
    assert json.loads(json.dumps(first.get_extra_state())) == second.get_extra_state()
    with pytest.raises(InputError, match="'pixel'"):
        GradNormBalancer({"l1": 1, "texture": 1}).load_state_dict(first.state_dict())


@pytest.mark.fault(31, 64, 78)
def test_averages_advance_once_per_iteration():
    losses = {n: LOSSES[n] for n in ("pixel", "texture")}
    plain, told = (GradNormBalancer({"pixel": 1, "texture": 1}) for _ in range(2))
    for iteration, seeds in enumerate(((0, 1, 2), (3, 4))):
        told.step(iteration)
        plain(images(seed=seeds[0]), losses)
        for seed in seeds:
            told(images(seed=seed), losses)
    assert told.state_dict() == plain.state_dict()
    assert plain.get_extra_state()["pixel"][1] == 2


@pytest.mark.fault(63)
def test_a_vanished_loss_keeps_its_last_weight_and_warns_once(monkeypatch):
    monkeypatch.setattr(balance, "MAX_WEIGHT", 77)
    x = images()
    dead = {"pixel": LOSSES["pixel"], "texture": lambda x: 0 * x.sum()}
    balancer = GradNormBalancer({"pixel": 1, "texture": 1})
    with pytest.warns(UserWarning, match="'texture' at the SR output has vanished"):
        got = gradient(balancer(x, dead), x)
    assert float(balancer.terms["weight_texture"]) == 77
    torch.testing.assert_close(got, 0.5 * gradient(LOSSES["pixel"](x), x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        balancer(x, dead)
    balancer(x, {n: LOSSES[n] for n in ("pixel", "texture")})
    before = float(balancer.terms["weight_texture"])
    balancer(x, dead)
    assert float(balancer.terms["weight_texture"]) == pytest.approx(before)


@pytest.mark.fault(63)
def test_a_vanished_reference_does_not_stop_the_others():
    x = images()
    dead = {"pixel": lambda x: 0 * x.sum(), "texture": LOSSES["texture"]}
    own = gradient(LOSSES["texture"](x), x)
    balancer = GradNormBalancer({"pixel": 1, "texture": 1})
    with pytest.warns(UserWarning, match="'pixel' at the SR output has vanished"):
        torch.testing.assert_close(gradient(balancer(x, dead), x), 0.5 * own)
    known = GradNormBalancer({"pixel": 1, "texture": 1})
    known(x, {n: LOSSES[n] for n in ("pixel", "texture")})
    weight = known.terms["weight_texture"]
    with pytest.warns(UserWarning, match="'pixel'.*vanished"):
        torch.testing.assert_close(gradient(known(x, dead), x), 0.5 * weight * own)


def test_a_loss_detached_from_the_image_counts_as_vanished():
    x = images()
    losses = {"pixel": LOSSES["pixel"], "texture": lambda x: torch.tensor(3.0)}
    with pytest.warns(UserWarning, match="detached"):
        loss = GradNormBalancer({"pixel": 1, "texture": 1})(x, losses)
    torch.testing.assert_close(gradient(loss, x), 0.5 * gradient(LOSSES["pixel"](x), x))


@pytest.mark.fault(62, 63)
def test_the_weight_limit_warns(monkeypatch):
    monkeypatch.setattr(balance, "MAX_WEIGHT", 2)
    x = images()
    balancer = GradNormBalancer({"pixel": 1, "color": 1})
    with pytest.warns(UserWarning, match="weight of 'color'.*2"):
        balancer(x, {n: LOSSES[n] for n in ("pixel", "color")})
    assert float(balancer.terms["weight_color"]) == 2


@pytest.mark.fault(6)
@pytest.mark.parametrize(("bad", "what"), [
    (lambda x: x.sum() * float("nan"), "texture: the loss"),
    (lambda x: x.sum() * float("inf"), "texture: the loss"),
    (lambda x: (0 * (x * 0).sum()).sqrt(), "texture: the norm of its gradient"),
])  # fmt: skip
def test_what_is_not_finite_stops_by_name_and_leaves_the_averages(bad, what):
    x, balancer = images(), GradNormBalancer({"pixel": 1, "texture": 1})
    losses = {n: LOSSES[n] for n in ("pixel", "texture")}
    balancer(x, losses)
    state = copy.deepcopy(balancer.state_dict())
    with pytest.raises(NonFiniteError, match=what):
        balancer(x, {**losses, "texture": bad})
    assert balancer.state_dict() == state
    loss = balancer(x, {**losses, "texture": bad}, check=False)
    assert not torch.isfinite(gradient(loss, x)).all()
    assert balancer.get_extra_state()["texture"] == state["_extra_state"]["texture"]


def test_what_is_refused():
    x = images()
    for shares in ({}, {"a": 0}, {"a": -1}, {"a": True}, {"a": float("nan")}):
        with pytest.raises(InputError, match="share"):
            GradNormBalancer(shares)
    balancer = GradNormBalancer({"pixel": 1})
    with pytest.raises(InputError, match=r"'pixle'.*'pixel'"):
        balancer(x, {"pixle": LOSSES["pixel"]})
    with pytest.raises(InputError, match=r"pixel: got a loss of shape \(3,\)"):
        balancer(x, {"pixel": lambda x: x.mean((1, 2, 3))})


@pytest.mark.fault(32)
def test_checkpoints_inside_a_loss():
    layer = torch.nn.Conv2d(3, 2, 3).double()

    def loss(reentrant):
        return lambda x: checkpoint(layer, x, use_reentrant=reentrant).square().mean()

    x = images()
    plain = gradient(GradNormBalancer({"a": 1})(x, {"a": lambda x: layer(x).square().mean()}), x)
    torch.testing.assert_close(gradient(GradNormBalancer({"a": 1})(x, {"a": loss(False)}), x), plain)
    with pytest.raises(InputError, match=r"a: its network uses a reentrant checkpoint.*use_reentrant=False"):
        GradNormBalancer({"a": 1})(x, {"a": loss(True)})


@pytest.mark.fault(19)
def test_half_precision_images_are_balanced_in_single_precision():
    x = images(dtype=torch.float32).detach().bfloat16().requires_grad_()
    seen = []
    loss = GradNormBalancer({"pixel": 1})(x, {"pixel": lambda x: seen.append(x.dtype) or LOSSES["pixel"](x)})
    assert seen == [torch.float32] and loss.dtype == torch.float32
    assert gradient(loss, x).dtype == torch.bfloat16


@pytest.mark.fault(15)
def test_no_images():
    x = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = GradNormBalancer({"pixel": 1, "texture": 1}).eval()
    with pytest.warns(UserWarning, match="vanished"):
        assert float(loss(x, {n: LOSSES[n] for n in ("pixel", "texture")}).detach()) == 0
