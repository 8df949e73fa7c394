"""Channels-first deformable convolution against torchvision's operator, and batch-norm folding."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import deform_conv2d

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops import deform_mix
from sr_perceptual_loss.ops.deform_mix import mixed_deformable, tap_weights
from sr_perceptual_loss.ops.deformable import deformable_conv, deformable_taps, use_operator
from sr_perceptual_loss.ops.fold import fold_bn, folded, frozen_copy, merge_convs
from sr_perceptual_loss.ops.resnet import residual_stage

OFFSETS = {
    "zero": lambda shape, g: torch.zeros(shape, dtype=torch.float64),
    # Whole numbers: the interpolant has a kink, and the derivative to the right is the one.
    "integer": lambda shape, g: torch.randint(-4, 5, shape, generator=g).double(),
    "random": lambda shape, g: 2 * torch.randn(shape, generator=g, dtype=torch.float64),
    "far outside": lambda shape, g: 40 * torch.randn(shape, generator=g, dtype=torch.float64),
    # Larger than any integer type.
    "wild": lambda shape, g: 1e30 * torch.randn(shape, generator=g, dtype=torch.float64),
}


def case(kind, shape, sides, channels=3, out=2):
    """(image, merged offsets, weights of each branch, gradient of the result)."""
    g = torch.Generator().manual_seed(0)
    n, height, width = shape
    taps = sum(k * k for k in sides)
    image = torch.randn(n, channels, height, width, generator=g, dtype=torch.float64).requires_grad_()
    offset = OFFSETS[kind]((n, 2 * taps, height, width), g).requires_grad_()
    weights = [torch.randn(out, channels, k, k, generator=g, dtype=torch.float64).requires_grad_() for k in sides]
    return image, offset, weights, torch.randn(n, out * len(sides), height, width, generator=g, dtype=torch.float64)


def operator(image, offset, weights):
    split = offset.split([2 * w.shape[-1] ** 2 for w in weights], dim=1)
    return torch.cat(
        [deform_conv2d(image, o, w, padding=w.shape[-1] // 2) for o, w in zip(split, weights, strict=True)], dim=1
    )


@pytest.mark.parametrize("dense", [True, False], ids=["matrix", "gather"])
@pytest.mark.parametrize(
    ("shape", "sides"),
    [((1, 5, 7), (3, 5, 7, 9)), ((3, 6, 4), (3,)), ((2, 4, 6), (3, 5)), ((2, 1, 1), (3, 7))],
    ids=str,
)
@pytest.mark.parametrize("kind", OFFSETS)
def test_value_and_all_gradients_are_torchvisions(kind, shape, sides, dense, monkeypatch):
    monkeypatch.setattr(deform_mix, "DENSE_PIXELS", 10**6 if dense else 0)
    monkeypatch.setattr(deform_mix, "GATHER_BYTES", 3000)
    image, offset, weights, grad = case(kind, shape, sides)
    expected = operator(image, offset, weights)
    # Few bytes: several chunks per branch.
    found = mixed_deformable(image, offset, tap_weights(weights), sides, chunk_bytes=100_000)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    wanted = torch.autograd.grad(expected, [image, offset, *weights], grad)
    given = torch.autograd.grad(found, [image, offset, *weights], grad)
    for ours, theirs in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    if kind in ("zero", "integer", "random") and shape != (2, 1, 1):
        assert wanted[1].abs().max() > 0.1


@pytest.mark.fault(26)
def test_gradcheck():
    image, offset, weights, _ = case("random", (1, 2, 3), (3,), channels=2, out=1)
    taps = tap_weights(weights).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: mixed_deformable(*a, (3,), chunk_bytes=10_000), (image, offset, taps))


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_each_gradient_alone(needed):
    image, offset, weights, grad = case("random", (2, 4, 5), (3, 5))
    inputs = [image.detach(), offset.detach(), tap_weights(weights).detach()]
    full = [tensor.clone().requires_grad_() for tensor in inputs]
    wanted = torch.autograd.grad(mixed_deformable(*full, (3, 5)), full, grad)
    some = [tensor.clone().requires_grad_(i in needed) for i, tensor in enumerate(inputs)]
    given = torch.autograd.grad(mixed_deformable(*some, (3, 5)), [some[i] for i in needed], grad)
    for i, gradient in zip(needed, given, strict=True):
        assert torch.equal(gradient, wanted[i])


def test_the_chunk_size_changes_nothing_and_limits_the_taps():
    image, offset, weights, grad = case("random", (2, 12, 11), (3, 5))
    taps = tap_weights(weights)
    results = []
    for chunk_bytes in (1, 50_000, 10**9):
        value = mixed_deformable(image, offset, taps, (3, 5), chunk_bytes=chunk_bytes)
        results.append((value, *torch.autograd.grad(value, [image, offset, *weights], grad, retain_graph=True)))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    like = offset[0, 0]
    sizes = [[c.last - c.first for c in deform_mix._chunks((3, 5), limit, like)] for limit in (1, 10, 100)]
    assert sizes == [[1] * 34, [9, 8, 8, 9], [9, 25]]
    limits = [
        deform_mix._taps_per_chunk(b, (1, 16, 16), 64, torch.float32, backward=True) for b in (1, 2**20, 16 * 2**20)
    ]
    assert limits == [1, 2**20 // (256 * (128 + 24) * 4), 2**24 // (256 * (128 + 24) * 4)]


def test_only_what_the_backward_pass_needs_is_kept():
    image, offset, weights, _ = case("random", (1, 6, 6), (3, 5))
    taps = tap_weights(weights).detach()

    def kept(image, offset, taps):
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t.data_ptr()) or t, lambda t: t):
            mixed_deformable(image, offset, taps, (3, 5))
        return set(found)

    assert kept(image, offset, taps) == {image.data_ptr(), offset.data_ptr(), taps.data_ptr()}
    # Offsets that need no gradient: not even the image.
    assert kept(image, offset.detach(), taps) == {offset.data_ptr(), taps.data_ptr()}
    with torch.no_grad():
        assert kept(image, offset, taps) == set()


def test_float32_and_autocast_compute_in_the_weights_precision():
    image, offset, weights, grad = (
        t.float() if isinstance(t, torch.Tensor) else t for t in case("random", (2, 9, 8), (3, 5))
    )
    weights = [w.float().detach() for w in weights]
    image, offset, taps = image.detach().requires_grad_(), offset.detach().requires_grad_(), tap_weights(weights)
    plain = mixed_deformable(image, offset, taps, (3, 5))
    torch.testing.assert_close(plain, operator(image, offset, weights), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mixed_deformable(image, offset, taps, (3, 5))
        rounded = mixed_deformable(image.bfloat16(), offset, taps, (3, 5))
        gradients = torch.autograd.grad(inside, [image, offset], grad)
    assert inside.dtype == rounded.dtype == torch.float32
    assert torch.equal(inside, plain)
    for one, two in zip(gradients, torch.autograd.grad(plain, [image, offset], grad), strict=True):
        assert torch.equal(one, two)
    torch.testing.assert_close(rounded, plain, rtol=0.1, atol=0.2)


@pytest.mark.fault(30)
def test_not_differentiable_twice_and_says_so():
    image, offset, weights, grad = case("random", (1, 4, 4), (3,))
    value = mixed_deformable(image, offset, tap_weights(weights), (3,))
    # Also where the gradient that comes in is a constant, for which PyTorch's own mark says nothing.
    for incoming in (grad.detach(), grad.requires_grad_()):
        with pytest.raises(NotImplementedError, match="second derivatives"):
            torch.autograd.grad(value, image, incoming, create_graph=True, retain_graph=True)
    assert torch.autograd.grad(value, image, grad)[0].abs().sum() > 0


def test_offsets_that_are_not_numbers_stay_visible_and_read_nothing_outside():
    image, offset, weights, _ = case("random", (1, 4, 4), (3,))
    offset = offset.detach()
    offset[0, 0, 1, 2] = torch.nan
    value = mixed_deformable(image, offset, tap_weights(weights), (3,))
    expected = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    expected[:, :, 1, 2] = True
    assert torch.equal(value.isnan(), expected)


def test_kernels_choose_the_implementation():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [use_operator(k, cpu) for k in ("auto", "reference", "mixed")] == [False, True, False]
    assert [use_operator(k, cuda) for k in ("auto", "reference", "mixed")] == [True, True, False]
    with pytest.raises(InputError, match=r"kernels: got 'refrence'.*Did you mean 'reference'"):
        use_operator("refrence", cpu)
    image, offset, weights, _ = case("random", (2, 6, 5), (3,))
    bias = torch.tensor([0.5, -2.0], dtype=torch.float64)
    expected = deform_conv2d(image, offset, weights[0], bias, padding=1)
    assert torch.equal(deformable_conv(image, offset, weights[0], bias, "reference"), expected)
    torch.testing.assert_close(deformable_conv(image, offset, weights[0], bias), expected, rtol=1e-12, atol=1e-12)
    image, offset, weights, _ = case("random", (2, 6, 5), (3, 5))
    taps, expected = tap_weights(weights), operator(image, offset, weights)
    for kernels in ("auto", "reference"):
        found = deformable_taps(image, offset, taps, (3, 5), kernels)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def normed(bn):
    """Statistics and parameters that are not those of a fresh one."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        bn.running_mean.normal_(generator=g)
        bn.running_var.uniform_(0.3, 2, generator=g)
        if bn.affine:
            bn.weight.normal_(generator=g)
            bn.bias.normal_(generator=g)
    return bn.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_fold_bn(bias, affine):
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=bias).double()
    bn = normed(nn.BatchNorm2d(6, affine=affine, eps=0.1).double())
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    new = fold_bn(conv, bn)
    torch.testing.assert_close(new(x), bn(conv(x)), rtol=1e-12, atol=1e-12)
    assert not any(p.requires_grad for p in new.parameters()) and conv.weight.requires_grad


