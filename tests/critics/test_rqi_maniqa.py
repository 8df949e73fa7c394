"""What is special about RQI/MANIQA."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from sr_perceptual_loss.critics.rqi_maniqa.inference import channel_attention, merged_maps
from sr_perceptual_loss.critics.rqi_maniqa.network import (
    RQIManiqa,
    SwinBlock,
    SwinStage,
    TABlock,
    relative_position_index,
    shifted_window_mask,
)
from sr_perceptual_loss.errors import InputError, WeightsError


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return RQIManiqa.tiny().eval().double()


def images(n=2, side=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(n, 3, side, side, generator=generator, dtype=torch.float64) for _ in range(2))


def test_parameter_counts():
    with torch.device("meta"):
        critic = RQIManiqa()
    counts = {name: parameter.numel() for name, parameter in critic.named_parameters()}
    assert sum(counts.values()) == 145_187_786
    assert sum(n for name, n in counts.items() if name.startswith(RQIManiqa.unused)) == 23_943_016
    state = critic.state_dict()
    assert len(state) == 322
    assert sum(value.numel() for value in state.values()) == 145_240_010


def test_exactly_the_unused_parameters_get_no_gradient(critic):
    critic.score(*images()).sum().backward()
    without = {name for name, parameter in critic.named_parameters() if parameter.grad is None}
    # tiny() taps blocks 0 to 3 of 5.
    unused = (*RQIManiqa.unused, "vit.blocks.4.")
    assert without == {name for name, _ in critic.named_parameters() if name.startswith(unused)}


def test_relative_position_index():
    index = relative_position_index()
    assert index.dtype == torch.int64
    assert index.shape == (16, 16)
    for i in range(16):
        for j in range(16):
            assert index[i, j] == (i // 4 - j // 4 + 3) * 7 + (i % 4 - j % 4 + 3)
    assert (index[0, 0], index[0, 15], index[15, 0]) == (24, 0, 48)


def label(position, grid):
    return 0 if position < grid - 4 else 1 if position < grid - 2 else 2


@pytest.mark.parametrize("grid", [4, 8, 28])
def test_shifted_window_mask(grid):
    mask = shifted_window_mask(grid)
    across = grid // 4
    assert mask.shape == (across**2, 16, 16)
    for w in {0, across - 1, across * (across - 1), across**2 - 1}:
        labels = [
            (label(w // across * 4 + token // 4, grid), label(w % across * 4 + token % 4, grid)) for token in range(16)
        ]
        expected = torch.tensor([[0.0 if a == b else -100.0 for b in labels] for a in labels])
        assert torch.equal(mask[w], expected)
    if grid == 28:
        assert mask.sum() == -172_800
        assert not mask[:6].any()


def test_transposed_attention_scrambles_its_result_as_released():
    torch.manual_seed(0)
    channels, positions = 6, 10
    block = TABlock(positions, 0.1).double().eval()
    x = torch.randn(2, channels, positions, dtype=torch.float64)
    attention = (block.c_q(x) @ block.c_k(x).mT / positions**0.5).softmax(-1)
    assert attention.shape == (2, channels, channels)
    out = attention @ block.c_v(x)
    expected = x.clone()
    for c in range(channels):
        for n in range(positions):
            flat = c * positions + n
            expected[:, c, n] += out[:, flat % channels, flat // channels]
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)


def influence(block, grid, row, column):
    """Which tokens reach the output token at (row, column) through window attention."""
    x = torch.randn(1, grid * grid, 8, dtype=torch.float64, requires_grad=True)
    block(x)[0, row * grid + column].sum().backward()
    return (x.grad[0].abs().amax(-1) > 1e-30).view(grid, grid)


@pytest.mark.parametrize(
    ("shift", "row", "column", "rows", "columns"),
    [
        (0, 1, 5, slice(0, 4), slice(4, 8)),
        # Shifted windows start at 2 and wrap; the mask keeps the two borders apart.
        (2, 3, 4, slice(2, 6), slice(2, 6)),
        (2, 0, 4, slice(0, 2), slice(2, 6)),
        (2, 7, 0, slice(6, 8), slice(0, 2)),
    ],
)
def test_windows_see_themselves_only(shift, row, column, rows, columns):
    torch.manual_seed(0)
    block = SwinBlock(dim=8, hidden=16, grid=8, shift=shift, drop_path=0.0).double().eval()
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[rows, columns] = True
    assert torch.equal(influence(block, 8, row, column), expected)


def test_drop_path_rates_grow_and_mask_belongs_to_shifted_blocks_only():
    stage = SwinStage(dim=8, hidden=16, grid=8, scale=0.8, dropout=0.1, drop_path=0.1)
    blocks = [block for layer in stage.layers for block in layer.blocks]
    assert [block.drop_path.drop_prob for block in blocks] == pytest.approx([0, 1 / 30, 2 / 30, 0.1])
    assert [block.shift for block in blocks] == [0, 2, 0, 2]
    assert [key for key in stage.state_dict() if "attn_mask" in key] == [
        "layers.0.blocks.1.attn_mask",
        "layers.1.blocks.1.attn_mask",
    ]


def test_swin_layers_are_added_with_the_scale():
    stage = SwinStage(dim=8, hidden=16, grid=4, scale=0.8, dropout=0.1, drop_path=0.1).double().eval()
    maps = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    x = maps.flatten(2).mT
    for layer in stage.layers:
        x = x + 0.8 * layer(x)
    torch.testing.assert_close(stage(maps), x.mT.unflatten(2, (4, 4)), rtol=1e-12, atol=1e-12)


def test_layer_norm_constants(critic):
    assert critic.vit.blocks[0].norm1.eps == 1e-6
    assert critic.swintransformer1.layers[0].blocks[0].norm1.eps == 1e-5


def test_both_images_pass_the_same_convolution(critic):
    seen = []
    critic.conv0_x1.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    sr, hr = images()
    critic.score(sr, hr)
    assert len(seen) == 2
    assert torch.equal(seen[0], critic.vit_features(sr))
    assert torch.equal(seen[1], critic.vit_features(hr))


def test_vit_features_are_the_tapped_blocks_without_class_token(critic):
    (image, _) = images()
    tapped = []
    for tap in critic.taps:
        critic.vit.blocks[tap].register_forward_hook(lambda _m, _i, output: tapped.append(output))
    features = critic.vit_features(image)
    assert features.shape == (2, 4 * 16, 4, 4)
    for k, tokens in enumerate(tapped):
        for row, column in ((0, 0), (1, 2), (3, 3)):
            assert torch.equal(features[:, 16 * k : 16 * k + 16, row, column], tokens[:, 1 + 4 * row + column])
    # The same network run by timm itself (which goes on to the last block and its norm) sees the same tokens.
    tapped.clear()
    critic.vit.forward_features((image - 0.5) / 0.5)
    again = torch.cat([tokens[:, 1:] for tokens in tapped], dim=2).mT.unflatten(2, (4, 4))
    assert torch.equal(features, again)


def test_score_is_the_weighted_mean_of_tokens(critic):
    heads = {}
    for name in ("fc_score", "fc_weight"):
        getattr(critic, name).register_forward_hook(lambda _m, _i, output, name=name: heads.update({name: output}))
    scores = critic.score(*images())
    f, w = heads["fc_score"][..., 0], heads["fc_weight"][..., 0]
    assert ((w > 0) & (w < 1)).all()
    torch.testing.assert_close(scores, (f * w).sum(1) / (w.sum(1) + 1e-8), rtol=1e-12, atol=1e-12)


def test_scores_do_not_depend_on_batch_mates_or_on_earlier_calls(critic):
    sr, hr = images(3)
    together = critic.score(sr, hr)
    alone = torch.cat([critic.score(sr[i : i + 1], hr[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(critic.score(sr, hr, target_features=critic.encode_target(hr)), together)
    critic.train()
    torch.manual_seed(0)
    assert not torch.equal(critic.score(sr, hr), critic.score(sr, hr))


def test_swapping_the_images_changes_the_score(critic):
    sr, hr = images()
    forth, back = critic.score(sr, hr), critic.score(hr, sr)
    assert ((forth - back).abs() > 1e-9).all()
    # Antisymmetry is learned, not built in.
    assert ((forth + back).abs() > 1e-6).all()


def test_gradient_at_equal_images_is_finite_and_not_zero(critic):
    _, hr = images()
    sr = hr.clone().requires_grad_()
    critic.requires_grad_(False).score(sr, hr).sum().backward()
    assert torch.isfinite(sr.grad).all()
    assert sr.grad.abs().max() > 0


def test_only_its_own_size_is_taken(critic):
    with pytest.raises(InputError, match="rqi_maniqa: got 40x40, takes exactly 32x32"):
        critic.score(*images(side=40))
    with torch.device("meta"):
        full = RQIManiqa()
    assert full.input_size == RQIManiqa.card.input_size
    assert (full.input_size.accepts(224, 224), full.input_size.accepts(256, 256)) == (True, False)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"side": 200}, "side: got 200, expected a multiple of 32"),
        ({"width": 20}, "width: got 20"),
        ({"taps": (6, 12)}, "taps: got"),
        ({"taps": (7, 6)}, "taps: got"),
        ({"taps": ()}, "taps: got"),
        ({"dropout": 2}, "dropout: got 2"),
    ],
)
def test_wrong_arguments(config, words):
    with pytest.raises(InputError, match=words):
        RQIManiqa(**config)


def test_config_survives_json():
    critic = RQIManiqa(side=64, patch=16, width=16, depth=3, heads=4, taps=(0, 2), scale=0.13, dropout=0, drop_path=0)
    again = RQIManiqa(**json.loads(json.dumps(critic.config)))
    assert again.config == critic.config
    assert again.config["taps"] == (0, 2)
    shapes = {key: value.shape for key, value in again.state_dict().items()}
    assert shapes == {key: value.shape for key, value in critic.state_dict().items()}
    assert again.score(*(image.float() for image in images(1, 64))).shape == (1,)


def test_remap_official_keeps_everything_and_leaves_its_argument(critic):
    published = dict(critic.state_dict())
    before = {key: value.clone() for key, value in published.items()}
    ours = RQIManiqa.remap_official(published)
    assert ours is not published
    assert ours.keys() == published.keys() == before.keys()
    assert all(torch.equal(published[key], before[key]) for key in before)
    RQIManiqa.tiny().load_state_dict(ours, strict=True)


@pytest.mark.parametrize("buffer", ["0.attn.relative_position_index", "1.attn_mask"])
@pytest.mark.parametrize("damage", ["value", "shape"])
def test_remap_official_refuses_foreign_constants(critic, buffer, damage):
    key = f"swintransformer2.layers.1.blocks.{buffer}"
    published = dict(critic.state_dict())
    published[key] = published[key] + 1 if damage == "value" else published[key][..., :9]
    with pytest.raises(WeightsError, match=key):
        RQIManiqa.remap_official(published)


def test_remap_official_takes_a_checkpoint_without_the_constants(critic):
    published = {
        key: value
        for key, value in critic.state_dict().items()
        if not key.endswith(("relative_position_index", "attn_mask"))
    }
    assert RQIManiqa.remap_official(published).keys() == published.keys()


def test_card():
    card = RQIManiqa.card
    assert (card.name, card.relative, card.symmetric) == ("rqi_maniqa", True, False)
    entry = card.weights["official"]
    assert entry.url == "https://huggingface.co/shaolin999/rqi/resolve/main/rqi_weights.pt"
    assert (entry.tag, entry.sha256, entry.training_data, entry.commercial_use) == ("official", "", "PIPAL", None)


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

    def plain(x):
        q, k, v = (linear(x) for linear in maps)
        return torch.softmax(scale * q @ k.mT, dim=-1) @ v

    torch.testing.assert_close(channel_attention(x, weight, bias), plain(x), rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(lambda x: channel_attention(x, weight, bias), (x,))
    upstream = random(2, 6, 4, seed=3, grad=False)
    (whole,) = torch.autograd.grad(channel_attention(x, weight, bias), x, upstream)
    (some,) = torch.autograd.grad(channel_attention(x, weight, bias, ((0, 2), (4, 6))), x, upstream)
    torch.testing.assert_close(some[:, [0, 1, 4, 5]], whole[:, [0, 1, 4, 5]], rtol=0, atol=1e-14)
    assert whole[:, 2:4].abs().min() > 0 and not some[:, 2:4].any()
