"""LINF's range, coordinates and wrappers."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from pairs import make_pair

from sr_perceptual_loss import CriticLoss, InputError, SSIMLoss
from sr_perceptual_loss.integrations import linf
from sr_perceptual_loss.integrations.linf import CropPairs, LINFPerceptual, check_image_grid, grid_coordinates


class Network(torch.nn.Module):
    """LINF's interface; query_rgb returns a fixed prediction in LINF's range and remembers what it was asked."""

    def __init__(self, pred):
        super().__init__()
        self.pred = torch.nn.Parameter(pred.clone())
        self.asked = {}

    def forward(self, op, **asked):
        assert op == "query_rgb"
        self.asked = asked
        return self.pred


def batch_of(hr):
    coord = grid_coordinates(hr.shape[2], hr.shape[3]).expand(len(hr), -1, -1, -1)
    return {"coord": coord, "cell": torch.full((len(hr), 2), 0.1), "gt": hr}


def losses():
    return {"haarpsi": CriticLoss("haarpsi", loss_weight=0.5), "ssim": SSIMLoss(loss_weight=2.0)}


def test_coordinates_are_pixel_centres():
    grid = grid_coordinates(2, 4)
    assert grid.shape == (2, 4, 2)
    assert grid[:, 0, 0].tolist() == [-0.5, 0.5]
    assert grid[0, :, 1].tolist() == [-0.75, -0.25, 0.25, 0.75]
    ramp = torch.arange(8.0).view(1, 1, 2, 4)  # sampled at its own centres, an image is itself
    same = F.grid_sample(ramp, grid[None].flip(-1), mode="nearest", align_corners=False)
    assert torch.equal(same, ramp)


@pytest.mark.fault(67)
def test_linf_range_is_undone_and_all_losses_see_one_sample():
    sr, hr = make_pair(2, 32, 32)
    network = Network(sr * 2 - 1)
    perceptual = LINFPerceptual(losses(), sub=0.5, div=[0.5, 0.5, 0.5])
    total = perceptual(network, hr, None, batch_of(hr))
    expected = {name: float(loss(sr, hr)) for name, loss in losses().items()}
    assert float(total.detach()) == pytest.approx(sum(expected.values()), abs=1e-5)
    assert network.asked["temperature"] == 0.8
    assert float(perceptual.terms["haarpsi"]) == pytest.approx(expected["haarpsi"], abs=1e-5)
    assert float(perceptual.terms["score_haarpsi"]) == pytest.approx(-2 * expected["haarpsi"], abs=1e-5)
    total.backward()
    assert float(network.pred.grad.abs().max()) > 0


def test_clamp_stops_gradients_outside_and_can_be_switched_off():
    sr, hr = make_pair(1, 32, 32)
    pred = sr * 2 - 1
    pred[:, :, :16] = 1.5
    grads = {}
    for clamp in (True, False):
        network = Network(pred)
        LINFPerceptual({"ssim": SSIMLoss()}, clamp=clamp)(network, hr, None, batch_of(hr)).backward()
        grads[clamp] = network.pred.grad[:, :, :16].abs().max().item()
    assert grads[True] == 0 < grads[False]


def test_patches_get_the_bilinear_base():
    sr, hr = make_pair(1, 48, 48)
    inp = F.avg_pool2d(hr, 4) * 2 - 1
    pixels = grid_coordinates(48, 48)[None]
    base = F.grid_sample(inp, pixels.flip(-1), mode="bilinear", padding_mode="border", align_corners=False)
    batch = {"coord": pixels[:, 1::3, 1::3], "cell": torch.zeros(1, 2), "gt": hr, "interpolate_coord": pixels}
    perceptual = LINFPerceptual({"ssim": SSIMLoss()}, patch=3)
    value = perceptual(Network(sr * 2 - 1 - base), inp, None, batch)
    assert float(value) == pytest.approx(float(SSIMLoss()(sr, hr)), abs=1e-5)
    del batch["interpolate_coord"]
    with pytest.raises(InputError, match="crop-patch"):
        perceptual(Network(sr), inp, None, batch)


def test_scattered_pixels_are_no_image():
    grid = grid_coordinates(8, 8)[None]
    check_image_grid(grid)
    check_image_grid(grid[:, 2:6, 1:5])
    check_image_grid(torch.stack([grid[0], grid_coordinates(16, 20)[3:11, 2:10]]))  # two scales in one batch
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    scattered = grid.view(1, 64, 2)[:, order].view(1, 8, 8, 2)
    for wrong in (scattered, grid.flip(1), grid.transpose(1, 2)):
        with pytest.raises(InputError, match="sr-implicit-downsampled-fast-crop"):
            check_image_grid(wrong)
    _, hr = make_pair(1, 8, 8)
    with pytest.raises(InputError, match="no image"):
        LINFPerceptual({"ssim": SSIMLoss()})(Network(hr), hr, None, {"coord": scattered, "cell": grid, "gt": hr})


def test_schedule_follows_step():
    sr, hr = make_pair(1, 32, 32)
    perceptual = LINFPerceptual({"haarpsi": CriticLoss("haarpsi", schedule={"start": 5})})
    perceptual.step(4)
    assert float(perceptual(Network(sr * 2 - 1), hr, None, batch_of(hr))) == 0
    perceptual.step(5)
    assert float(perceptual(Network(sr * 2 - 1), hr, None, batch_of(hr))) < 0


def test_wrong_losses():
    with pytest.raises(InputError, match="got none"):
        LINFPerceptual({})
    with pytest.raises(InputError, match="'l1' is a L1Loss"):
        LINFPerceptual({"l1": torch.nn.L1Loss()})


def test_crops_have_linfs_layout_and_belong_together():
    image = make_pair(1, 96, 80)[1][0]
    crops = CropPairs([image], inp_size=12, out_size=32, scale_min=3, scale_max=4, seed=1)
    item = crops[0]
    assert {k: tuple(v.shape) for k, v in item.items()} == {
        "inp": (3, 12, 12), "coord": (32, 32, 2), "cell": (2,), "gt": (3, 32, 32)
    }  # fmt: skip
    check_image_grid(item["coord"][None])
    assert 36 <= round(2 / float(item["cell"][0])) <= 48
    where = item["coord"][None].flip(-1)
    base = F.grid_sample(item["inp"][None], where, mode="bilinear", padding_mode="border", align_corners=False)
    error = (base - item["gt"]).abs().mean()
    assert error < 0.6 * (base - item["gt"].flip(1)).abs().mean()
    assert torch.equal(CropPairs([image], 12, 32, 3, 4, seed=1)[0]["gt"], item["gt"])
    assert not torch.equal(CropPairs([image], 12, 32, 3, 4, seed=2)[0]["gt"], item["gt"])


def test_crops_for_a_224_pixel_critic():
    image = torch.rand(3, 230, 240, generator=torch.Generator().manual_seed(0))
    item = CropPairs([image])[0]
    assert item["inp"].shape == (3, 56, 56) and item["gt"].shape == (3, 224, 224)
    assert any(
        torch.equal(image[:, top : top + 224, left : left + 224], item["gt"]) for top in range(7) for left in range(17)
    )
    with pytest.raises(InputError, match="too small for 224"):
        CropPairs([image[:, :200]])[0]
    with pytest.raises(InputError, match="expected <= inp_size"):
        CropPairs([image], inp_size=10, out_size=50)
    with pytest.raises(InputError, match="out_size: missing"):
        CropPairs([image], inp_size=10, scale_min=2, scale_max=4)


def test_register_enters_linfs_table(monkeypatch):
    table = {}
    module = types.ModuleType("datasets")
    monkeypatch.setitem(sys.modules, "datasets", module)
    module.__file__ = "/elsewhere/datasets/__init__.py"
    with pytest.raises(InputError, match="elsewhere"):
        linf.register()
    module.register = lambda name: lambda cls: table.setdefault(name, cls)
    linf.register()
    assert table == {"srpl-crop": CropPairs}
