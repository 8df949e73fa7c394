"""What is special about RQI/AHIQ, and the blocks it shares with other critics."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from pairs import make_pair
from torchvision.ops import deform_conv2d

from sr_perceptual_loss.critics.rqi_ahiq.network import NORMALISATIONS, RQIAhiq
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops.deformable import DeformableConv2d


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return RQIAhiq.tiny().eval().double()


def images(n=2, side=32, seed=1):
    return make_pair(n, side, side, seed=seed, dtype=torch.float64)


def test_parameter_counts():
    with torch.device("meta"):
        critic = RQIAhiq()
    counts = {name: parameter.numel() for name, parameter in critic.named_parameters()}

    def size(*prefixes):
        return sum(n for name, n in counts.items() if name.startswith(prefixes))

    assert sum(counts.values()) == 139_302_692
    assert (size("deform_net."), size("regressor.")) == (13_010_450, 14_158_338)
    assert (size("vit."), size("resnet50.")) == (86_576_872, 25_557_032)
    assert size(*RQIAhiq.published_frozen) == 86_576_872 + 25_557_032
    assert len(critic.state_dict()) == 492


def test_exactly_the_unused_parameters_get_no_gradient(critic):
    critic.score(*images()).sum().backward()
    without = {name for name, parameter in critic.named_parameters() if parameter.grad is None}
    # tiny() has one ViT block after the tapped ones.
    assert without == {name for name, _ in critic.named_parameters() if name.startswith(RQIAhiq.unused)}
    assert any(name.startswith("vit.blocks.5.") for name in without)


def test_backbones_never_move_their_batch_statistics(critic):
    critic.train()
    assert critic.training and critic.regressor.training and critic.deform_net.training
    assert not any(m.training for part in (critic.vit, critic.resnet50) for m in part.modules())
    before = {key: value.clone() for key, value in critic.state_dict().items()}
    sr, hr = images()
    in_training = critic.score(sr, hr)
    assert all(torch.equal(value, before[key]) for key, value in critic.state_dict().items())
    # Without dropout or batch statistics the mode does not change the score.
    assert torch.equal(in_training, critic.eval().score(sr, hr))
    # A critic that nobody has put into a mode is in the same state.
    assert not any(m.training for m in RQIAhiq.tiny().resnet50.modules())


def test_no_graph_reaches_frozen_backbones_of_the_reference(critic):
    for name, parameter in critic.named_parameters():
        parameter.requires_grad_(not name.startswith(RQIAhiq.published_frozen))
    sr, hr = images()
    offset, reduced = critic.encode_target(hr)
    assert offset.requires_grad and reduced.requires_grad
    critic.score(sr, hr).sum().backward()
    trained = {name for name, parameter in critic.named_parameters() if parameter.grad is not None}
    assert trained == {n for n, _ in critic.named_parameters() if n.startswith(("deform_net.", "regressor."))}


def by_hand(critic, sr, hr):
    """The score computed directly from the weights of the parts."""
    mean, std = NORMALISATIONS[critic.config["normalisation"]]

    def backbones(image):
        image = (image - torch.tensor(mean, dtype=image.dtype).view(3, 1, 1)) / torch.tensor(
            std, dtype=image.dtype
        ).view(3, 1, 1)
        taps = []
        handles = [b.register_forward_hook(lambda _m, _i, o: taps.append(o[:, 1:])) for b in critic.vit.blocks[:5]]
        critic.vit.forward_features(image)
        for handle in handles:
            handle.remove()
        grid = critic.config["side"] // critic.config["patch"]
        tokens = torch.cat(taps, dim=2).mT.unflatten(2, (grid, grid))
        net, maps = critic.resnet50, []
        x = F.max_pool2d(F.relu(net.bn1(net.conv1(image))), 3, 2, 1)
        for block in net.layer1:
            x = block(x)
            maps.append(x)
        return tokens, torch.cat(maps, dim=1)

    (vit_sr, cnn_sr), (vit_hr, cnn_hr) = backbones(sr), backbones(hr)
    net, regressor = critic.deform_net, critic.regressor
    factor = cnn_hr.shape[2] // vit_hr.shape[2]
    offset = net.conv_offset(vit_hr.repeat_interleave(factor, 2).repeat_interleave(factor, 3))

    def features(tokens, cnn):
        sampled = net.conv1(deform_conv2d(cnn, offset, net.deform.weight, net.deform.bias, padding=1))
        return regressor.down_channel(torch.cat([tokens, sampled], dim=1))

    d, r = features(vit_sr, cnn_sr), features(vit_hr, cnn_hr)
    x = regressor.conv1(regressor.feat_smoothing(torch.cat([d - r, d, r], dim=1)))
    w = torch.sigmoid(regressor.conv_attent[0](x))
    return (regressor.conv[0](x) * w).sum((1, 2, 3)) / w.sum((1, 2, 3))


@pytest.mark.parametrize("normalisation", ["half", "imagenet"])
@pytest.mark.parametrize("patch", [4, 8, 16])
def test_score_is_the_one_of_the_description(normalisation, patch):
    torch.manual_seed(0)
    critic = RQIAhiq(**{**RQIAhiq.tiny().config, "normalisation": normalisation, "patch": patch}).eval().double()
    sr, hr = images()
    assert critic.backbone_maps(hr)[0].shape == (2, 5 * 16, 32 // patch, 32 // patch)
    torch.testing.assert_close(critic.score(sr, hr), by_hand(critic, sr, hr), rtol=1e-10, atol=1e-12)


def test_the_normalisations_differ_and_are_stored(critic):
    other = RQIAhiq(**{**critic.config, "normalisation": "imagenet"}).double().eval()
    other.load_state_dict(critic.state_dict(), strict=True)
    pair = images()
    assert ((other.score(*pair) - critic.score(*pair)).abs() > 1e-9).all()
    assert (critic.config["normalisation"], other.config["normalisation"]) == ("half", "imagenet")
    # Half of both constants is undone by images brought from one range to the other.
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in NORMALISATIONS["imagenet"])
    as_half = [((image - mean) / std) * 0.5 + 0.5 for image in pair]
    torch.testing.assert_close(critic.score_checked(*as_half), other.score(*pair), rtol=1e-9, atol=1e-12)


def test_offsets_come_from_the_reference_and_once(critic):
    calls = []
    critic.deform_net.conv_offset.register_forward_hook(lambda _m, inputs, _o: calls.append(inputs[0]))
    sr, hr = images()
    critic.score(sr, hr)
    assert len(calls) == 1
    tokens, _ = critic.backbone_maps(hr)
    assert torch.equal(calls[0][..., ::2, ::2], tokens)
    # The SR image's map must not place the samples: the offsets depend on the reference only.
    first, _ = critic.encode_target(hr)
    assert torch.equal(first, critic.encode_target(hr)[0])
    assert not torch.equal(first, critic.encode_target(sr)[0])


def test_deformable_convolution_samples_where_the_offsets_say():
    generator = torch.Generator().manual_seed(0)
    layer = DeformableConv2d(3, 4).double()
    x = torch.randn(2, 3, 7, 6, generator=generator, dtype=torch.float64)
    zero = torch.zeros(2, 18, 7, 6, dtype=torch.float64)
    plain = F.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x, zero), plain, rtol=1e-12, atol=1e-12)
    # dy = 1 for every tap: the row below, zeros under the last one.
    down = zero.clone()
    down[:, 0::2] = 1
    padded = F.pad(x, (0, 0, 0, 1))[:, :, 1:]
    inner = F.conv2d(padded, layer.weight, layer.bias, padding=1)[:, :, 1:]
    torch.testing.assert_close(layer(x, down)[:, :, 1:], inner, rtol=1e-12, atol=1e-12)
    # Half a pixel to the right: the mean of two columns.
    right = zero.clone()
    right[:, 1::2] = 0.5
    between = (x + F.pad(x, (0, 1))[..., 1:]) / 2
    found = layer(x, right)[..., 1:-1]
    torch.testing.assert_close(
        found, F.conv2d(between, layer.weight, layer.bias, padding=1)[..., 1:-1], rtol=1e-12, atol=1e-12
    )


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
    with pytest.raises(InputError, match="rqi_ahiq: got 40x40, takes exactly 32x32"):
        critic.score(*images(side=40))
    with torch.device("meta"):
        full = RQIAhiq()
    assert full.input_size == RQIAhiq.card.input_size
    assert (full.input_size.accepts(224, 224), full.input_size.accepts(256, 256)) == (True, False)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"normalisation": "raw"}, "normalisation: got 'raw'"),
        ({"side": 228}, "side, patch: got 228, 8"),
        ({"patch": 14}, "side, patch: got 224, 14"),
        ({"width": 20}, "width: got 20, expected a multiple of heads"),
        ({"taps": (0, 12)}, "taps: got"),
        ({"taps": (1, 0)}, "taps: got"),
        ({"layers": (3, 4, 6)}, "layers: got .*, expected four"),
        ({"channels": 0}, "channels: got 0"),
    ],
)
def test_wrong_arguments(config, words):
    with pytest.raises(InputError, match=words):
        RQIAhiq(**config)


def test_config_survives_json():
    critic = RQIAhiq(
        normalisation="imagenet", side="64", patch=16, width=16, depth=3, heads=4, taps=[0, 2], stem=4,
        layers=[2, 1, 1, 1], deform_channels=8, channels=4,
    )  # fmt: skip
    again = RQIAhiq(**json.loads(json.dumps(critic.config)))
    assert again.config == critic.config
    assert (again.config["side"], again.config["taps"], again.config["layers"]) == (64, (0, 2), (2, 1, 1, 1))
    again.load_state_dict(critic.state_dict(), strict=True)
    pair = [image.float() for image in images(1, 64)]
    assert torch.equal(again.score(*pair), critic.score(*pair))


def test_autocast_dtype_stays_near(critic):
    critic = critic.float()
    pair = [image.float() for image in images()]
    plain = critic.score(*pair)
    critic.autocast_dtype = torch.bfloat16
    torch.testing.assert_close(critic.score(*pair), plain, rtol=0.1, atol=0.02)


def test_card():
    card = RQIAhiq.card
    assert (card.name, card.relative, card.symmetric, dict(card.weights)) == ("rqi_ahiq", True, False, {})
