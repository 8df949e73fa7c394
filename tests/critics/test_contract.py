"""The contract of every registered critic, on its tiny instance. A new critic is tested by being registered."""

from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from gradients import assert_equal, score_and_gradient
from tiny_critics import CRITICS, pair_for, tiny

from sr_perceptual_loss import InputError, create_critic, get_card, load_weights, save_weights

pytestmark = pytest.mark.parametrize("name", CRITICS)


@pytest.mark.fault(21)
def test_one_finite_score_per_pair_in_the_dtype_of_the_critic(name):
    for dtype in (torch.float32, torch.float64):
        critic = tiny(name, dtype)
        score = critic.score(*pair_for(critic, dtype=dtype))
        assert score.shape == (3,) and score.dtype == dtype and torch.isfinite(score).all()


@pytest.mark.fault(16, 17)
def test_batch_mates_and_order_do_not_matter(name):
    critic = tiny(name, torch.float64)
    sr, hr = pair_for(critic, 4, dtype=torch.float64)
    sr[3], hr[3] = sr[3] * 0.1, (hr[3] * 5).clamp(0, 1)
    together = critic.score(sr, hr)
    alone = torch.cat([critic.score(sr[i : i + 1], hr[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-11)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(critic.score(sr[order], hr[order]), together[order], rtol=1e-9, atol=1e-11)


def test_argument_order_matters_as_the_card_says(name):
    critic = tiny(name, torch.float64)
    sr, hr = pair_for(critic, dtype=torch.float64)
    difference = (critic.score(sr, hr) - critic.score(hr, sr)).abs().max()
    assert (difference < 1e-9) if critic.card.symmetric else (difference > 1e-6)


@pytest.mark.fault(25, 27, 28)
def test_gradient_reaches_sr_and_only_sr(name):
    critic = tiny(name, torch.float64)
    for p in critic.parameters():
        p.requires_grad_(False)
    sr, hr = pair_for(critic, dtype=torch.float64)
    sr.requires_grad_()
    hr.requires_grad_()
    critic.score(sr, hr).sum().backward()
    assert torch.isfinite(sr.grad).all()
    # Every image of the batch gets some, and nothing else does.
    assert (sr.grad.flatten(1).norm(dim=1) > 1e-9).all()
    assert hr.grad is None
    assert all(p.grad is None for p in critic.parameters())


@pytest.mark.fault(25)
def test_gradient_is_the_derivative(name):
    critic = tiny(name, torch.float64)
    sr, hr = pair_for(critic, 1, dtype=torch.float64)
    sr.requires_grad_()
    (gradient,) = torch.autograd.grad(critic.score(sr, hr).sum(), sr)
    direction = torch.randn(sr.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    direction = direction / direction.norm() + gradient / gradient.norm()
    step = 1e-6
    with torch.no_grad():
        change = (critic.score(sr + step * direction, hr) - critic.score(sr - step * direction, hr)).sum() / (2 * step)
    torch.testing.assert_close(change, (gradient * direction).sum(), rtol=2e-3, atol=1e-9)


def test_parameters_can_be_trained_when_they_are_not_frozen(name):
    critic = tiny(name, torch.float64)
    if not critic.card.needs_weights:
        pytest.skip("a formula has no parameters")
    critic.score(*pair_for(critic, dtype=torch.float64)).sum().backward()
    with_gradient = sum(1 for p in critic.parameters() if p.grad is not None and p.grad.abs().sum() > 0)
    assert with_gradient > 10


@pytest.mark.fault(42, 44)
def test_two_calls_agree_and_touch_no_global_state(name):
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy(), torch.get_default_dtype())
    flags = (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.is_grad_enabled())
    critic = create_critic(f"tiny_{name}" if get_card(name).needs_weights else name, weights=None)
    sr, hr = pair_for(critic)
    first = critic.score(sr, hr)
    assert torch.equal(first, critic.score(sr, hr))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])
    assert torch.get_default_dtype() == before[3]
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.is_grad_enabled()) == flags


def test_target_features_may_be_handed_in(name):
    critic = tiny(name)
    sr, hr = pair_for(critic)
    target = critic.encode_target(hr)
    assert isinstance(target, tuple) and all(isinstance(t, torch.Tensor) for t in target)
    torch.testing.assert_close(critic.score(sr, hr, target_features=target), critic.score(sr, hr))
    critic.requires_grad_(False)
    assert not any(t.requires_grad for t in critic.encode_target(hr))


@pytest.mark.fault(19, 20)
def test_float32_island_inside_autocast(name):
    critic = tiny(name)
    sr, hr = pair_for(critic)
    plain = critic.score(sr, hr)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            inside = critic.score(sr, hr)
            half = critic.score(sr.to(dtype).requires_grad_(), hr)
        assert inside.dtype == half.dtype == torch.float32
        torch.testing.assert_close(inside, plain)
        # What is left is the rounding of the image itself.
        torch.testing.assert_close(half, critic.score(sr.to(dtype).float(), hr))


