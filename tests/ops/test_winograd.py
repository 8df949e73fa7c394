"""3x3 convolutions by minimal filtering: equal to the plain module."""

from __future__ import annotations

import pytest
import torch
from gradients import saved_bytes
from torch import nn

from sr_perceptual_loss.ops import winograd
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
    expected, result = conv(image), WinogradConv(conv)(image)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-13)
    upstream = random(*expected.shape, seed=2).contiguous(memory_format=layout)
    slopes = [torch.autograd.grad(each, image, upstream)[0] for each in (expected, result)]
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
    assert saved_bytes(lambda: part(image), [part]) == 0
    expected = torch.relu(part(image))
    assert torch.equal(part(image).relu_(), expected)
    (slope,) = torch.autograd.grad((part(image).relu_().square()).sum(), image)
    torch.testing.assert_close(slope, torch.autograd.grad(expected.square().sum(), image)[0], rtol=0, atol=1e-14)


def test_inside_autocast_it_is_the_ordinary_convolution():
    conv = convolution(dtype=torch.float32)
    image = random(1, 5, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = WinogradConv(conv)(image)
        assert result.dtype == torch.bfloat16 and torch.equal(result, conv(image))


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
