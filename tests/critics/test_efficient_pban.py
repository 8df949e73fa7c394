"""What is special about Efficient-PBAN."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F

from sr_perceptual_loss.critics.efficient_pban.network import (
    NORMALISATIONS,
    EfficientPBAN,
    GroupShuffle,
    MultiBranchDeformConv,
    PBABlock,
)
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights.matching import drop_aliases, load_state


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return EfficientPBAN.tiny().eval().double()


def like(critic, **config):
    """Another critic with the same weights."""
    other = EfficientPBAN(**{**critic.config, **config}).to(critic.fc.weight.dtype).eval()
    other.load_state_dict(critic.state_dict())
    return other


def images(n=2, height=40, width=33, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(n, 3, height, width, generator=generator, dtype=torch.float64) for _ in range(2))


def test_parameter_counts():
    with torch.device("meta"):
        critic = EfficientPBAN()
    counts = {name: parameter.numel() for name, parameter in critic.named_parameters()}
    assert sum(counts.values()) == 24_895_820
    assert sum(n for name, n in counts.items() if name.startswith(EfficientPBAN.unused)) == 1_185_820
    assert sum(n for name, n in counts.items() if name.startswith(EfficientPBAN.published_frozen)) == 231_488
    assert len(critic.state_dict()) == 358


def test_layer3_has_two_names_also_in_a_copy(critic):
    for one in (critic, copy.deepcopy(critic)):
        assert one.layer2_1 is one.layer2_2
        state = one.state_dict()
        aliases = [key for key in state if key.startswith("layer2_2.")]
        assert len(aliases) == len([key for key in state if key.startswith("layer2_1.")]) > 0


def test_exactly_the_unused_parameters_get_no_gradient(critic):
    critic.score(*images()).sum().backward()
    without = {name for name, parameter in critic.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in critic.named_parameters() if name.startswith(EfficientPBAN.unused)}
    assert without


def direct_row_pass(query, key, value, spread):
    """The definition with plain loops over rows, queries and keys; ``spread`` by image."""
    out = torch.zeros_like(value)
    n, _, height, width = query.shape
    for b in range(n):
        for row in range(height):
            logits = torch.zeros(width, width, dtype=query.dtype)
            for i in range(width):
                for j in range(width):
                    logits[i, j] = (query[b, :, row, i] * key[b, :, row, j]).sum()
            weights = (logits / (spread[b] + 1e-6)).softmax(1)
            for i in range(width):
                for j in range(width):
                    out[b, :, row, j] += value[b, :, row, i] * weights[i, j]
    return out


def row_logits(query, key):
    return torch.einsum("nchi,nchj->nhij", query, key)


@pytest.mark.parametrize("std", ["sample", "batch"])
def test_axis_attention_is_the_direct_double_loop(std):
    block = PBABlock(16, std)
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    passes = []
    for query, key, value in ((q, k, v), (q.mT, k.mT, v.mT)):
        logits = row_logits(query, key)
        spread = logits.std(correction=1).expand(2) if std == "batch" else logits.flatten(1).std(1, correction=1)
        passes.append(direct_row_pass(query, key, value, spread))
    expected = (passes[0] + passes[1].mT) / 2
    torch.testing.assert_close(block.axis_attention(q, k, v), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(block.row_pass(q, k, v), passes[0], rtol=1e-12, atol=1e-12)


def test_gradient_flows_through_the_deviation():
    block = PBABlock(16, "sample")
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 3, 2, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    q.requires_grad_()
    assert torch.autograd.gradcheck(lambda query: block.axis_attention(query, k, v), (q,))


def test_deformable_branches_start_as_plain_convolutions():
    torch.manual_seed(0)
    deform = MultiBranchDeformConv(16).double()
    assert all(not parameter.any() for parameter in deform.param_generators.parameters())
    x = torch.randn(2, 16, 7, 6, dtype=torch.float64)
    plain = [F.conv2d(x, w, b, padding=w.shape[-1] // 2) for w, b in zip(deform.weights, deform.biases, strict=True)]
    torch.testing.assert_close(deform(x), deform.merge_conv(torch.cat(plain, 1)), rtol=1e-12, atol=1e-12)


def test_offset_convolutions_learn_from_the_first_step(critic):
    critic.score(*images()).sum().backward()
    for branch in (critic.block2.br1, critic.block2.br2):
        for offsets in branch.param_generators:
            assert offsets.weight.grad.abs().max() > 0
            assert offsets.bias.grad.abs().max() > 0


def test_offsets_are_dy_dx_in_pixels():
    """A constant offset of one row down and two columns right shifts what each tap sees."""
    deform = MultiBranchDeformConv(16).double()
    with torch.no_grad():
        for offsets in deform.param_generators:
            offsets.bias.copy_(torch.tensor([1.0, 2.0]).repeat(len(offsets.bias) // 2))
    x = torch.zeros(1, 16, 24, 24, dtype=torch.float64)
    x[..., 12:14, 12:14] = torch.randn(16, 2, 2, dtype=torch.float64)
    shifted = torch.roll(x, (-1, -2), (2, 3))
    plain = [
        F.conv2d(shifted, w, b, padding=w.shape[-1] // 2) for w, b in zip(deform.weights, deform.biases, strict=True)
    ]
    torch.testing.assert_close(deform(x), deform.merge_conv(torch.cat(plain, 1)), rtol=1e-12, atol=1e-12)


def test_group_shuffle_interleaves_the_groups():
    shuffle = GroupShuffle()
    with torch.no_grad():
        shuffle.linear.weight.copy_(torch.eye(3))
        shuffle.linear.bias.zero_()
    out = shuffle(torch.arange(12.0).view(1, 12, 1, 1))
    # channel g*4 + c goes to c*3 + g
    assert out.flatten().tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def test_smallest_size_works_and_smaller_is_refused(critic):
    assert torch.isfinite(critic.score(*images(1, 17, 17))).all()
    with pytest.raises(InputError, match=r"efficient_pban: got 16x16, takes sides >= 17.*CropPlan\(size=17\)"):
        critic.score(*images(1, 16, 16))


def test_batch_std_depends_on_batch_mates_and_sample_std_does_not(critic):
    sr, hr = images(1)
    mate_sr, mate_hr = images(1, seed=9)
    # A mate of another contrast, so that the shared deviation differs from each one's own.
    pairs = torch.cat([sr, mate_sr * 0.1]), torch.cat([hr, mate_hr * 0.1])
    batch = like(critic, std="batch")
    alone = torch.cat([batch.score(pairs[0][i : i + 1], pairs[1][i : i + 1]) for i in range(2)])
    torch.testing.assert_close(critic.score(*pairs), alone, rtol=1e-12, atol=1e-12)
    assert (batch.score(*pairs) - alone).abs().max() > 1e-8


@pytest.mark.parametrize("kind", ["constant", "identical"])
def test_gradient_is_finite_where_it_could_be_0_over_0(critic, kind):
    sr, hr = images(1)
    sr = torch.full_like(sr, 0.5) if kind == "constant" else hr.clone()
    hr = sr.clone() if kind == "constant" else hr
    sr.requires_grad_()
    critic.score(sr, hr).sum().backward()
    assert torch.isfinite(sr.grad).all()
    assert sr.grad.abs().max() > 0


def test_each_image_has_its_own_normalisation(critic):
    sr, hr = images()
    published = like(critic, normalisation="published").score(sr, hr)

    def by_hand(image, mean, std):
        mean, std = (torch.tensor(numbers, dtype=torch.float64).view(3, 1, 1) for numbers in (mean, std))
        return (image - mean) / std

    pair = [by_hand(image, *constants) for image, constants in zip((sr, hr), NORMALISATIONS["published"], strict=True)]
    raw = like(critic, normalisation="raw").score_checked(*pair)
    torch.testing.assert_close(published, raw, rtol=1e-12, atol=1e-12)
    assert (published - critic.score(sr, hr)).abs().max() > 1e-4


def test_published_constants():
    sr, hr = NORMALISATIONS["published"]
    assert sr == ((0.05605867, 0.050786886, 0.04435081), (0.028125687, 0.027141795, 0.02876606))
    assert hr == ((0.05608858, 0.050779864, 0.044556625), (0.027764285, 0.026925579, 0.028313829))
    assert EfficientPBAN.tiny().config["normalisation"] == "imagenet"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"std": "image"}, "std: got 'image'"),
        ({"normalisation": "imagnet"}, "Did you mean 'imagenet'"),
        ({"widths": (4, 8, 24)}, "multiple of 16"),
        ({"widths": (4, 8)}, "widths: got"),
        ({"dropout": (0.3, 0.2)}, "four rates"),
        ({"dropout": (0.3, 0.2, 0.2, 2.0)}, "dropout: got 2"),
    ],
)
def test_wrong_arguments(config, words):
    with pytest.raises(InputError, match=words):
        EfficientPBAN(**config)


def test_config_survives_json():
    config = {"normalisation": "published", "std": "batch", "widths": (4, 8, 16), "depths": (1, 2, 1)}
    critic = EfficientPBAN(**config, dropout=(0.3, 0.3, 0.1, 0.2))
    again = EfficientPBAN(**json.loads(json.dumps(critic.config)))
    assert again.config == critic.config
    assert again.config["normalisation"] == "published"
    assert [again.drop11.p, again.drop12.p, again.drop21.p, again.drop22.p] == [0.3, 0.3, 0.1, 0.2]
    assert again.state_dict().keys() == critic.state_dict().keys()
    assert again.block2.std == "batch"


def test_dropout_is_as_published_and_off_in_eval(critic):
    default = EfficientPBAN.tiny()
    assert [default.drop11.p, default.drop12.p, default.drop21.p, default.drop22.p] == [0.3, 0.2, 0.2, 0.2]
    sr, hr = images()
    assert torch.equal(critic.score(sr, hr), critic.score(sr, hr))
    critic.train()
    torch.manual_seed(0)
    assert not torch.equal(critic.score(sr, hr), critic.score(sr, hr))


def test_published_files_may_hold_layer3_under_two_names(critic):
    published = dict(critic.state_dict())
    ours = drop_aliases(EfficientPBAN.remap_official(published), EfficientPBAN.aliases, "file")
    assert set(published) - set(ours) == {key for key in published if key.startswith("layer2_2.")} != set()
    other = EfficientPBAN.tiny().double().eval()
    load_state(other, ours, source="file")
    assert torch.equal(other.score(*images()), critic.score(*images()))
    published["layer2_2.0.conv2.weight"] = published["layer2_2.0.conv2.weight"] + 1
    with pytest.raises(WeightsError, match=r"layer2_2\.0\.conv2\.weight"):
        drop_aliases(published, EfficientPBAN.aliases, "file")


def test_card():
    card = EfficientPBAN.card
    assert (card.name, card.relative, card.symmetric, dict(card.weights)) == ("efficient_pban", False, False, {})
    assert card.needs_weights
    assert not math.isnan(sum(card.score_range))
    assert len(card.notes) == len(set(card.notes)) >= 8
