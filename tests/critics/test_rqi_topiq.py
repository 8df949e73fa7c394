"""What is special about RQI/TOPIQ."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_perceptual_loss.critics.rqi_topiq.inference import feature_distance, gated_pool
from sr_perceptual_loss.critics.rqi_topiq.network import CrossLayer, PyramidResNet, RQITopiq
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.weights.convert import convert

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(1, 3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(1, 3, 1, 1)


@pytest.fixture
def critic():
    torch.manual_seed(0)
    critic = RQITopiq.tiny().eval().double()
    # Statistics and tables that cannot be mistaken for no-ops.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in critic.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name in ("h_emb", "w_emb"):
                value.normal_(0, 0.5, generator=generator)
    return critic


def images(n=2, height=64, width=96, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(n, 3, height, width, generator=generator, dtype=torch.float64) for _ in range(2))


def attend(attention, query, key):
    """Multi-head attention written out, tokens (T, N, C)."""
    heads, dim = attention.num_heads, attention.embed_dim
    q_weight, k_weight, v_weight = attention.in_proj_weight.split(dim)
    q_bias, k_bias, v_bias = attention.in_proj_bias.split(dim)

    def split(x):
        return x.unflatten(2, (heads, dim // heads)).permute(1, 2, 0, 3)

    q = split(query @ q_weight.T + q_bias)
    k = split(key @ k_weight.T + k_bias)
    v = split(key @ v_weight.T + v_bias)
    out = (q @ k.mT / (dim // heads) ** 0.5).softmax(-1) @ v
    return attention.out_proj(out.permute(2, 0, 1, 3).flatten(2))


def feed_forward(layer, norm, z):
    return layer.linear2(F.gelu(layer.linear1(norm(z))))


def by_hand(critic, sr, hr):
    """The published network from its description, literally: concatenate, gate, pool, embed, attend."""
    th, tw = sr[4].shape[2:]
    tables = torch.cat([critic.h_emb.repeat(1, 1, 1, 32), critic.w_emb.repeat(1, 1, 32, 1)], dim=1)
    position = F.interpolate(tables, (th, tw), mode="bicubic", align_corners=False)
    tokens = {}
    for i in (4, 3, 2, 1, 0):
        x, y = sr[i], hr[i]
        d = torch.sqrt((x - y) ** 2 + 1e-12)
        t = torch.cat([x, y, d], dim=1) * critic.weight_pool[i](d)
        if t.shape[2] > th and t.shape[3] > tw:
            t = F.adaptive_avg_pool2d(t, (th, tw))
        z = (critic.dim_reduce[i](t) + position).flatten(2).permute(2, 0, 1)
        layer = critic.sa_attn_blks[i].layers[0]
        u = layer.norm1(z)
        z = z + attend(layer.self_attn, u, u)
        tokens[i] = z + feed_forward(layer, layer.norm2, z)
    z = tokens[4]
    for i in range(4):
        layer = critic.attn_blks[i].layers[0]
        z = z + attend(layer.multihead_attn, layer.norm1(z), layer.norm2(tokens[3 - i]))
        z = z + feed_forward(layer, layer.norm3, z)
    u = critic.attn_pool.norm1(z)
    z = z + attend(critic.attn_pool.self_attn, u, u)
    z = z + feed_forward(critic.attn_pool, critic.attn_pool.norm2, z)
    return critic.score_linear(z.mean(0))[:, 0]


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (33, 95), (130, 61)], ids=str)
def test_score_is_the_one_of_the_description(critic, size):
    sr, hr = images(2, *size)
    expected = by_hand(critic, critic.features(sr), critic.features(hr))
    torch.testing.assert_close(critic.score(sr, hr), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(32, 32), (33, 95)], ids=str)
def test_levels_are_halved_and_rounded_up(critic, size):
    levels = critic.features(images(1, *size)[0])
    halves = [[-(-side // 2 ** (i + 1)) for side in size] for i in range(5)]
    assert [list(level.shape[2:]) for level in levels] == halves
    assert [level.shape[1] for level in levels] == [4, 4, 8, 8, 16]


def test_levels_are_timm_s_own_features_of_the_normalised_image(critic):
    """Level 0 is the stem after its ReLU, the last one what timm's forward_features gives."""
    (image, _) = images()
    x = (image - IMAGENET_MEAN) / IMAGENET_STD
    backbone = critic.semantic_model
    levels = critic.features(image)
    torch.testing.assert_close(levels[4], backbone.forward_features(x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(levels[0], backbone.bn1(backbone.conv1(x)).relu(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(levels[1], backbone.layer1(backbone.maxpool(levels[0])), rtol=1e-10, atol=1e-12)


def test_parameter_counts():
    with torch.device("meta"):
        critic = RQITopiq()
    counts = {name: parameter.numel() for name, parameter in critic.named_parameters()}
    assert sum(counts.values()) == 36_038_662
    assert sum(n for name, n in counts.items() if name.startswith(critic.published_frozen)) == 53_120
    assert sum(n for name, n in counts.items() if name.startswith(critic.unused)) == 1_052_672
    state = critic.state_dict()
    assert len(state) == 514
    assert sum(name.startswith("semantic_model.") for name in state) == 318
    assert sum(name.startswith(critic.unused) for name in state) == 16


def test_published_frozen_names_all_batch_norms_and_nothing_else(critic):
    expected = {
        f"{name}.{kind}"
        for name, module in critic.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }
    assert len(expected) == 2 * (3 + 4 * 2 + 3)  # deep stem, two per block, a shortcut in layers 2 to 4
    assert {name for name, _ in critic.named_parameters() if name.startswith(critic.published_frozen)} == expected


def test_exactly_the_unused_parameters_get_no_gradient(critic):
    critic.score(*images()).sum().backward()
    without = {name for name, parameter in critic.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in critic.named_parameters() if name.startswith(RQITopiq.unused)}
    assert len(without) == 16


def test_train_mode_neither_uses_nor_moves_batch_statistics():
    torch.manual_seed(0)
    critic = RQITopiq.tiny().double()
    # As constructed: no call of train() yet.
    assert critic.training
    assert critic.score_linear.training
    assert not any(m.training for m in critic.semantic_model.modules())
    before = {key: value.clone() for key, value in critic.state_dict().items() if "running" in key or "tracked" in key}
    sr, hr = images()
    fresh = critic.features(sr)
    nn.Sequential(critic).train()
    assert critic.training
    again = critic.features(sr)
    critic.eval()
    for a, b, c in zip(fresh, again, critic.features(sr), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    critic.train().score(sr, hr).sum().backward()
    after = critic.state_dict()
    assert len(before) == 3 * 14
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_dropout_acts_in_train_mode_only(critic):
    sr, hr = images()
    assert torch.equal(critic.score(sr, hr), critic.score(sr, hr))
    critic.train()
    torch.manual_seed(0)
    assert not torch.equal(critic.score(sr, hr), critic.score(sr, hr))
    still = RQITopiq(**{**critic.config, "dropout": 0.0}).double()
    still.load_state_dict(critic.state_dict())
    torch.testing.assert_close(still.train().score(sr, hr), critic.eval().score(sr, hr), rtol=1e-12, atol=1e-12)


def test_cross_layer_reads_the_memory_through_its_own_norm():
    torch.manual_seed(0)
    layer = CrossLayer(8, 2, 16, 0.1).double().eval()
    nn.init.normal_(layer.norm2.weight)
    z, memory = torch.randn(5, 2, 8, dtype=torch.float64), torch.randn(7, 2, 8, dtype=torch.float64)
    expected = z + attend(layer.multihead_attn, layer.norm1(z), layer.norm2(memory))
    expected = expected + feed_forward(layer, layer.norm3, expected)
    torch.testing.assert_close(layer(z, memory), expected, rtol=1e-12, atol=1e-12)


def test_rows_and_columns_have_their_own_half_of_the_position(critic):
    position = critic._position(4, 6)
    assert position.shape == (1, 16, 4, 6)
    assert torch.equal(position[:, :8], position[:, :8, :, :1].expand(-1, -1, -1, 6))
    assert torch.equal(position[:, 8:], position[:, 8:, :1].expand(-1, -1, 4, -1))
    # At its own size the table is not resampled.
    table = critic._position(32, 32)
    torch.testing.assert_close(table[0, :8, :, 5], critic.h_emb[0, :, :, 0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(table[0, 8:, 5, :], critic.w_emb[0, :, 0, :], rtol=1e-12, atol=1e-12)


def test_scores_do_not_depend_on_batch_mates_also_in_train_mode(critic):
    sr, hr = images(3)
    critic = RQITopiq(**{**critic.config, "dropout": 0.0}).double().train()
    together = critic.score(sr, hr)
    alone = torch.cat([critic.score(sr[i : i + 1], hr[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)
    assert torch.equal(critic.score(sr, hr, target_features=critic.encode_target(hr)), together)


def test_swapping_the_images_changes_the_score(critic):
    sr, hr = images()
    forth, back = critic.score(sr, hr), critic.score(hr, sr)
    assert ((forth - back).abs() > 1e-6).all()
    # Antisymmetry is learned, not built in.
    assert ((forth + back).abs() > 1e-6).all()


def test_score_is_not_bounded_and_may_have_either_sign(critic):
    sr, hr = images()
    with torch.no_grad():
        critic.score_linear[6].weight.zero_()
        for bias in (-30.0, 30.0):
            critic.score_linear[6].bias.fill_(bias)
            assert critic.score(sr, hr).tolist() == [bias, bias]


def test_gradient_at_equal_images_is_finite_and_not_zero(critic):
    _, hr = images()
    sr = hr.clone().requires_grad_()
    critic.requires_grad_(False).score(sr, hr).sum().backward()
    assert torch.isfinite(sr.grad).all()
    assert sr.grad.abs().max() > 0


def test_bfloat16_inside_stays_near(critic):
    sr, hr = (image.float() for image in images())
    critic = critic.float()
    exact = critic.score(sr, hr)
    critic.autocast_dtype = torch.bfloat16
    rough = critic.score(sr, hr)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.05


def test_random_start_keeps_the_size_of_activations():
    """Batch norms measure nothing here, so a deep backbone must not blow up or die by itself."""
    torch.manual_seed(0)
    backbone = PyramidResNet("bottleneck", (3, 4, 6, 3), (16, 16, 16, 16), "deep", 16).eval()
    with torch.no_grad():
        spread = [level.std().item() for level in backbone(torch.randn(1, 3, 64, 64))]
    assert all(0.2 < s < 20 for s in spread)


def test_start_values_of_attention_are_the_published_ones():
    torch.manual_seed(0)
    critic = RQITopiq(**{**RQITopiq.tiny().config, "dim": 64, "feedforward": 128})
    layers = [critic.sa_attn_blks[0].layers[0], critic.attn_blks[0].layers[0], critic.attn_pool]
    linears = [m for layer in layers for m in layer.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 3 + 4 + 3
    for linear in linears:
        assert not linear.bias.any()
        assert linear.weight.std().item() == pytest.approx((2 / linear.in_features) ** 0.5, rel=0.1)
    assert critic.score_linear[1].bias.any()
    assert critic.attn_pool.self_attn.in_proj_weight.abs().max() <= (6 / (64 + 3 * 64)) ** 0.5
    assert critic.h_emb.std().item() == pytest.approx(0.02, rel=0.2)
    assert critic.w_emb.std().item() == pytest.approx(0.02, rel=0.2)


def test_sizes(critic):
    with pytest.raises(InputError, match="rqi_topiq: got 31x64, takes sides >= 32"):
        critic.score(*images(1, 31, 64))
    assert critic.score(*images(1, 32, 41)).shape == (1,)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"block": "resnext"}, "block: got 'resnext'"),
        ({"layers": (3, 4, 6)}, "layers: got"),
        ({"widths": 64}, "widths: got 64, expected four"),
        ({"layers": (3, 4, 0, 3)}, "layers: got 0"),
        ({"stem": "wide"}, "stem: got 'wide'"),
        ({"stem_width": 32}, "stem_width: got 32, expected 64 for stem='plain'"),
        ({"stem": "deep", "stem_width": 7}, "stem_width: got 7, expected an even number"),
        ({"dim": 250}, "dim: got 250"),
        ({"dim": 9, "heads": 3}, "dim: got 9"),
        ({"dropout": 2}, "dropout: got 2"),
    ],
)
def test_wrong_arguments(config, words):
    with pytest.raises(InputError, match=words):
        RQITopiq(**config)


def test_config_survives_json_and_texts(critic):
    again = RQITopiq(**json.loads(json.dumps(critic.config)))
    assert again.config == critic.config
    assert again.config["layers"] == (1, 1, 1, 1)
    again.load_state_dict(critic.state_dict(), strict=True)
    texts = RQITopiq(**{key: str(value) if isinstance(value, int) else value for key, value in critic.config.items()})
    assert texts.config == critic.config


def test_published_checkpoint_is_a_start(critic, tmp_path):
    """The published TOPIQ-FR files hold the state dict under `params`, in this layout."""
    torch.save({"params": critic.state_dict()}, tmp_path / "cfanet.pth")
    torch.manual_seed(5)
    other = RQITopiq.tiny().eval().double()
    report = convert(tmp_path / "cfanet.pth", other, tmp_path / "start.safetensors")
    assert (report.wrapper, report.entries, report.dropped) == ("params", len(critic.state_dict()), ())
    sr, hr = images()
    assert torch.equal(other.score(sr, hr), critic.score(sr, hr))


def test_card_says_that_there_are_no_weights():
    card = RQITopiq.card
    assert (card.name, card.relative, card.symmetric, card.needs_weights) == ("rqi_topiq", True, False, True)
    assert not card.weights
    assert "No weights trained under the RQI scheme are published" in card.notes[0]
    assert card.input_size.accepts(32, 500)
    assert not card.input_size.accepts(500, 31)


def random(*shape, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


@pytest.mark.parametrize(("size", "grid"), [((8, 8), (2, 2)), ((7, 5), (3, 2)), ((4, 3), (4, 3)), ((5, 9), (1, 4))])
def test_gated_pool_is_adaptive_pooling_of_gated_maps(size, grid):
    sr, hr, distance = (random(2, *size, 3, seed=seed, grad=seed != 1) for seed in range(3))
    gate = random(2, *size, seed=3)

    def plain(sr, distance, gate):
        maps = torch.cat([sr, hr, distance], dim=3) * gate[..., None]
        return F.adaptive_avg_pool2d(maps.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)

    inputs = (sr, distance, gate)
    expected, result = plain(*inputs), gated_pool(sr, hr, distance, gate, grid)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-14)
    upstream = random(*expected.shape, seed=4, grad=False)
    for a, b in zip(
        torch.autograd.grad(result, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_feature_distance_and_its_gradient():
    sr, hr = random(2, 3, 4), random(2, 3, 4, seed=1, grad=False)
    expected = ((sr - hr).square() + 1e-3).sqrt()
    result = feature_distance(sr, hr, 1e-3)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-15)
    for a, b in zip(torch.autograd.grad(result.sum(), sr), torch.autograd.grad(expected.sum(), sr), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-15)
    same = sr.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(feature_distance(same, sr.detach(), 1e-12).sum(), same)
    assert not gradient.any()
