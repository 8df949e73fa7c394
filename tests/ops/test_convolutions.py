"""Parts of the prepared critics that save products or memory: equal to the plain modules."""

from __future__ import annotations

import copy

import pytest
import torch
from pairs import make_pair
from speed.measuring import gradient, saved_bytes
from speed.reference import reference_form
from torch import nn

from sr_perceptual_loss import create_critic
from sr_perceptual_loss.ops import winograd
from sr_perceptual_loss.ops.vit import RecomputedMlp, make_vit, recompute_mlps
from sr_perceptual_loss.ops.winograd import WinogradConv, with_winograd


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def convolution(inside=5, outside=7, dtype=torch.float64, **options):
    conv = nn.Conv2d(inside, outside, 3, **{"padding": 1, **options}).to(dtype).requires_grad_(False)
    conv.weight.copy_(random(*conv.weight.shape, seed=1))
    if conv.bias is not None:
        conv.bias.copy_(random(outside, seed=4))
    return conv


@pytest.mark.parametrize("size", [(1, 8, 8), (2, 7, 9), (1, 1, 1), (3, 5, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_winograd_is_the_convolution(size, layout):
    n, height, width = size
    conv = convolution()
    image = random(n, 5, height, width).contiguous(memory_format=layout).requires_grad_()
    expected, found = conv(image), WinogradConv(conv)(image)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    upstream = random(*expected.shape, seed=2).contiguous(memory_format=layout)
    slopes = [torch.autograd.grad(result, image, upstream)[0] for result in (expected, found)]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0, atol=1e-13)


def test_winograd_in_float32_is_no_worse_than_the_convolution():
    conv = convolution(256, 256)
    image = random(1, 256, 12, 12, seed=3)
    conv.weight.copy_(conv.weight.float())
    conv.bias.copy_(conv.bias.float())
    exact, single = conv(image.float().double()), convolution(256, 256, torch.float32)
    errors = [(each(image.float()).double() - exact).norm() / exact.norm() for each in (single, WinogradConv(single))]
    assert errors[1] < 1e-6 and errors[1] < 2 * errors[0]


def test_winograd_keeps_no_image_and_its_result_can_be_changed_in_place():
    part = WinogradConv(convolution())
    image = random(1, 5, 8, 8).requires_grad_()
    assert saved_bytes(lambda: part(image), part.parameters()).recorded == 0
    expected = torch.relu(part(image))
    assert torch.equal(part(image).relu_(), expected)
    (slope,) = torch.autograd.grad((part(image).relu_().square()).sum(), image)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.square().sum(), image)[0], rtol=0, atol=1e-14)


def test_inside_autocast_it_is_the_ordinary_convolution():
    conv = convolution(dtype=torch.float32)
    image = random(1, 5, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = WinogradConv(conv)(image)
        assert found.dtype == torch.bfloat16 and torch.equal(found, conv(image))


def test_which_convolutions_are_replaced(monkeypatch):
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 6)
    kept = {
        "thin": convolution(5, 7),
        "stride": convolution(6, 6, stride=2),
        "dilation": convolution(6, 6, dilation=2),
        "border": convolution(6, 6, padding=0),
        "reflected": convolution(6, 6, padding_mode="reflect"),
        "groups": convolution(6, 6, groups=2),
        "bias": convolution(6, 6, bias=False),
        "point": nn.Conv2d(6, 6, 1),
    }
    parts = with_winograd(nn.ModuleDict({**kept, "inner": nn.Sequential(convolution(6, 8), nn.ReLU())}))
    assert {name for name, part in parts.named_modules() if isinstance(part, WinogradConv)} == {"inner.0"}
    assert all(parts[name] is part for name, part in kept.items())


@pytest.mark.parametrize("name", ["efficient_pban", "rqi_ahiq", "rqi_maniqa", "rqi_topiq"])
def test_whole_critics_with_every_possible_convolution_replaced(name, monkeypatch):
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 1)
    torch.manual_seed(0)
    critic = create_critic(name, weights=None, size="tiny").double().requires_grad_(False)
    for parameter in critic.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    form = critic.inference_form()
    assert any(isinstance(part, WinogradConv) for part in form.modules())
    assert not any(isinstance(part, WinogradConv) for part in critic.modules())
    side = critic.input_size.fixed
    sr, hr = make_pair(2, side or 68, side or 83, dtype=torch.float64)
    plain = reference_form(critic)
    assert (form.score(sr, hr) - plain.score(sr, hr)).abs().max() <= 1e-10
    slopes = [gradient(lambda x, one=one: one.score(x, hr), sr) for one in (plain, form)]
    assert (slopes[1] - slopes[0]).norm() <= 1e-10 * slopes[0].norm()


def transformer():
    torch.manual_seed(0)
    vit = make_vit(16, 8, 16, 2, 2).double().eval().requires_grad_(False)
    for parameter in vit.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return vit


def test_recomputed_mlps_are_equal_and_keep_a_fifth():
    plain = transformer()
    lean = copy.deepcopy(plain)
    recompute_mlps(lean)
    assert all(isinstance(block.mlp, RecomputedMlp) for block in lean.blocks)
    tokens = random(2, 5, 16)
    results = [vit.blocks(tokens) for vit in (plain, lean)]
    assert torch.equal(*results)
    slopes = [gradient(lambda x, vit=vit: vit.blocks(x).sin(), tokens) for vit in (plain, lean)]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0, atol=1e-13)

    def part(block):
        return saved_bytes(lambda: block.mlp(block.norm2(tokens.clone().requires_grad_())), block.parameters()).kept

    # (tokens, mean, deviation, 4 * width) and tokens alone.
    size = tokens.nbytes
    assert part(plain.blocks[0]) == 5 * size + 2 * size // 16
    assert part(lean.blocks[0]) == size


def test_recomputed_mlps_in_bfloat16_are_the_plain_ones():
    plain = transformer().float()
    lean = copy.deepcopy(plain)
    recompute_mlps(lean)
    tokens = random(2, 5, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        slopes = [gradient(lambda x, vit=vit: vit.blocks(x), tokens) for vit in (plain, lean)]
    assert torch.equal(*slopes)
