from __future__ import annotations

import sys
import types
import warnings

import pytest
import torch
from pairs import make_pair
from torch import nn

from sr_perceptual_loss import (
    Critic,
    CriticLoss,
    InputError,
    SizeRule,
    UnknownNameError,
    WeightsError,
    create_critic,
    get_card,
)
from sr_perceptual_loss.critics.external import ExternalCritic, external
from sr_perceptual_loss.errors import InstallError
from sr_perceptual_loss.losses.frozen import FrozenCritic


def distance(sr, hr):
    return (sr - hr).abs().mean((1, 2, 3))


def quality(sr, hr):
    return 1 - distance(sr, hr)


def flatness(sr):
    return -(sr[..., 1:] - sr[..., :-1]).abs().mean((1, 2, 3))


def batch_mean(sr, hr):
    return distance(sr, hr).mean()


def scaled_by_the_batch(sr, hr):
    return distance(sr, hr) / distance(sr, hr).max()


def in_numpy(sr, hr):
    return ((sr - hr).detach().numpy() ** 2).mean((1, 2, 3))


def column(sr, hr):
    return quality(sr, hr)[:, None, None]


class Net(nn.Module):
    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))

    def forward(self, sr, hr):
        return -(self.layer(sr) - self.layer(hr)).square().mean((1, 2, 3))


class Own(Critic):
    card = get_card("haarpsi")

    def _encode_target(self, hr):
        return ()

    def _compare(self, sr, hr, target):
        return quality(sr, hr)


PAIR = make_pair(3, 40, 44)


@pytest.fixture
def metrics(monkeypatch):
    """An importable module with the metrics of this file."""
    module = types.ModuleType("my_metrics")
    for metric in (distance, quality, flatness, Net, Own):
        setattr(module, metric.__name__, metric)
    marked = lambda sr, hr: distance(sr, hr)  # noqa: E731
    marked.higher_is_better = False
    module.marked, module.own, module.number = marked, Own(), 3
    monkeypatch.setitem(sys.modules, "my_metrics", module)


@pytest.mark.parametrize(
    ("metric", "higher", "expected"),
    [
        (quality, True, quality(*PAIR)),
        (distance, False, -distance(*PAIR)),
        (flatness, True, flatness(PAIR[0])),
        (batch_mean, False, -distance(*PAIR)),
        (column, True, quality(*PAIR)),
        (lambda sr, hr, window=3: quality(sr, hr), True, quality(*PAIR)),
        (lambda sr, step=1: step * flatness(sr), True, flatness(PAIR[0])),
        (nn.L1Loss(), False, -distance(*PAIR)),
    ],
)
def test_any_metric_is_a_loss(metric, higher, expected):
    loss = CriticLoss(metric, higher_is_better=higher, reduction="none")
    sr = PAIR[0].clone().requires_grad_()
    value = loss(sr, PAIR[1])
    torch.testing.assert_close(value, -expected)
    value.sum().backward()
    assert (sr.grad.flatten(1).norm(dim=1) > 0).all()
    assert loss.optimises == (loss.critic.card.name,) and loss.critic.card.name in loss.label
    torch.testing.assert_close(loss.terms["score"], expected.mean())


def test_a_module_is_frozen_in_eval_mode():
    network = Net()
    loss = CriticLoss(network)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert not list(loss.parameters()) and not loss.state_dict()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    loss.train()(PAIR[0].clone().requires_grad_(), PAIR[1]).backward()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_dependence_on_the_batch_is_found_once_and_ended():
    with pytest.warns(UserWarning, match="scaled_by_the_batch.*batch"):
        critic = external(scaled_by_the_batch, higher_is_better=False)
    assert critic.per_image
    torch.testing.assert_close(critic.score(*PAIR), -torch.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not external(distance, higher_is_better=False).per_image
        assert external(batch_mean, higher_is_better=False).per_image


def test_the_wrong_direction_warns():
    with pytest.warns(UserWarning, match="distance.*higher_is_better"):
        external(distance, higher_is_better=True)


def test_without_a_gradient_it_judges_but_is_no_loss():
    critic = external(in_numpy, higher_is_better=False)
    torch.testing.assert_close(critic.score(*PAIR), -(PAIR[0] - PAIR[1]).square().mean((1, 2, 3)))
    with pytest.raises(InputError, match="in_numpy.*gradient"):
        CriticLoss(critic)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (lambda sr, hr: (sr - hr).abs(), r"shape \(2, 3, 224, 224\)"),
        (lambda sr, hr: sr @ hr[0, 0, :5], "RuntimeError"),
        (lambda a, b, c: a, r"\(a, b, c\)"),
        (3, "got int"),
    ],
)
def test_what_is_no_metric_is_refused(metric, words):
    with pytest.raises(InputError, match=words):
        external(metric, higher_is_better=True)


