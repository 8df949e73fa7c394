"""Efficient-PBAN and RQI/AHIQ prepared for weights that never change: equal, smaller, and still critics."""

from __future__ import annotations

import copy

import pytest
import torch
from pairs import make_pair
from torch import nn

from sr_perceptual_loss.critics.efficient_pban.network import EfficientPBAN
from sr_perceptual_loss.critics.rqi_ahiq.network import RQIAhiq
from sr_perceptual_loss.errors import InputError

KINDS = ["pban sample", "pban batch", "ahiq 8", "ahiq 4", "ahiq 16"]


def build(kind, dtype=torch.float64, **config):
    """A tiny critic whose batch norms, offsets and biases are not those of a fresh network."""
    torch.manual_seed(0)
    name, option = kind.split()
    cls, own = (EfficientPBAN, {"std": option}) if name == "pban" else (RQIAhiq, {"patch": int(option)})
    critic = cls(**{**cls.tiny().config, **own, **config}).to(dtype)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in critic.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1, generator=g)
                part.running_var.uniform_(0.5, 1.5, generator=g)
        for parameter in critic.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=g, dtype=dtype)
    return critic.eval().requires_grad_(False)


def reference(critic):
    """The same critic in the formulation that everything is measured against."""
    other = copy.deepcopy(critic)
    other.kernels = "reference"
    return other


def pair_for(critic, n=2, dtype=torch.float64, sides=(72, 88), seed=0):
    side = critic.input_size.fixed
    return make_pair(n, *((side, side) if side else sides), dtype=dtype, seed=seed)


def score_and_gradient(critic, sr, hr, target=None):
    sr = sr.clone().requires_grad_()
    scores = critic.score(sr, hr, target_features=target)
    return scores.detach(), torch.autograd.grad(scores.sum(), sr)[0]


def assert_equal(found, wanted):
    """Scores absolutely, gradients as vectors: both to 1e-10."""
    assert (found[0] - wanted[0]).abs().max() <= 1e-10
    assert (found[1] - wanted[1]).norm() <= 1e-10 * wanted[1].norm()
    assert wanted[1].norm() > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_gradients_are_those_of_the_reference(kind):
    critic = build(kind)
    form = critic.inference_form()
    sr, hr = pair_for(critic)
    wanted = score_and_gradient(reference(critic), sr, hr)
    assert_equal(score_and_gradient(critic, sr, hr), wanted)
    assert_equal(score_and_gradient(form, sr, hr), wanted)
    assert_equal(score_and_gradient(form, sr, hr, form.encode_target(hr)), wanted)


@pytest.mark.parametrize("kind", ["pban sample", "ahiq 8"])
def test_the_operator_can_be_chosen_in_the_prepared_critic(kind, monkeypatch):
    from sr_perceptual_loss.ops import deformable

    critic = build(kind)
    form = critic.inference_form()
    sr, hr = pair_for(critic)
    wanted = score_and_gradient(form, sr, hr)
    form.kernels = "reference"
    monkeypatch.setattr(deformable, "mixed_deformable", None)
    assert_equal(score_and_gradient(form, sr, hr), wanted)
    form.kernels = "fastest"
    with pytest.raises(InputError, match="kernels: got 'fastest'"):
        form.score(sr, hr)


@pytest.mark.parametrize("kind", ["pban sample", "pban batch", "ahiq 8"])
def test_under_reference_kernels_nothing_is_prepared(kind):
    critic = reference(build(kind))
    assert critic.inference_form() is critic


@pytest.mark.parametrize("sides", [(17, 17), (32, 33), (49, 200)])
def test_odd_and_smallest_sizes(sides):
    critic = build("pban sample")
    sr, hr = pair_for(critic, sides=sides)
    wanted = score_and_gradient(reference(critic), sr, hr)
    assert_equal(score_and_gradient(critic.inference_form(), sr, hr), wanted)


def test_normalisation_per_role_is_kept():
    critic = build("pban sample", normalisation="published")
    pair = pair_for(critic)
    assert_equal(score_and_gradient(critic.inference_form(), *pair), score_and_gradient(critic, *pair))


