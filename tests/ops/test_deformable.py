"""Deformable convolution that mixes channels first, against torchvision's operator."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import deform_conv2d

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops import deform_mix, deformable
from sr_perceptual_loss.ops.deform_mix import mixed_deformable, tap_weights
from sr_perceptual_loss.ops.deformable import deformable_taps

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
    monkeypatch.setattr(deform_mix, "CHUNK_BYTES", 100_000)
    image, offset, weights, grad = case(kind, shape, sides)
    expected = operator(image, offset, weights)
    result = mixed_deformable(image, offset, tap_weights(weights), sides)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-13)
    theirs = torch.autograd.grad(expected, [image, offset, *weights], grad)
    ours = torch.autograd.grad(result, [image, offset, *weights], grad)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    if kind in ("zero", "integer", "random") and shape != (2, 1, 1):
        assert theirs[1].abs().max() > 0.1


@pytest.mark.fault(26)
def test_gradcheck(monkeypatch):
    monkeypatch.setattr(deform_mix, "CHUNK_BYTES", 10_000)
    image, offset, weights, _ = case("random", (1, 2, 3), (3,), channels=2, out=1)
    taps = tap_weights(weights).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda *a: mixed_deformable(*a, (3,)), (image, offset, taps))


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


def test_the_chunk_size_changes_nothing_and_limits_the_taps(monkeypatch):
    image, offset, weights, grad = case("random", (2, 12, 11), (3, 5))
    taps = tap_weights(weights)
    results = []
    for chunk_bytes in (1, 50_000, 10**9):
        monkeypatch.setattr(deform_mix, "CHUNK_BYTES", chunk_bytes)
        value = mixed_deformable(image, offset, taps, (3, 5))
        results.append((value, *torch.autograd.grad(value, [image, offset, *weights], grad, retain_graph=True)))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    like = offset[0, 0]
    sizes = [[c.last - c.first for c in deform_mix._chunks((3, 5), limit, like)] for limit in (1, 10, 100)]
    assert sizes == [[1] * 34, [9, 8, 8, 9], [9, 25]]
    limits = []
    for chunk_bytes in (1, 2**20, 16 * 2**20):
        monkeypatch.setattr(deform_mix, "CHUNK_BYTES", chunk_bytes)
        limits.append(deform_mix._taps_per_chunk((1, 16, 16), 64, torch.float32, backward=True))
    assert limits == [1, 2**20 // (256 * (128 + 24) * 4), 2**24 // (256 * (128 + 24) * 4)]


def test_only_what_the_backward_pass_needs_is_kept():
    image, offset, weights, _ = case("random", (1, 6, 6), (3, 5))
    taps = tap_weights(weights).detach()

    def kept(image, offset, taps):
        pointers = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: pointers.add(t.data_ptr()) or t, lambda t: t):
            mixed_deformable(image, offset, taps, (3, 5))
        return pointers

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


def test_kernels_choose_the_implementation(monkeypatch):
    image, offset, weights, _ = case("random", (2, 6, 5), (3, 5))
    taps, expected = tap_weights(weights), operator(image, offset, weights)
    torch.testing.assert_close(deformable_taps(image, offset, taps, (3, 5)), expected, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(deformable, "mixed_deformable", None)
    assert torch.equal(deformable_taps(image, offset, taps, (3, 5), "reference"), expected)
    with pytest.raises(InputError, match=r"kernels: got 'refrence'.*Did you mean 'reference'"):
        deformable_taps(image, offset, taps, (3, 5), "refrence")
