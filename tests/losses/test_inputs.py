"""What every loss does with pairs that are not what it takes, and with odd ones that are."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from pairs import make_pair
from tiny_critics import pair_for, tiny

from sr_perceptual_loss import CriticLoss, InputError, checks, create_critic
from sr_perceptual_loss.monitor.guard import HackingGuard

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def refused(build, words, sr, hr):
    for image in (sr, sr.requires_grad_() if isinstance(sr, torch.Tensor) and sr.is_floating_point() else sr):
        with pytest.raises(InputError, match=words):
            build()(image, hr)


@pytest.mark.fault(1)
def test_another_scale_or_dtype(build):
    sr, hr = make_pair(2, 32, 32)
    refused(build, r"hr .*255", sr, hr * 255)
    refused(build, r"sr .*255", sr * 255, hr)
    refused(build, "uint8.*255", (sr * 255).byte(), hr)
    assert issubclass(InputError, ValueError)


def test_swapped_arguments_whose_loss_would_train_nothing(build):
    sr, hr = make_pair(2, 32, 32)
    with pytest.raises(InputError, match="hr"):
        build()(hr, sr.requires_grad_())
    with torch.no_grad():
        build()(hr, sr)


@pytest.mark.fault(1)
def test_a_pair_is_validated_once_and_its_values_in_the_first_calls_only(build, monkeypatch):
    calls = {"check_pair": 0, "aminmax": 0}

    def counting(name, real):
        def call(*arguments, **keywords):
            calls[name] += 1
            return real(*arguments, **keywords)

        return call

    counted = counting("check_pair", checks.check_pair)
    for module in [
        m for n, m in sys.modules.items() if n.startswith("sr_perceptual_loss") and hasattr(m, "check_pair")
    ]:
        monkeypatch.setattr(module, "check_pair", counted)
    monkeypatch.setattr(torch, "aminmax", counting("aminmax", torch.aminmax))
    sr, hr = make_pair(1, 48, 48)
    loss = build()
    for _ in range(5):
        loss(sr.clone().requires_grad_(), hr).backward()
    assert calls["aminmax"] == 3
    assert calls["check_pair"] == 5


@pytest.mark.fault(2)
def test_overshoot_keeps_its_gradient_and_the_guard_logs_it(build):
    sr, hr = make_pair(2, 48, 48)
    sr = (sr * 1.1 - 0.05).requires_grad_()
    outside = (sr > 1) | (sr < 0)
    assert outside.any()
    loss = build()
    loss(sr, hr).backward()
    assert (sr.grad[outside] != 0).float().mean() > 0.9
    guard = HackingGuard()
    guard.step(1, sr, hr, {"loss": loss})
    assert guard.values["overshoot"] == pytest.approx(float(outside.float().mean()))


@pytest.mark.fault(3)
def test_minus_one_to_one_data_warns_once(build):
    sr, hr = make_pair(2, 48, 48)
    loss = build()
    with pytest.warns(UserWarning, match=r"\[-1, 1\]") as seen:
        loss(sr * 2 - 1, hr * 2 - 1)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(sr * 2 - 1, hr * 2 - 1)


@pytest.mark.fault(9)
def test_pair_of_different_sizes(build):
    sr, hr = make_pair(2, 32, 40)
    refused(build, r"differ in shape: \(2, 3, 32, 40\) and \(2, 3, 32, 39\)", sr, hr[..., :-1])
    refused(build, r"differ in shape: \(2, 3, 32, 40\) and \(1, 3, 32, 40\)", sr, hr[:1])


@pytest.mark.fault(10)
@pytest.mark.parametrize(("channels", "words"), [(1, "expand"), (2, "got 2 channel"), (4, "alpha")])
def test_number_of_channels(build, channels, words):
    sr, hr = (torch.cat([image, image], 1)[:, :channels] for image in make_pair(1, 32, 40))
    refused(build, words, sr.clone(), hr)


@pytest.mark.fault(11)
def test_number_of_dimensions(build):
    sr, hr = make_pair(2, 32, 32)
    refused(build, r"\(3, 32, 32\).*unsqueeze", sr[0].clone(), hr[0])
    refused(build, "frames", sr[None].clone(), hr[None])
    refused(build, "ndarray", sr.numpy(), hr)


@pytest.mark.fault(12)
def test_channels_last_shape(build):
    sr, hr = (image.permute(0, 2, 3, 1) for image in make_pair(1, 32, 32))
    refused(build, "permute", sr.clone(), hr)


@pytest.mark.fault(13)
def test_smaller_than_the_crop():
    sr, hr = make_pair(2, 48, 48)
    with pytest.raises(InputError, match="48x48.*224x224.*gt_size"):
        CriticLoss("haarpsi", crops=224)(sr, hr)
    critic = create_critic("haarpsi")
    for crops in ({"size": 224, "small": "resize"}, {"size": 224, "small": "reflect"}, {"size": 24, "scales": [1, 2]}):
        for dtype in (torch.float32, torch.float16):
            x = sr.to(dtype).detach().clone().requires_grad_()
            loss = CriticLoss(critic, crops=crops)
            value = loss(x, hr.to(dtype))
            value.backward()
            assert torch.isfinite(value) and (x.grad.flatten(1).abs().sum(1) > 0).all(), (crops, dtype)


@pytest.mark.fault(13)
def test_smaller_than_a_critic_or_window_takes(build):
    refused(build, "9x9", *make_pair(1, 9, 9))


@pytest.mark.fault(14)
@pytest.mark.parametrize("size", [(223, 385), (225, 224), (97, 131)])
def test_odd_sizes_are_the_cropped_reference(size):
    """A loss on crops of an odd image sees what cutting it by hand gives."""
    sr, hr = make_pair(1, *size)
    for critic, side in ((create_critic("haarpsi"), 64), (tiny("rqi_maniqa"), None), (tiny("efficient_pban"), 48)):
        loss = CriticLoss(critic, crops={"size": side, "position": "center"})
        side = side or critic.input_size.fixed
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        cut = (..., slice(top, top + side), slice(left, left + side))
        x = sr.clone().requires_grad_()
        value = loss(x, hr)
        value.backward()
        torch.testing.assert_close(-value.detach(), critic.score(sr[cut], hr[cut]).mean(), rtol=1e-5, atol=1e-6)
        assert x.grad[cut].abs().sum() > 0 and x.grad.count_nonzero() <= 3 * side * side


@pytest.mark.fault(14)
def test_odd_sizes_as_a_whole(build):
    x, hr = make_pair(1, 43, 57)
    value = build()(x.requires_grad_(), hr)
    value.backward()
    assert torch.isfinite(value) and x.grad.abs().sum() > 0


@pytest.mark.fault(15)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_empty_batch_is_a_zero_on_the_graph(build, dtype):
    sr, hr = make_pair(1, 32, 32, dtype=dtype)
    x = sr[:0].requires_grad_()
    loss = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = loss(x, hr[:0])
        value.backward()
    assert value.dtype == torch.promote_types(dtype, torch.float32) and value.device == sr.device
    assert float(value.detach()) == 0 and value.dim() == 0 and x.grad.shape == x.shape
    assert set(loss.terms) == {"loss", *loss.term_names} and all(float(t) == 0 for t in loss.terms.values())
    assert float(loss(sr[:0], hr[:0])) == 0


@pytest.mark.fault(16, 17)
@pytest.mark.parametrize("name", ["haarpsi", "efficient_pban"])
def test_batch_mates_and_order_do_not_matter(name):
    critic = tiny(name, torch.float64)
    sr, hr = pair_for(critic, 8, dtype=torch.float64)
    loss = CriticLoss(critic, reduction="none")
    together = loss(sr, hr)
    torch.testing.assert_close(loss(sr[3:4], hr[3:4]), together[3:4], rtol=0, atol=1e-9)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(sr[order], hr[order]), together[order], rtol=0, atol=1e-9)


@pytest.mark.fault(23)
def test_two_devices(build):
    sr, hr = make_pair(1, 32, 32)
    refused(build, "cpu.*meta", sr, hr.to("meta"))


@pytest.mark.fault(23)
@cuda
def test_two_devices_with_a_gpu(build):
    sr, hr = make_pair(1, 32, 32)
    refused(build, "cuda:0.*cpu", sr.cuda(), hr)


@pytest.mark.parametrize("weight", [-0.1, "-0.1", "-1e-1", -1e-30])
def test_a_negative_weight_is_refused_with_the_positive_one(build, weight):
    positive = f"{-float(weight):g}"
    with pytest.raises(InputError, match=f"loss_weight: got -{positive}.*{positive}"):
        build(loss_weight=weight)
    loss = build()
    with pytest.raises(InputError, match=f"loss_weight: got -{positive}"):
        loss.loss_weight = weight
    assert loss.loss_weight == 1


@pytest.mark.parametrize("weight", [0, "0", -0.0, "-0"])
def test_the_weight_0_switches_a_loss_off(build, weight):
    x, hr = make_pair(1, 32, 32)
    loss = build(loss_weight=weight)
    loss(x.requires_grad_(), hr).backward()
    assert loss.terms["loss"] == 0 and x.grad.count_nonzero() == 0 and loss.terms["score"] != 0
    assert str(loss.loss_weight) == "0.0"