def test_the_direction_must_be_known_and_only_for_metrics_that_do_not_say_it():
    for wrong in ({}, {"higher_is_better": 1}):
        with pytest.raises(InputError, match="higher_is_better.*distance"):
            CriticLoss(distance, **wrong)
    for critic in ("haarpsi", Own(), Own):
        with pytest.raises(InputError, match="higher_is_better.*haarpsi"):
            CriticLoss(critic, higher_is_better=True)
    with pytest.raises(InputError, match="function"):
        FrozenCritic(distance)


def test_sizes_of_the_metric():
    seen = []

    def fixed(sr, hr):
        seen.append(sr.shape[2:])
        return quality(sr, hr)

    loss = CriticLoss(external(fixed, higher_is_better=True, input_size=SizeRule(fixed=32)), crops={"count": 2})
    assert loss(*PAIR).shape == () and set(seen) == {(32, 32)}


@pytest.mark.usefixtures("metrics")
def test_names_of_a_module():
    torch.testing.assert_close(create_critic("my_metrics:marked").score(*PAIR), -distance(*PAIR))
    assert get_card("my_metrics:Net").name == "my_metrics:Net"
    assert type(create_critic("my_metrics:Own")) is Own and type(create_critic("my_metrics:own")) is Own
    loss = CriticLoss("my_metrics:distance", higher_is_better=False)
    torch.testing.assert_close(loss(*PAIR), distance(*PAIR).mean())
    with pytest.raises(InputError, match="higher_is_better"):
        create_critic("my_metrics:quality")
    with pytest.raises(UnknownNameError, match="'flatness'"):
        create_critic("my_metrics:flatnes")
    with pytest.raises(InputError, match="got int"):
        create_critic("my_metrics:number")
    with pytest.raises(UnknownNameError, match="no_such_module"):
        create_critic("no_such_module:metric")
    with pytest.raises(WeightsError, match="weights"):
        create_critic("my_metrics:marked", weights="official")
    for name in ("my metrics:x", ":x", "my_metrics:", "C:\\weights.pt"):
        with pytest.raises(InputError, match="expected package"):
            create_critic(name)


@pytest.fixture
def pyiqa(monkeypatch):
    """A stand-in for pyiqa with one distance and one metric without reference."""

    class Metric(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.lower_better, self.metric_mode = name == "l1", "FR" if name == "l1" else "NR"

        def forward(self, target, ref=None, **kwargs):
            return distance(target, ref)[:, None] if self.metric_mode == "FR" else flatness(target)

    def create_metric(name, *, as_loss=False, loss_reduction="mean", device=None):
        if name == "far":
            raise OSError("no network")
        assert as_loss and loss_reduction == "none" and device == torch.device("cpu")
        return Metric(name)

    module = types.ModuleType("pyiqa")
    module.list_models, module.create_metric = lambda: ["far", "flatness", "l1"], create_metric
    monkeypatch.setitem(sys.modules, "pyiqa", module)


@pytest.mark.usefixtures("pyiqa")
def test_names_of_pyiqa():
    torch.testing.assert_close(CriticLoss("pyiqa:l1")(*PAIR), distance(*PAIR).mean())
    torch.testing.assert_close(create_critic("pyiqa:flatness").score(*PAIR), flatness(PAIR[0]))
    with pytest.raises(UnknownNameError, match="Did you mean 'flatness'"):
        get_card("pyiqa:flatnes")
    with pytest.raises(WeightsError, match="no network"):
        CriticLoss("pyiqa:far")


def test_pyiqa_is_no_dependency(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(InstallError, match="pyiqa"):
        create_critic("pyiqa:ssim")


@pytest.mark.parametrize("name", ["gmsd", "vif", "ms_ssim", "psnr", "ssim"])
def test_real_pyiqa(name):
    package = pytest.importorskip("pyiqa")
    loss = CriticLoss(f"pyiqa:{name}")
    metric = package.create_metric(name, device=torch.device("cpu"))
    sr, hr = make_pair(2, 200, 190)
    sign = -1 if name == "gmsd" else 1
    torch.testing.assert_close(loss(sr, hr), -sign * metric(sr, hr).mean().float(), rtol=1e-4, atol=1e-6)
    assert isinstance(loss.critic, ExternalCritic) and "oncommercial" in repr(loss)
    worse, better = (
        loss(hr + a * torch.randn(hr.shape, generator=torch.Generator().manual_seed(0)), hr) for a in (0.2, 0.02)
    )
    assert worse > better
    gradient = torch.autograd.grad(loss(sr.requires_grad_(), hr), sr)[0]
    assert torch.isfinite(gradient).all() and gradient.norm() > 0