@pytest.mark.fault(7, 8)
def test_identical_constant_and_black_images_are_finite(name):
    critic = tiny(name)
    _, hr = pair_for(critic)
    pairs = {
        "equal": (hr, hr),
        "black": (hr * 0, hr * 0),
        "white and black": (hr * 0 + 1, hr * 0),
        "flat": (hr * 0 + 0.5, hr),
    }
    for case, (a, b) in pairs.items():
        a = a.clone().requires_grad_()
        score = critic.score(a, b)
        assert torch.isfinite(score).all(), f"{case}: the score is not finite"
        (gradient,) = torch.autograd.grad(score.sum(), a)
        assert torch.isfinite(gradient).all(), f"{case}: no finite gradient; put an epsilon inside sqrt, std or norm"


@pytest.mark.fault(18)
def test_memory_layout_does_not_matter(name):
    critic = tiny(name, torch.float64)
    sr, hr = pair_for(critic, dtype=torch.float64)
    expected = critic.score(sr, hr)
    layouts = sr.contiguous(memory_format=torch.channels_last), hr.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(critic.score(*layouts), expected, rtol=1e-9, atol=1e-12)
    wide = torch.cat([sr, sr], dim=3)[..., : sr.shape[3]]
    torch.testing.assert_close(critic.score(wide, hr), expected, rtol=1e-9, atol=1e-12)
    # Stride 0: one picture for the whole batch, and one channel for all three.
    for image, reference in ((sr[:1].expand(3, -1, -1, -1), hr), (sr[:, :1].expand(-1, 3, -1, -1), hr)):
        x, y = image.detach().requires_grad_(), image.contiguous().detach().requires_grad_()
        scores = critic.score(x, reference), critic.score(y, reference)
        torch.testing.assert_close(*scores, rtol=1e-9, atol=1e-12)
        gradients = [torch.autograd.grad(score.sum(), leaf)[0] for score, leaf in zip(scores, (x, y), strict=True)]
        torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-12)


@pytest.mark.fault(15)
def test_empty_batch(name):
    critic = tiny(name)
    sr, hr = pair_for(critic)
    score = critic.score(sr[:0].requires_grad_(), hr[:0])
    assert score.shape == (0,) and score.dtype == torch.float32 and score.requires_grad
    assert critic.score_checked(sr[:0], hr[:0]).shape == (0,)


def test_safetensors_round_trip(name, tmp_path):
    critic = tiny(name)
    if not critic.card.needs_weights:
        pytest.skip("a formula has no weights")
    path = tmp_path / f"{name}.safetensors"
    save_weights(critic, path)
    torch.manual_seed(9)
    other = type(critic)(**critic.config).eval()
    sr, hr = pair_for(critic)
    assert not torch.equal(other.score(sr, hr), critic.score(sr, hr))
    load_weights(other, path)
    assert torch.equal(other.score(sr, hr), critic.score(sr, hr))
    by_name = create_critic(critic.card.name, weights=path)
    assert by_name.config == critic.config
    assert torch.equal(by_name.score(sr, hr), critic.score(sr, hr))


def test_remap_official_leaves_its_argument_alone(name):
    critic = tiny(name)
    state = critic.state_dict()
    before = {k: v.clone() for k, v in state.items()}
    type(critic).remap_official(state)
    assert list(state) == list(before)
    assert all(torch.equal(state[k], before[k]) for k in before)


def test_deepcopy_scores_the_same(name):
    critic = tiny(name)
    sr, hr = pair_for(critic)
    assert torch.equal(copy.deepcopy(critic).score(sr, hr), critic.score(sr, hr))


def test_score_checked_is_score_without_validation(name):
    critic = tiny(name)
    sr, hr = pair_for(critic)
    expected = critic.score(sr, hr)
    assert torch.equal(critic.score_checked(sr, hr), expected)
    assert torch.equal(critic.score_checked(sr, hr, critic.encode_target(hr)), expected)
    # The scale is not looked at.
    assert critic.score_checked(sr * 255, hr * 255).shape == (3,)


def test_inference_form_scores_the_same_with_the_card_of_the_critic(name):
    critic = tiny(name, torch.float64).requires_grad_(False)
    sr, hr = pair_for(critic, dtype=torch.float64)
    form = critic.inference_form()
    assert form.card is critic.card and form.config == critic.config and form.inference_form() is form
    assert not form.training and form.input_size == critic.input_size
    assert_equal(score_and_gradient(form, sr, hr), score_and_gradient(critic, sr, hr))
    critic.kernels = "reference"
    assert critic.inference_form() is critic