@pytest.mark.parametrize("kind", ["pban sample", "ahiq 8"])
def test_the_original_stays_as_it_was(kind):
    critic = build(kind)
    critic.requires_grad_(True)
    before = {key: value.clone() for key, value in critic.state_dict().items()}
    form = critic.inference_form()
    form.score(*pair_for(critic))
    form.float()
    after = critic.state_dict()
    assert list(before) == list(after)
    assert all(value.dtype == before[key].dtype and torch.equal(value, before[key]) for key, value in after.items())
    assert all(parameter.requires_grad for parameter in critic.parameters())
    type(critic)(**critic.config).load_state_dict(after, strict=True)


@pytest.mark.parametrize("kind", ["pban sample", "ahiq 8"])
def test_the_prepared_critic_is_a_frozen_critic(kind):
    critic = build(kind)
    critic.autocast_dtype = torch.bfloat16
    form = critic.inference_form()
    assert (form.card, form.input_size, form.config) == (critic.card, critic.input_size, critic.config)
    assert form.autocast_dtype == torch.bfloat16 and form.kernels == "auto"
    form.autocast_dtype = None
    assert not form.training and not any(p.requires_grad for p in form.parameters())
    sr, hr = pair_for(critic)
    expected = form.score(sr, hr)
    assert not any(tensor.requires_grad for tensor in form.encode_target(hr))
    # No dropout and no batch statistics: the mode does not matter.
    torch.testing.assert_close(form.train().score(sr, hr), expected, rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(form).score(sr, hr), expected, rtol=0, atol=0)
    single = form.float().score(sr.float(), hr.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-4)
    bad = torch.zeros(1, 3, 16, 16)
    with pytest.raises(InputError, match="got 16x16, takes"):
        form.score(bad, bad)


@pytest.mark.parametrize("kind", ["pban sample", "ahiq 8"])
def test_a_score_does_not_depend_on_batch_mates(kind):
    form = build(kind).inference_form()
    sr, hr = pair_for(form, 3)
    sr[2] *= 0.1
    alone = torch.cat([form.score(sr[i : i + 1], hr[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(form.score(sr, hr), alone, rtol=1e-10, atol=1e-12)


def test_folding_is_done_in_the_originals_precision():
    critic = build("pban sample", torch.float32)
    assert {p.dtype for p in critic.inference_form().parameters()} == {torch.float32}


def test_what_never_influences_the_score_is_absent():
    critic = build("ahiq 8")
    keys = list(critic.inference_form().state_dict())
    assert not [key for key in keys if key.startswith(RQIAhiq.unused)]
    assert [key for key in keys if key.startswith("vit.blocks.4.")]
    form = build("pban sample").inference_form()
    assert not [key for key in form.state_dict() if any(f"rest.{n}" in key for n in ("after_block3", "SE.subchannel."))]
    # Every parameter that is left reaches the score.
    form.requires_grad_(True)
    form.score(*pair_for(form)).sum().backward()
    assert all(p.grad is not None for p in form.block.rest.parameters())


def saved_bytes(critic, sr, hr):
    """Bytes of distinct storages kept for the backward pass, parameters and buffers excluded."""
    sr = sr.clone().requires_grad_()
    own = {t.untyped_storage().data_ptr() for t in (*critic.parameters(), *critic.buffers())}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        critic.score(sr, hr)
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize(
    ("kind", "config", "sides", "limit"),
    [
        ("pban sample", {}, (64, 64), 0.83),
        ("pban sample", {"widths": (32, 64, 128), "depths": (2, 2, 2)}, (128, 128), 0.67),
        ("pban sample", {"widths": (64, 128, 256), "depths": (3, 4, 6)}, (64, 64), 0.62),
        ("ahiq 8", {}, (32, 32), 0.6),
        ("ahiq 8", {"side": 64, "width": 64, "stem": 16, "deform_channels": 64, "channels": 32}, (64, 64), 0.55),
    ],
    ids=["pban tiny", "pban medium", "pban full", "ahiq tiny", "ahiq medium"],
)
def test_fewer_bytes_are_kept_between_forward_and_backward(kind, config, sides, limit):
    critic = build(kind, torch.float32, **config)
    pair = pair_for(critic, 1, torch.float32, sides)
    ratio = saved_bytes(critic.inference_form(), *pair) / saved_bytes(reference(critic), *pair)
    assert ratio < limit
