"""Dtypes, autocast, memory layouts, devices: the value and the gradient are those of contiguous float32."""

from __future__ import annotations

import pytest
import torch
from pairs import make_pair
from tiny_critics import tiny
from torch import nn

from sr_perceptual_loss import CriticLoss
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def value_and_gradient(loss, sr, hr):
    x = sr.detach().requires_grad_()
    value = loss(x, hr)
    return value.detach(), torch.autograd.grad(value, x)[0]


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "strided slice": lambda t: t.repeat_interleave(2, 3)[..., ::2],
    "part of a batch": lambda t: torch.cat([t * 0, t], 0)[len(t) :],
    "channels reversed twice": lambda t: t.flip(1).contiguous().flip(1),
}


@pytest.mark.fault(18)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(build, layout):
    sr, hr = make_pair(2, 40, 44)
    expected = value_and_gradient(build(), sr, hr)
    change = LAYOUTS[layout]
    for pair in ((change(sr), hr), (sr, change(hr)), (change(sr), change(hr))):
        found = value_and_gradient(build(), *pair)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.fault(18)
def test_expanded_images(build):
    """Stride 0: a gray picture as RGB, and one reference for a whole batch."""
    sr, hr = make_pair(2, 40, 44)
    gray, one = sr[:, :1].expand(-1, 3, -1, -1), hr[:1].expand(2, -1, -1, -1)
    expected = value_and_gradient(build(), gray.contiguous(), one.contiguous())
    torch.testing.assert_close(value_and_gradient(build(), gray, one), expected, rtol=1e-4, atol=1e-6)
    leaf = sr[:, :1].clone().requires_grad_()
    build()(leaf.expand(-1, 3, -1, -1), hr).backward()
    plain = value_and_gradient(build(), gray, hr)[1].sum(1, keepdim=True)
    torch.testing.assert_close(leaf.grad, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.fault(19)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_prediction(build, dtype):
    """Computed in float32 from the rounded picture; the gradient comes back in the prediction's dtype."""
    sr, hr = make_pair(2, 40, 44)
    value, gradient = value_and_gradient(build(), sr.to(dtype), hr)
    expected, plain = value_and_gradient(build(), sr.to(dtype).float(), hr)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, plain.to(dtype))
    half, _ = value_and_gradient(build(), sr.to(dtype), hr.to(dtype))
    assert half.dtype == torch.float32 and torch.isfinite(half)


@pytest.mark.fault(20)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(build, dtype):
    sr, hr = make_pair(2, 40, 44)
    network = nn.Conv2d(3, 3, 1)
    nn.init.dirac_(network.weight)
    expected, plain = value_and_gradient(build(), sr, hr)
    x = sr.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        found = build()(x, hr)
        from_network = build()(network(sr), hr)
    (gradient,) = torch.autograd.grad(found, x)
    assert found.dtype == from_network.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(gradient, plain)


@pytest.mark.fault(21)
def test_float64(build):
    sr, hr = make_pair(2, 40, 44, dtype=torch.float64)
    loss = build().double()
    value, gradient = value_and_gradient(loss, sr, hr)
    assert value.dtype == gradient.dtype == torch.float64
    single, _ = value_and_gradient(build(), sr.float(), hr.float())
    torch.testing.assert_close(value.float(), single, rtol=1e-4, atol=1e-5)


class Host(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.net, self.loss = nn.Conv2d(3, 3, 1), loss


def learned(**options):
    return CriticLoss(tiny("efficient_pban"), **options)


def ratio(**options):
    return SSIMPerceptualRatioLoss(tiny("efficient_pban"), **options)


@pytest.mark.fault(24)
@pytest.mark.parametrize("make", [learned, ratio])
def test_the_parent_moves_the_critic_and_half_leaves_it(make):
    host = Host(make())
    for cast in (host.half, host.bfloat16):
        cast()
        assert host.net.weight.dtype != torch.float32
        assert next(host.loss.critic.parameters()).dtype == torch.float32
    sr, hr = make_pair(1, 48, 48)
    assert host.loss(sr.half(), hr).dtype == torch.float32
    host.double()
    assert next(host.loss.critic.parameters()).dtype == torch.float64
    expected = host.float().loss(sr, hr)
    assert torch.equal(host.to("meta").loss(sr, hr), expected), "the weights stay where they are"


@pytest.mark.fault(24)
@cuda
@pytest.mark.parametrize("make", [learned, ratio])
def test_to_the_gpu_and_back(make):
    sr, hr = make_pair(2, 48, 48)
    host = Host(make())
    expected = host.loss(sr, hr)
    host.to("cuda").half()
    found = host.loss(sr.cuda().half(), hr.cuda())
    assert found.device.type == "cuda" and found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(host.float().cpu().loss(sr, hr), expected)


@pytest.mark.fault(20)
@cuda
def test_autocast_on_the_gpu(build):
    sr, hr = (image.cuda() for image in make_pair(2, 40, 44))
    loss = build().cuda()
    expected, plain = value_and_gradient(loss, sr, hr)
    for dtype in (torch.float16, torch.bfloat16):
        x = sr.clone().requires_grad_()
        with torch.autocast("cuda", dtype=dtype):
            found = loss(x, hr)
        (gradient,) = torch.autograd.grad(found, x)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(gradient, plain, rtol=1e-2, atol=1e-4)


@pytest.mark.fault(19, 20)
@pytest.mark.parametrize("inner", [torch.float16, torch.bfloat16])
def test_half_precision_images_inside_another_autocast(inner):
    """Found by fuzzing: torch refuses to stack fp16 crops inside bf16 autocast on a CPU."""
    sr, hr = make_pair(2, 24, 24)
    sr, hr = sr.to(inner), hr.to(inner)
    loss = CriticLoss("haarpsi", crops={"size": 16, "count": 2, "position": "grid"})
    plain = loss(sr, hr)
    with torch.autocast("cpu", torch.bfloat16):
        inside, seen = loss(sr, hr), loss.scores(sr, hr)
    torch.testing.assert_close(inside, plain)
    torch.testing.assert_close(-seen.mean(), plain)
