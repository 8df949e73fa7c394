"""What a gradient is, where it goes, and what happens in steps that are more than one call."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from pairs import make_pair
from tiny_critics import pair_for, tiny
from torch import nn
from torch.utils.checkpoint import checkpoint

from sr_perceptual_loss import CriticLoss, InputError, SSIMLoss
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss


def wide(build, **options):
    return build(**options).double()


def gradient(loss, sr, hr):
    x = sr.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(x, hr), x)[0]


@pytest.mark.fault(25)
def test_leaf_image(build):
    sr, hr = make_pair(2, 40, 44, dtype=torch.float64)
    x = sr.clone().requires_grad_()
    loss = wide(build)
    loss(x, hr).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    assert (x.grad.flatten(1).norm(dim=1) > 1e-9).all()


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    "loss",
    [CriticLoss("haarpsi"), SSIMLoss(), SSIMPerceptualRatioLoss("haarpsi", loss_balance="none")],
    ids=["critic", "ssim", "ratio"],
)
def test_directional_derivative(loss):
    """The balanced losses are left out: their gradient is made, and is not that of their value."""
    sr, hr = make_pair(1, 32, 36, dtype=torch.float64)
    found = gradient(loss, sr, hr)
    noise = torch.randn(sr.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    direction, step = noise / noise.norm() + found / found.norm(), 1e-6
    change = (loss(sr + step * direction, hr) - loss(sr - step * direction, hr)) / (2 * step)
    torch.testing.assert_close(change, (found * direction).sum(), rtol=1e-3, atol=1e-9)


@pytest.mark.fault(26)
@pytest.mark.parametrize("name", ["efficient_pban", "rqi_ahiq"])
def test_gradcheck_of_critics_with_deformable_offsets(name):
    loss = CriticLoss(tiny(name, torch.float64), reduction="none")
    side = loss.critic.input_size.fixed or max(17, loss.critic.input_size.minimum)
    sr, hr = make_pair(1, side, side, dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, (sr.requires_grad_(), hr), fast_mode=True, eps=1e-7, atol=1e-4, rtol=1e-3)


@pytest.mark.fault(27, 28)
def test_no_gradient_to_target_or_critic(build):
    sr, hr = make_pair(2, 40, 44)
    hr.requires_grad_()
    loss = build()
    (loss(sr.requires_grad_(), hr) + loss(sr, hr)).backward()
    assert hr.grad is None and sr.grad.abs().sum() > 0
    critic = getattr(loss, "critic", None)
    if critic is not None:
        assert all(p.grad is None and not p.requires_grad for p in critic.parameters())


@pytest.mark.fault(29)
def test_under_no_grad_and_inference_mode(build):
    sr, hr = make_pair(1, 40, 44)
    loss = build()
    expected = loss(sr.clone().requires_grad_(), hr).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(loss(sr, hr), expected)
            torch.testing.assert_close(loss(sr + 0, hr + 0), expected)
    with torch.inference_mode():
        target = hr + 0
    x = sr.clone().requires_grad_()
    loss(x, target).backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    "loss",
    [CriticLoss("haarpsi"), SSIMLoss(), SSIMPerceptualRatioLoss("haarpsi", loss_balance="none")],
    ids=["critic", "ssim", "ratio"],
)
def test_double_backward_of_formulas(loss):
    sr, hr = make_pair(1, 24, 24, dtype=torch.float64)
    x = sr.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(x, hr), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    direction = second / second.norm()
    step = 1e-5
    sizes = [gradient(loss, sr + s * step * direction, hr).square().sum() for s in (1, -1)]
    torch.testing.assert_close((sizes[0] - sizes[1]) / (2 * step), second.norm(), rtol=1e-3, atol=1e-12)


@pytest.mark.fault(30)
def test_what_has_no_second_derivative_says_so():
    sr, hr = make_pair(1, 24, 24, dtype=torch.float64)
    x = sr.clone().requires_grad_()
    with pytest.raises(InputError, match=r"second derivatives \(create_graph=True\).*loss_balance: none"):
        torch.autograd.grad(SSIMPerceptualRatioLoss("haarpsi")(x, hr), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"deformable convolution: second derivatives"):
        torch.autograd.grad(CriticLoss(tiny("efficient_pban", torch.float64))(x, hr), x, create_graph=True)


@pytest.mark.fault(30)
@pytest.mark.parametrize("name", ["rqi_ahiq", "rqi_maniqa", "rqi_topiq"])
def test_learned_critics_work_or_say_so(name):
    critic = tiny(name, torch.float64)
    sr, hr = pair_for(critic, 1, dtype=torch.float64)
    x = sr.requires_grad_()
    # On the CPU the attention kernel has no second derivative; elsewhere another kernel may have.
    with pytest.raises((RuntimeError, NotImplementedError), match=r"not (implemented|supported)"):
        (first,) = torch.autograd.grad(CriticLoss(critic)(x, hr), x, create_graph=True)
        torch.autograd.grad(first.square().sum(), x)


@pytest.mark.fault(31)
@pytest.mark.parametrize("balanced", [False, True])
def test_accumulation_adds_gradients_and_counts_one_step(balanced):
    sr, hr = make_pair(4, 32, 32, dtype=torch.float64)
    options = {"schedule": {"start": 2, "ramp": 4}}
    loss = SSIMPerceptualRatioLoss("haarpsi", **options) if balanced else CriticLoss("haarpsi", **options)
    loss.step(4)
    x = sr.clone().requires_grad_()
    for part in (slice(0, 2), slice(2, 4)):
        (loss(x[part], hr[part]) / 2).backward()
        assert loss.factor == 0.5
    if balanced:
        assert loss.state_dict()["balancer._extra_state"]["distortion"][1] == 1
    else:
        torch.testing.assert_close(x.grad, gradient(loss, sr, hr))


@pytest.mark.fault(32)
@pytest.mark.parametrize("kind", ["haarpsi", "learned", "ssim", "ratio-sum"])
def test_checkpointing_on_against_off(kind):
    loss = {
        "haarpsi": lambda: CriticLoss("haarpsi", crops={"size": 24, "count": 2}),
        "learned": lambda: CriticLoss(tiny("efficient_pban", torch.float64)),
        "ssim": SSIMLoss,
        "ratio-sum": lambda: SSIMPerceptualRatioLoss("haarpsi", loss_balance="none"),
    }[kind]()
    loss.step(3)
    network = nn.Conv2d(3, 3, 3, padding=1).double()
    sr, hr = make_pair(2, 40, 44, dtype=torch.float64)

    def gradients(through):
        network.zero_grad()
        through(network(sr), hr).backward()
        return [p.grad.clone() for p in network.parameters()]

    plain = gradients(loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # among others "None of the inputs have requires_grad=True"
        found = gradients(lambda a, b: checkpoint(loss, a, b, use_reentrant=False))
    torch.testing.assert_close(found, plain)


def sam(network, loss, optimizer, sr, hr, radius=0.05):
    """One step of sharpness-aware minimisation: the closure runs at the weights and at a point uphill of them."""
    optimizer.zero_grad()
    values = [loss(network(sr), hr)]
    values[0].backward()
    parameters = list(network.parameters())
    size = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters)) + 1e-12
    hill = [radius * p.grad / size for p in parameters]
    with torch.no_grad():
        for p, up in zip(parameters, hill, strict=True):
            p.add_(up)
    optimizer.zero_grad()
    values.append(loss(network(sr), hr))
    values[1].backward()
    with torch.no_grad():
        for p, up in zip(parameters, hill, strict=True):
            p.sub_(up)
    optimizer.step()
    return [float(v.detach()) for v in values]


@pytest.mark.fault(78)
def test_two_evaluations_in_a_step_count_once():
    """Schedule, crop boxes and averages of a balance follow the iteration, not the calls."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 3, 3, padding=1)
    nn.init.dirac_(network.weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    sr, hr = make_pair(2, 48, 48)
    loss = SSIMPerceptualRatioLoss("haarpsi", crops=24, schedule={"ramp": 10})
    boxes = []
    real = loss.perceptual.frozen.score_checked
    loss.perceptual.frozen.score_checked = lambda a, b: boxes.append(b.clone()) or real(a, b)
    for iteration in (1, 2, 3):
        loss.step(iteration)
        values = sam(network, loss, optimizer, sr, hr)
        assert values[0] != values[1] and loss.factor == iteration / 10
        assert loss.state_dict()["balancer._extra_state"]["perceptual"][1] == iteration
    first, again = boxes[0::2], boxes[1::2]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), "the second closure saw other crops"
    assert not torch.equal(first[0], first[1])
