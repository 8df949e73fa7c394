from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from bundled_weights import fold
from torch import nn

from sr_perceptual_loss.ops.trunks import TAPS, EfficientNetLite0, L2Pool, Trunk


@pytest.mark.parametrize("sides", [(64, 96), (77, 45)])
def test_efficientnet_is_that_of_timm_with_folded_batch_norms(sides):
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").double().eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.weight, part.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (part.bias, part.running_mean):
                nn.init.normal_(values, 0, 0.3)
    trunk = EfficientNetLite0().double()
    fold(network, trunk)
    expected = []
    for part in (network.bn1, *network.blocks):
        part.register_forward_hook(lambda _module, _inputs, output: expected.append(output))
    image = 2 * torch.rand(2, 3, *sides, dtype=torch.float64) - 1
    with torch.no_grad():
        network(image)
        maps = trunk(image)
    assert [m.shape[1] for m in maps] == trunk.channels == [32, 16, 24, 40, 80, 112, 192, 320]
    assert len(expected) == 8
    for one, two in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9 * two.abs().max())


@pytest.mark.parametrize("name", TAPS)
def test_layers_and_outputs_are_those_of_torchvision(name):
    torch.manual_seed(0)
    build = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}[name]
    with torch.device("meta"):
        network = torchvision.models.get_model(build)
    trunk = Trunk(name)
    published = {k: v.shape for k, v in network.state_dict().items() if k.startswith("features.")}
    assert {k: v.shape for k, v in trunk.state_dict().items()} == published
    features = network.features.to_empty(device="cpu")
    features.load_state_dict({k.removeprefix("features."): v for k, v in trunk.state_dict().items()})
    image = torch.randn(1, 3, 63, 70)
    with torch.no_grad():
        maps = trunk(image)
        assert [m.shape[1] for m in maps] == trunk.channels
        torch.testing.assert_close(maps[-1], features[: TAPS[name][-1] + 1](image))
        torch.testing.assert_close(maps[0], features[: TAPS[name][0] + 1](image))


def test_l2_pooling_of_a_constant_and_of_one_pixel():
    image = torch.zeros(1, 2, 6, 7, dtype=torch.float64)
    image[:, 0], image[0, 1, 2, 4] = 3.0, 8.0
    pooled = L2Pool()(image)
    assert pooled.shape == (1, 2, 3, 4)
    torch.testing.assert_close(pooled[0, 0, 1:, 1:3], torch.full((2, 2), 3.0, dtype=torch.float64))
    assert pooled[0, 1].flatten().topk(2).values.tolist() == pytest.approx([4.0, 1e-6])