def test_fold_bn_refuses_what_it_cannot_fold():
    conv = nn.Conv2d(3, 4, 1)
    with pytest.raises(InputError, match="without running statistics"):
        fold_bn(conv, nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(InputError, match="got 5 normalised and 4 convolved"):
        fold_bn(conv, nn.BatchNorm2d(5))


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_folded_network(block):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), residual_stage(block, 8, 4, 2, 2)).double()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            normed(part)
    net.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    new = folded(net)
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(new(x), net(x), rtol=1e-11, atol=1e-11)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in new.modules())
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_merged_convolutions():
    convs = [nn.Conv2d(3, out, 3, padding=1).double() for out in (2, 5)]
    x = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    found = merge_convs(*convs)(x)
    torch.testing.assert_close(found, torch.cat([conv(x) for conv in convs], 1), rtol=1e-12, atol=1e-12)


def test_a_frozen_copy_shares_memory_and_can_be_cast_alone():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    new = frozen_copy(net)
    assert new[0].weight.data_ptr() == net[0].weight.data_ptr()
    assert new[1].running_mean.data_ptr() == net[1].running_mean.data_ptr()
    assert net[0].weight.requires_grad and not new[0].weight.requires_grad and not new.training
    new.double()
    assert net[0].weight.dtype == net[1].running_mean.dtype == torch.float32
    assert new[0].weight.dtype == new[1].running_mean.dtype == torch.float64
