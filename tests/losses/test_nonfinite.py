"""NaN and infinity: in the images, in the value, in the gradient; and images for which formulas have corners."""

from __future__ import annotations

import pytest
import torch
from pairs import make_pair
from torch import nn

from sr_perceptual_loss import Critic, CriticCard, CriticLoss, InputError, NonFiniteError, SizeRule, SSIMLoss
from sr_perceptual_loss.errors import NonFiniteInputError
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss


class Fragile(Critic):
    """score = mean(sr), and where ``bad`` is set a value or a gradient that is not finite."""

    card = CriticCard("fragile", "none", SizeRule(minimum=4), (0.0, 1.0), relative=False, needs_weights=False)

    def __init__(self, bad=None):
        super().__init__({})
        self.bad = bad

    @classmethod
    def tiny(cls):
        return cls()

    def _encode_target(self, hr):
        return ()

    def _compare(self, sr, hr, target):
        score = sr.mean((1, 2, 3))
        if self.bad == "value":
            return score / 0
        return score + 0 * (sr * 0).sum((1, 2, 3)).sqrt() if self.bad == "gradient" else score


def poisoned(seed=0):
    sr, hr = make_pair(3, 32, 32, seed=seed)
    sr[1, 0, 5, 5] = float("nan")
    return sr, hr


@pytest.mark.fault(4)
def test_nan_in_the_prediction_stops_by_name(build):
    sr, hr = poisoned()
    loss = build()
    for x in (sr, sr.clone().requires_grad_()):
        with pytest.raises(NonFiniteError, match=rf"{type(loss).__name__}"):
            loss(x, hr).backward()


@pytest.mark.fault(4, 6)
def test_one_check_per_step(build, monkeypatch):
    """Value and gradient are checked together; each check of a bool is a device sync on an accelerator."""
    sr, hr = make_pair(2, 48, 48)
    loss = build()
    for _ in range(4):  # the value range is read in the first calls only
        loss(sr, hr)
    syncs = []
    real = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: syncs.append(1) or real(tensor))
    loss(sr.clone().requires_grad_(), hr).backward()
    assert len(syncs) == 1


@pytest.mark.fault(4)
def test_ignore_lets_it_through(build):
    sr, hr = poisoned()
    loss = build()
    loss.on_nonfinite = "ignore"
    assert not torch.isfinite(loss(sr, hr))
    loss(sr.requires_grad_(), hr).backward()


@pytest.mark.fault(5)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_infinity_in_the_target(build, value):
    sr, hr = make_pair(3, 32, 32)
    hr[2, 1, 4, 4] = value
    loss = build()
    for _ in range(5):  # also after the calls in which the scale is checked
        with pytest.raises(NonFiniteError, match=r"image 2 of hr|distortion"):
            loss(sr.clone().requires_grad_(), hr).backward()


@pytest.mark.fault(5)
def test_the_error_has_both_names():
    assert issubclass(NonFiniteInputError, InputError) and issubclass(NonFiniteInputError, NonFiniteError)


KINDS = {
    "critic": lambda **options: CriticLoss(Fragile("gradient"), **options),
    "ratio": lambda **options: SSIMPerceptualRatioLoss(Fragile("gradient"), **options),
    "ratio-sum": lambda **options: SSIMPerceptualRatioLoss(Fragile("gradient"), loss_balance="none", **options),
}


@pytest.mark.fault(6)
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_that_is_not_finite_stops_by_name(kind):
    sr, hr = make_pair(2, 32, 32)
    with pytest.raises(NonFiniteError, match=r"Loss\(fragile\): .*gradient.*NaN or inf"):
        KINDS[kind]()(sr.requires_grad_(), hr).backward()


@pytest.mark.fault(7)
def test_identical_pair(build):
    _, hr = make_pair(2, 48, 48)
    x = hr.clone().requires_grad_()
    value = build()(x, hr)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(x.grad).all()


@pytest.mark.fault(8)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.filterwarnings("ignore:balance")
def test_constant_images(build, level):
    _, hr = make_pair(2, 48, 48)
    flat = torch.full_like(hr, level)
    for sr, target in ((flat, flat), (flat, hr), (hr, flat), (flat, 1 - flat)):
        x = sr.clone().requires_grad_()
        value = build()(x, target)
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(x.grad).all()


def scaled_step(build, scale, dtype=torch.float16):
    """One optimizer step through a GradScaler; the network computes in half precision, its weights are float32."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 3, 3, padding=1)
    nn.init.dirac_(network.weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    sr, hr = make_pair(4, 48, 48)
    with torch.autocast("cpu", dtype=dtype):
        output = network(sr)
    output.retain_grad()
    assert output.dtype == dtype
    scaler.scale(build()(output, hr)).backward()
    before = network.weight.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    return output.grad, scaler.get_scale(), not torch.equal(before, network.weight)


@pytest.mark.fault(22)
def test_grad_scaler_at_65536(build):
    gradient, scale, stepped = scaled_step(build, 65536.0)
    assert torch.isfinite(gradient).all() and gradient.dtype == torch.float16
    assert scale == 65536 and stepped


@pytest.mark.fault(22)
def test_what_overflows_in_fp16_is_the_scalers_to_see(build):
    """No NonFiniteError: the scaler finds the infinity, leaves the step out, and halves its scale."""
    gradient, scale, stepped = scaled_step(build, 2.0**40)
    assert not torch.isfinite(gradient).all()
    assert scale == 2.0**39 and not stepped


def test_a_value_beyond_float32_is_named():
    sr, hr = make_pair(1, 32, 32)
    with pytest.raises(NonFiniteError, match=r"CriticLoss\(fragile\): the value of image 0 of the batch is -?inf"):
        CriticLoss(Fragile("value"))(sr, hr)
    assert SSIMLoss(loss_weight=0)(sr, hr) == 0