def test_card(name):
    card = get_card(name)
    assert card.name == name and card.paper and card.score_range[0] < card.score_range[1]
    assert isinstance(card.notes, tuple) and all(d.endswith(".") for d in card.notes)
    assert all(tag == entry.tag for tag, entry in card.weights.items())


BAD = {
    "3-D": (lambda s, h: (s[0], h[0]), "4 dimensions"),
    "5-D": (lambda s, h: (s[None], h[None]), "4 dimensions"),
    "gray": (lambda s, h: (s[:, :1], h[:, :1]), "got 1 channel"),
    "two channels": (lambda s, h: (s[:, :2], h[:, :2]), "got 2 channel"),
    "rgba": (lambda s, h: (torch.cat([s, s[:, :1]], 1), h), "got 4 channel"),
    "channels last": (lambda s, h: (s.permute(0, 2, 3, 1), h.permute(0, 2, 3, 1)), "permute"),
    "sizes differ": (lambda s, h: (s, h[..., :-1]), r"differ in shape: \(3, 3, .*\) and \(3, 3, "),
    "batch differs": (lambda s, h: (s, h[:-1]), r"differ in shape: \(3, .*\) and \(2, "),
    "uint8": (lambda s, h: ((s * 255).byte(), (h * 255).byte()), "torch.uint8.*255"),
    "8-bit float": (lambda s, h: (s.to(torch.float8_e4m3fn), h), "torch.float8_e4m3fn.*float16"),
    "0..255 hr": (lambda s, h: (s, h * 255), r"hr.*\[0, 1\].*divide by 255"),
    "0..255 sr": (lambda s, h: (s * 255, h), r"sr.*\[0, 1\].*divide by 255"),
    "NaN in hr": (lambda s, h: (s, h.index_fill(0, torch.tensor([1]), float("nan"))), "image 1 .*NaN"),
    "inf in hr": (lambda s, h: (s, h / 0), "image 0 .*infinity"),
    "not a tensor": (lambda s, h: (s.numpy(), h), "torch.Tensor"),
    "devices differ": (lambda s, h: (s, h.to("meta")), "cpu.*meta"),
}


@pytest.mark.fault(1, 5, 9, 10, 11, 12, 13, 23)
@pytest.mark.parametrize("case", BAD)
def test_wrong_input_raises(name, case):
    critic = tiny(name)
    change, words = BAD[case]
    with pytest.raises(InputError, match=words):
        critic.score(*change(*pair_for(critic)))


@pytest.mark.fault(13)
def test_an_image_below_the_size_rule_raises(name):
    critic = tiny(name)
    side = (critic.input_size.fixed or critic.input_size.minimum) - 1
    if side < 1:
        pytest.skip("takes every size")
    sr, hr = (image[..., :side, :side] for image in pair_for(critic))
    with pytest.raises(InputError, match=f"got {side}x{side}"):
        critic.score(sr, hr)


def test_a_critic_with_another_number_of_scores_is_refused(name, monkeypatch):
    critic = tiny(name)
    monkeypatch.setattr(critic, "_compare", lambda sr, hr, target: sr.mean())
    with pytest.raises(InputError, match=f"{critic.card.name}.*one score per pair"):
        critic.score(*pair_for(critic))


@pytest.mark.fault(1)
def test_the_scale_is_checked_in_the_first_three_calls_only(name):
    critic = tiny(name)
    sr, hr = pair_for(critic)
    for _ in range(2):
        critic.score(sr, hr)
    with pytest.raises(InputError, match="255"):
        critic.score(sr * 255, hr)
    assert critic.score(sr * 255, hr).shape == (3,)


@pytest.mark.fault(2)
def test_overshoot_is_accepted_and_keeps_its_gradient(name):
    critic = tiny(name)
    sr, hr = pair_for(critic)
    sr = (sr * 1.2 - 0.1).requires_grad_()
    assert (sr > 1).any() and (sr < 0).any()
    critic.score(sr, hr).sum().backward()
    outside = sr.grad[(sr > 1) | (sr < 0)]
    assert outside.abs().max() > 0


@pytest.mark.fault(3)
def test_minus_one_to_one_data_warns_once(name):
    critic = tiny(name)
    sr, hr = pair_for(critic)
    with pytest.warns(UserWarning, match=r"\[-1, 1\] data"):
        critic.score(sr * 2 - 1, hr * 2 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        critic.score(sr * 2 - 1, hr * 2 - 1)


@pytest.mark.fault(29)
def test_inference_mode_targets_are_accepted(name):
    critic = tiny(name)
    sr, hr = pair_for(critic)
    with torch.inference_mode():
        target = hr * 1.0
        assert critic.score(sr, target).shape == (3,)
    critic.score(sr.requires_grad_(), target).sum().backward()
    assert torch.isfinite(sr.grad).all()
