"""The prepared forms of RQI/MANIQA and RQI/TOPIQ: the same numbers, less kept for the gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from pairs import make_pair
from torch import nn

from sr_perceptual_loss import InputError
from sr_perceptual_loss.critics.base import normalise
from sr_perceptual_loss.critics.rqi_maniqa.network import HALF, RQIManiqa
from sr_perceptual_loss.critics.rqi_topiq.network import DISTANCE_EPS, LEVELS, RQITopiq
from sr_perceptual_loss.ops.channel_attention import channel_attention, merged_maps
from sr_perceptual_loss.ops.gated_pool import feature_distance, gated_pool


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

    def _level_tokens(self, level, judged, reference, position, grid):
        distance = ((judged - reference).square() + DISTANCE_EPS).sqrt()
        maps = torch.cat([judged, reference, distance], dim=1) * self.weight_pool[level](distance)
        if level < LEVELS - 1:
            maps = F.adaptive_avg_pool2d(maps, grid)
        return self.sa_attn_blks[level](rearrange(self.dim_reduce[level](maps) + position, "n c h w -> (h w) n c"))


TOPIQ_BOTTLENECK = {"layers": (2, 1, 1, 1), "widths": (8, 8, 8, 8), "dim": 16, "heads": 2, "feedforward": 32, "gate": 4}
MAKE = {
    "maniqa": lambda: PlainManiqa.tiny(),
    "maniqa 6x8": lambda: PlainManiqa(side=64, patch=8, width=32, depth=6, heads=4, taps=(1, 3, 4)),
    "topiq": lambda: PlainTopiq.tiny(),
    "topiq bottleneck": lambda: PlainTopiq(**TOPIQ_BOTTLENECK),
}
every = pytest.mark.parametrize("kind", MAKE)


def plain(kind, dtype=torch.float64):
    torch.manual_seed(0)
    critic = MAKE[kind]().to(dtype).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for module in critic.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.bias.normal_(0, 0.2, generator=generator)
    for parameter in critic.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(dtype))
    return critic


def images(critic, n=2, height=72, width=85, dtype=torch.float64, seed=0):
    side = critic.input_size.fixed
    return make_pair(n, side or height, side or width, dtype=dtype, seed=seed)


def score_and_gradient(critic, sr, hr, **options):
    x = sr.clone().requires_grad_()
    score = critic.score(x, hr, **options)
    return score.detach(), torch.autograd.grad(score.sum(), x)[0]


def saved_bytes(critic, sr, hr, **options):
    """Bytes of the distinct storages that autograd keeps, without parameters, buffers and the images."""
    x = sr.clone().requires_grad_()
    outside = {t.untyped_storage().data_ptr() for t in (x, hr, *critic.parameters(), *critic.buffers())}
    storages, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in outside:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        score = critic.score(x, hr, **options)
    assert score.requires_grad
    return sum(storages.values())


@every
def test_equal_to_the_plain_formulation_in_float64(kind):
    critic = plain(kind)
    form = critic.inference_form()
    for sizes in ((2, 72, 85), (1, 64, 96)):
        sr, hr = images(critic, *sizes)
        score, gradient = score_and_gradient(critic, sr, hr)
        found, found_gradient = score_and_gradient(form, sr, hr)
        assert gradient.norm() > 1e-6
        assert (found - score).abs().max() <= 1e-12
        assert (found_gradient - gradient).norm() <= 1e-11 * gradient.norm()
        with_target = score_and_gradient(form, sr, hr, target_features=form.encode_target(hr))
        assert torch.equal(with_target[0], found) and torch.equal(with_target[1], found_gradient)


@every
def test_identical_images_give_the_same_finite_gradient(kind):
    critic = plain(kind)
    _, hr = images(critic)
    for score, found in zip(
        score_and_gradient(critic, hr, hr), score_and_gradient(critic.inference_form(), hr, hr), strict=True
    ):
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, score, rtol=1e-8, atol=1e-10)


@every
def test_the_form_keeps_the_contract(kind):
    critic = plain(kind, torch.float32)
    before = {name: (value.clone(), value._version) for name, value in critic.state_dict().items()}
    form = critic.inference_form()
    assert form is not critic and form.inference_form() is form
    assert form.card is critic.card and form.input_size == critic.input_size and not form.training
    assert not any(p.requires_grad for p in form.parameters())
    sr, hr = images(critic, 3, dtype=torch.float32)
    together = form.score(sr, hr)
    torch.testing.assert_close(torch.cat([form.score(sr[i : i + 1], hr[i : i + 1]) for i in range(3)]), together)
    torch.testing.assert_close(together, critic.score(sr, hr))
    target = form.encode_target(hr)
    assert all(len(t) == 3 and not t.requires_grad for t in target)
    torch.testing.assert_close(form.encode_target(hr[1:2]), tuple(t[1:2] for t in target))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(form.score(sr, hr), together)
    with pytest.raises(InputError, match="takes"):
        form.score(sr[..., :9, :9], hr[..., :9, :9])
    # Its tensors can be moved and cast without the master's.
    assert form.double().score(sr.double(), hr.double()).dtype == torch.float64
    assert {p.dtype for p in critic.parameters()} == {torch.float32}
    for name, value in critic.state_dict().items():
        assert torch.equal(value, before[name][0]) and value._version == before[name][1]


@every
def test_manual_override(kind):
    critic = plain(kind)
    critic.kernels = "reference"
    assert critic.inference_form() is critic


@every
def test_bf16_gives_float32_gradients_near_the_exact_ones(kind):
    critic = plain(kind, torch.float32)
    sr, hr = images(critic, dtype=torch.float32)
    score, gradient = score_and_gradient(critic.inference_form(), sr, hr)
    form = critic.inference_form()
    form.autocast_dtype = torch.bfloat16
    found, found_gradient = score_and_gradient(form, sr, hr)
    assert found.dtype == found_gradient.dtype == torch.float32
    assert not torch.equal(found, score)
    assert (found - score).abs().max() < 0.05
    assert F.cosine_similarity(found_gradient.flatten(), gradient.flatten(), dim=0) > 0.9


@pytest.mark.parametrize(("kind", "limit"), [("maniqa 6x8", 0.95), ("topiq", 0.6), ("topiq bottleneck", 0.6)])
def test_less_is_kept_for_the_gradient(kind, limit):
    critic = plain(kind, torch.float32)
    form = critic.inference_form()
    sr, hr = images(critic, 1, 128, 128, dtype=torch.float32)
    reference = saved_bytes(critic, sr, hr)
    assert saved_bytes(form, sr, hr) <= limit * reference
    # What is handed in is not the form's own; nothing else changes.
    assert saved_bytes(form, sr, hr, target_features=form.encode_target(hr)) <= limit * reference


def test_dead_parts_are_absent():
    form = plain("maniqa 6x8").inference_form()
    assert len(form.vit.blocks) == 5
    names = {name for name, _ in form.named_parameters()}
    assert not any(name.startswith(("vit.norm.", "vit.head.", "conv0_x2.")) or "downsample" in name for name in names)
    names = {name for name, _ in plain("topiq").inference_form().named_parameters()}
    assert names and not any(name.startswith("attn_blks.") and name.split(".")[3] == "self_attn" for name in names)
    assert any(name.startswith("sa_attn_blks.0.layers.0.self_attn") for name in names)


def test_forms_share_unchanged_memory():
    critic = plain("maniqa")
    form = critic.inference_form()
    assert form.vit.blocks[0].attn.qkv.weight.data_ptr() == critic.vit.blocks[0].attn.qkv.weight.data_ptr()


def random(*shape, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def test_channel_attention_and_its_gradient():
    x, scale = random(2, 6, 4), 0.7
    maps = [nn.Linear(4, 4, dtype=torch.float64).requires_grad_(False) for _ in range(3)]
    for seed, linear in enumerate(maps):
        linear.weight.copy_(random(4, 4, seed=1 + seed, grad=False))
        linear.bias.copy_(random(4, seed=4 + seed, grad=False))
    weight, bias = merged_maps(*maps, scale)

    def written_out(x):
        q, k, v = (linear(x) for linear in maps)
        return torch.softmax(scale * q @ k.mT, dim=-1) @ v

    torch.testing.assert_close(channel_attention(x, weight, bias), written_out(x), rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(lambda x: channel_attention(x, weight, bias), (x,))
    upstream = random(2, 6, 4, seed=3, grad=False)
    (whole,) = torch.autograd.grad(channel_attention(x, weight, bias), x, upstream)
    (some,) = torch.autograd.grad(channel_attention(x, weight, bias, ((0, 2), (4, 6))), x, upstream)
    torch.testing.assert_close(some[:, [0, 1, 4, 5]], whole[:, [0, 1, 4, 5]], rtol=0, atol=1e-14)
    assert whole[:, 2:4].abs().min() > 0 and not some[:, 2:4].any()


@pytest.mark.parametrize(("size", "grid"), [((8, 8), (2, 2)), ((7, 5), (3, 2)), ((4, 3), (4, 3)), ((5, 9), (1, 4))])
def test_gated_pool_is_adaptive_pooling_of_gated_maps(size, grid):
    judged, reference, distance = (random(2, *size, 3, seed=seed, grad=seed != 1) for seed in range(3))
    gate = random(2, *size, seed=3)

    def written_out(judged, distance, gate):
        maps = torch.cat([judged, reference, distance], dim=3) * gate[..., None]
        return F.adaptive_avg_pool2d(maps.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)

    inputs = (judged, distance, gate)
    expected, found = written_out(*inputs), gated_pool(judged, reference, distance, gate, grid)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    upstream = random(*expected.shape, seed=4, grad=False)
    for a, b in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_feature_distance_and_its_gradient():
    judged, reference = random(2, 3, 4), random(2, 3, 4, seed=1, grad=False)
    expected = ((judged - reference).square() + 1e-3).sqrt()
    found = feature_distance(judged, reference, 1e-3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    for a, b in zip(torch.autograd.grad(found.sum(), judged), torch.autograd.grad(expected.sum(), judged), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-15)
    same = judged.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(feature_distance(same, judged.detach(), 1e-12).sum(), same)
    assert not gradient.any()
