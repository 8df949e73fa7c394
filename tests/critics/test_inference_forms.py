"""Inference forms: the numbers of the published formulation, less kept for the gradient, and still critics."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from gradients import assert_equal, saved_bytes, score_and_gradient
from pairs import make_pair
from torch import nn

from sr_perceptual_loss.critics.base import normalise
from sr_perceptual_loss.critics.efficient_pban import EfficientPBAN
from sr_perceptual_loss.critics.rqi_ahiq import RQIAhiq
from sr_perceptual_loss.critics.rqi_maniqa import RQIManiqa
from sr_perceptual_loss.critics.rqi_maniqa.network import HALF
from sr_perceptual_loss.critics.rqi_topiq import RQITopiq
from sr_perceptual_loss.critics.rqi_topiq.network import DISTANCE_EPS, LEVELS
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops import deformable, winograd
from sr_perceptual_loss.ops.winograd import WinogradConv


class PlainManiqa(RQIManiqa):
    """All blocks are run."""

    def vit_features(self, image):
        x = self.vit.patch_embed(normalise(image, HALF, HALF))
        x = torch.cat([self.vit.cls_token.expand(len(x), -1, -1), x], dim=1) + self.vit.pos_embed
        taps = []
        for number, block in enumerate(self.vit.blocks):
            x = block(x)
            if number in self.taps:
                taps.append(x[:, 1:])
        return rearrange(taps, "k n (h w) d -> n (k d) h w", h=self.grid)


class PlainTopiq(RQITopiq):
    """Pooled after the concatenation."""

    def _level_tokens(self, level, sr, hr, position):
        distance = ((sr - hr).square() + DISTANCE_EPS).sqrt()
        maps = torch.cat([sr, hr, distance], dim=1) * self.weight_pool[level](distance)
        if level < LEVELS - 1:
            maps = F.adaptive_avg_pool2d(maps, position.shape[2:])
        return self.sa_attn_blks[level](rearrange(self.dim_reduce[level](maps) + position, "n c h w -> (h w) n c"))


BOTTLENECK = {"block": "bottleneck", "layers": (2, 1, 1, 1), "widths": (8, 8, 8, 8), "stem": "plain", "stem_width": 64}
KINDS = {
    "pban sample": (EfficientPBAN, {}),
    "pban batch": (EfficientPBAN, {"std": "batch"}),
    "pban published": (EfficientPBAN, {"normalisation": "published"}),
    "ahiq 8": (RQIAhiq, {}),
    "ahiq 4": (RQIAhiq, {"patch": 4}),
    "ahiq 16": (RQIAhiq, {"patch": 16}),
    "maniqa": (PlainManiqa, {}),
    "maniqa 6x8": (PlainManiqa, {"side": 64, "width": 32, "depth": 6, "heads": 4, "taps": (1, 3, 4)}),
    "topiq": (PlainTopiq, {}),
    "topiq bottleneck": (PlainTopiq, BOTTLENECK),
}
every = pytest.mark.parametrize("kind", KINDS)
one_of_each = pytest.mark.parametrize("kind", ["pban sample", "ahiq 8", "maniqa", "topiq"])


def build(kind, dtype=torch.float64, **config):
    """A tiny critic whose batch norms, offsets and biases are not those of a fresh network."""
    torch.manual_seed(0)
    cls, options = KINDS[kind]
    critic = cls(**{**cls.tiny().config, **options, **config}).to(dtype).eval().requires_grad_(False)
    g = torch.Generator().manual_seed(1)
    for part in critic.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=g)
            part.running_var.uniform_(0.5, 1.5, generator=g)
    for parameter in critic.parameters():
        parameter.add_(0.03 * torch.randn(parameter.shape, generator=g, dtype=dtype))
    return critic


def reference(critic):
    """The same critic with the operators as published."""
    other = copy.deepcopy(critic)
    other.kernels = "reference"
    return other


def images(critic, n=2, sides=(72, 85), dtype=torch.float64, seed=0):
    side = critic.input_size.fixed
    return make_pair(n, *((side, side) if side else sides), dtype=dtype, seed=seed)


@every
def test_scores_and_gradients_are_those_of_the_reference(kind):
    critic = build(kind)
    form = critic.inference_form()
    assert form is not critic and form.inference_form() is form
    sr, hr = images(critic)
    expected = score_and_gradient(reference(critic), sr, hr)
    assert_equal(score_and_gradient(critic, sr, hr), expected)
    assert_equal(score_and_gradient(form, sr, hr), expected)
    assert_equal(score_and_gradient(form, sr, hr, form.encode_target(hr)), expected)


@every
def test_identical_images_give_the_same_finite_gradient(kind):
    critic = build(kind)
    _, hr = images(critic)
    expected, result = score_and_gradient(critic, hr, hr), score_and_gradient(critic.inference_form(), hr, hr)
    for one, two in zip(result, expected, strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ["pban sample", "topiq"])
@pytest.mark.parametrize("sides", [(32, 33), (49, 200)])
def test_odd_sizes(kind, sides):
    critic = build(kind)
    sr, hr = images(critic, sides=sides)
    assert_equal(score_and_gradient(critic.inference_form(), sr, hr), score_and_gradient(reference(critic), sr, hr))


def test_the_smallest_size():
    critic = build("pban sample")
    sr, hr = images(critic, sides=(17, 17))
    assert_equal(score_and_gradient(critic.inference_form(), sr, hr), score_and_gradient(reference(critic), sr, hr))


@pytest.mark.parametrize("kind", ["pban sample", "ahiq 8"])
def test_torchvisions_operator_can_be_chosen_in_the_form(kind, monkeypatch):
    critic = build(kind)
    form = critic.inference_form()
    sr, hr = images(critic)
    expected = score_and_gradient(form, sr, hr)
    form.kernels = "reference"
    monkeypatch.setattr(deformable, "mixed_deformable", None)
    assert_equal(score_and_gradient(form, sr, hr), expected)
    form.kernels = "fastest"
    with pytest.raises(InputError, match="fastest"):
        form.score(sr, hr)


@one_of_each
def test_the_original_stays_as_it_was(kind):
    critic = build(kind, torch.float32)
    critic.requires_grad_(True)
    before = {name: (value.clone(), value._version) for name, value in critic.state_dict().items()}
    form = critic.inference_form()
    sr, hr = images(critic, dtype=torch.float32)
    form.score(sr, hr)
    # The form's tensors can be moved and cast without the original's.
    assert form.double().score(sr.double(), hr.double()).dtype == torch.float64
    after = critic.state_dict()
    assert list(before) == list(after)
    for name, value in after.items():
        assert torch.equal(value, before[name][0]) and value._version == before[name][1]
    assert {p.dtype for p in critic.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in critic.parameters())


@one_of_each
def test_the_form_is_a_frozen_critic(kind):
    critic = build(kind, torch.float32)
    critic.autocast_dtype = torch.bfloat16
    form = critic.inference_form()
    assert (form.card, form.input_size, form.config) == (critic.card, critic.input_size, critic.config)
    assert form.autocast_dtype == torch.bfloat16 and form.kernels == "auto"
    form.autocast_dtype = None
    assert not form.training and not any(p.requires_grad for p in form.parameters())
    assert {p.dtype for p in form.parameters()} == {torch.float32}
    sr, hr = images(critic, 3, dtype=torch.float32)
    expected = form.score(sr, hr)
    torch.testing.assert_close(torch.cat([form.score(sr[i : i + 1], hr[i : i + 1]) for i in range(3)]), expected)
    target = form.encode_target(hr)
    assert all(len(t) == 3 and not t.requires_grad for t in target)
    torch.testing.assert_close(form.encode_target(hr[1:2]), tuple(t[1:2] for t in target))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(form.score(sr, hr), expected)
    torch.testing.assert_close(copy.deepcopy(form).score(sr, hr), expected, rtol=0, atol=0)
    with pytest.raises(InputError, match="got 9x9, takes"):
        form.score(sr[..., :9, :9], hr[..., :9, :9])


@pytest.mark.parametrize("kind", ["pban sample", "ahiq 8"])
def test_the_mode_of_the_form_does_not_matter(kind):
    form = build(kind).inference_form()
    sr, hr = images(form)
    assert torch.equal(form.score(sr, hr), form.train().score(sr, hr))


def test_the_card_of_a_subclass_is_kept():
    class Other(RQITopiq):
        card = dataclasses.replace(RQITopiq.card, name="other")

    assert Other.tiny().inference_form().card.name == "other"


@one_of_each
def test_bf16_gives_float32_gradients_near_the_exact_ones(kind):
    critic = build(kind, torch.float32)
    sr, hr = images(critic, dtype=torch.float32)
    score, gradient = score_and_gradient(critic.inference_form(), sr, hr)
    form = critic.inference_form()
    form.autocast_dtype = torch.bfloat16
    rough, rough_gradient = score_and_gradient(form, sr, hr)
    assert rough.dtype == rough_gradient.dtype == torch.float32
    assert not torch.equal(rough, score)
    assert (rough - score).abs().max() < 0.05
    assert F.cosine_similarity(rough_gradient.flatten(), gradient.flatten(), dim=0) > 0.85


def test_unused_parts_are_absent():
    forms = {kind: build(kind).inference_form() for kind in ("pban sample", "ahiq 8", "maniqa 6x8", "topiq")}
    names = {kind: [name for name, _ in form.named_parameters()] for kind, form in forms.items()}
    assert not [n for n in names["pban sample"] if "after_block3" in n or "SE.subchannel." in n]
    assert not [n for n in names["ahiq 8"] if n.startswith(RQIAhiq.unused)]
    assert [n for n in names["ahiq 8"] if n.startswith("vit.blocks.4.")]
    assert len(forms["maniqa 6x8"].vit.blocks) == 5
    assert not [n for n in names["maniqa 6x8"] if n.startswith(("vit.norm.", "vit.head.", "conv0_x2."))]
    assert not [n for n in names["maniqa 6x8"] if "downsample" in n]
    assert not [n for n in names["topiq"] if n.startswith("attn_blks.") and n.split(".")[3] == "self_attn"]
    assert [n for n in names["topiq"] if n.startswith("sa_attn_blks.0.layers.0.self_attn")]
    # Every parameter that is left in Efficient-PBAN's block reaches the score.
    form = forms["pban sample"].requires_grad_(True)
    form.score(*images(form)).sum().backward()
    assert all(p.grad is not None for p in form.block2.rest.parameters())


def test_unchanged_tensors_are_shared():
    critic = build("maniqa")
    form = critic.inference_form()
    assert form.vit.blocks[0].attn.qkv.weight.data_ptr() == critic.vit.blocks[0].attn.qkv.weight.data_ptr()


@one_of_each
def test_equal_with_every_possible_convolution_replaced(kind, monkeypatch):
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 1)
    critic = build(kind)
    form = critic.inference_form()
    assert any(isinstance(part, WinogradConv) for part in form.modules())
    assert not any(isinstance(part, WinogradConv) for part in critic.modules())
    sr, hr = images(critic)
    assert_equal(score_and_gradient(form, sr, hr), score_and_gradient(reference(critic), sr, hr))


PBAN_MEDIUM = {"widths": (32, 64, 128), "depths": (2, 2, 2)}
PBAN_FULL = {"widths": (64, 128, 256), "depths": (3, 4, 6)}
AHIQ_MEDIUM = {"side": 64, "width": 64, "stem": 16, "deform_channels": 64, "channels": 32}


@pytest.mark.parametrize(
    ("kind", "config", "side", "limit"),
    [
        pytest.param("pban sample", {}, 64, 0.83, id="pban tiny"),
        pytest.param("pban sample", PBAN_MEDIUM, 128, 0.67, id="pban medium"),
        pytest.param("pban sample", PBAN_FULL, 64, 0.62, id="pban full"),
        pytest.param("ahiq 8", {}, 32, 0.6, id="ahiq tiny"),
        pytest.param("ahiq 8", AHIQ_MEDIUM, 64, 0.55, id="ahiq medium"),
        pytest.param("maniqa 6x8", {}, 64, 0.95, id="maniqa"),
        pytest.param("topiq", {}, 128, 0.6, id="topiq tiny"),
        pytest.param("topiq bottleneck", {}, 128, 0.6, id="topiq bottleneck"),
    ],
)
def test_less_is_kept_for_the_gradient(kind, config, side, limit):
    critic = build(kind, torch.float32, **config)
    sr, hr = images(critic, 1, (side, side), torch.float32)
    form, plain = critic.inference_form(), reference(critic)
    given, target = sr.clone().requires_grad_(), form.encode_target(hr)
    kept = saved_bytes(lambda: form.score(given, hr), [form])
    assert kept < limit * saved_bytes(lambda: plain.score(given, hr), [plain])
    assert saved_bytes(lambda: form.score(given, hr, target_features=target), [form]) <= kept
