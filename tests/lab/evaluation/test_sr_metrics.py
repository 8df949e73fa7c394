"""PSNR and SSIM: closed forms, equality with BasicSR, published anchors; LPIPS and DISTS through their libraries."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import InputError
from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.lab.evaluation import lpips_dists
from sr_perceptual_loss.lab.evaluation.sr_metrics import eight_bit, luma, psnr, ssim_8bit

SETS = Path(__file__).parents[3] / "shared" / "data"


def need_basicsr():
    """Installs the shims, without which BasicSR cannot be imported."""
    from sr_perceptual_loss.integrations.basicsr_shim import require_basicsr

    try:
        require_basicsr()
    except ImportError:
        pytest.skip("BasicSR is not installed")


def pair(height=48, width=40, seed=0):
    sr, hr = make_pair(1, height, width, seed=seed)
    return sr[0], hr[0]


def test_eight_bit_rounds_and_cuts():
    values = torch.tensor([-0.2, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 1.7])
    assert eight_bit(values).tolist() == [0, 0, 0, 1, 255, 255]


def test_luma_of_known_colours():
    """Black 16, white 235, and the three primaries of BT.601 in studio range."""
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.float64)
    found = luma(colours.T[:, :, None])[0, :, 0]
    assert found.tolist() == pytest.approx([16, 235, 81.481, 144.553, 40.966], abs=1e-12)


@pytest.mark.parametrize("border", [0, 3])
def test_psnr_of_a_constant_error(border):
    hr = torch.full((3, 20, 24), 100 / 255)
    sr = hr + 10 / 255
    assert psnr(sr, hr, border=border, channel="rgb") == pytest.approx(20 * math.log10(25.5), abs=1e-10)
    # A gray error of d is 219/255 d in studio luma: 1.322 dB more.
    more = psnr(sr, hr, border=border) - psnr(sr, hr, border=border, channel="rgb")
    assert more == pytest.approx(20 * math.log10(255 / 219), abs=1e-10)


def test_the_border_is_left_out():
    hr = torch.full((3, 20, 24), 0.5)
    sr = hr.clone()
    sr[:, :4] = sr[:, -4:] = 0
    sr[:, :, :4] = sr[:, :, -4:] = 0
    assert psnr(sr, hr, border=4) == math.inf
    assert math.isfinite(psnr(sr, hr, border=3))
    assert ssim_8bit(sr, hr, border=4) == pytest.approx(1, abs=1e-12)
    assert ssim_8bit(sr, hr, border=3) < 0.999


def test_equal_images_and_rounding():
    sr, hr = pair()
    assert psnr(hr, hr) == math.inf and psnr(hr, hr, channel="rgb") == math.inf
    assert ssim_8bit(hr, hr, channel="rgb") == pytest.approx(1, abs=1e-12)
    hr = eight_bit(hr) / 255
    # Less than half a step vanishes, as it does in a PNG.
    assert psnr(hr + 0.4 / 255, hr) == math.inf
    assert math.isfinite(psnr(sr, hr))


def test_ssim_of_two_constants_is_the_luminance_term():
    sr, hr = torch.full((3, 16, 16), 50 / 255), torch.full((3, 16, 16), 100 / 255)
    c1 = (0.01 * 255) ** 2
    assert ssim_8bit(sr, hr, channel="rgb") == pytest.approx((2 * 50 * 100 + c1) / (50**2 + 100**2 + c1), abs=1e-10)
    y, x = 16 + 219 * 50 / 255, 16 + 219 * 100 / 255
    assert ssim_8bit(sr, hr) == pytest.approx((2 * x * y + c1) / (x * x + y * y + c1), abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("channel", ["y", "rgb"])
def test_equals_basicsr(channel, border, seed):
    need_basicsr()
    from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim

    sr, hr = pair(37 + 10 * seed, 52, seed)
    bgr = [eight_bit(image).byte().permute(1, 2, 0).flip(2).numpy() for image in (sr, hr)]
    options = {"crop_border": border, "test_y_channel": channel == "y"}
    assert psnr(sr, hr, border=border, channel=channel) == pytest.approx(calculate_psnr(*bgr, **options), abs=1e-6)
    assert ssim_8bit(sr, hr, border=border, channel=channel) == pytest.approx(calculate_ssim(*bgr, **options), abs=1e-6)


@pytest.mark.parametrize(("number", "rgb", "y"), [("001", 20.4261, 22.4385), ("005", 20.2066, 21.6916)])
def test_bicubic_anchors_of_set14(number, rgb, y):
    """The values of facts/metrics_and_licences.md, section 2."""
    folder = SETS / "Set14_x4"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    need_basicsr()
    from basicsr.utils.matlab_functions import imresize

    from sr_perceptual_loss.lab.data.images import read_image

    lr, hr = (read_image(folder / f"img_{number}_SRF_4_{kind}.png") for kind in ("LR", "HR"))
    sr = imresize(lr, 4)
    assert psnr(sr, hr, border=4, channel="rgb") == pytest.approx(rgb, abs=1e-4)
    assert psnr(sr, hr, border=4) == pytest.approx(y, abs=1e-4)


def test_refusals():
    sr, hr = pair()
    with pytest.raises(InputError, match=r"border: got 20 pixels on each side of a 40x48 image"):
        psnr(sr, hr, border=20)
    with pytest.raises(InputError, match="at least 11x11 pixels must be left"):
        ssim_8bit(sr, hr, border=15)
    with pytest.raises(InputError, match="differ in shape"):
        psnr(sr[:, 1:], hr)
    with pytest.raises(InputError, match=r"expected two images \(3, H, W\)"):
        psnr(sr[None], hr[None])
    with pytest.raises(InputError, match=r"channel: got 'Y'\. Known: rgb, y"):
        psnr(sr, hr, channel="Y")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty torch hub folder."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("lpips", ["https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"]),
        ("lpips_vgg", ["https://download.pytorch.org/models/vgg16-397923af.pth"]),
        ("dists", ["https://download.pytorch.org/models/vgg16-397923af.pth", "dists_weights.pt"]),
    ],
)
def test_missing_weights_are_named_with_address_and_place(hub, name, files):
    pytest.importorskip("piq" if name == "dists" else "lpips")
    sentence = lpips_dists.missing_files(name)
    for file in files:
        assert file in sentence and str(hub / file.rsplit("/", 1)[-1]) in sentence
    with pytest.raises(WeightsError, match="weights not on this machine"):
        lpips_dists.build_distance(name)


def test_the_addresses_are_those_of_the_libraries():
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    piq = pytest.importorskip("piq")
    assert lpips_dists._ALEX.url == AlexNet_Weights.IMAGENET1K_V1.url
    assert lpips_dists._VGG16.url == VGG16_Weights.IMAGENET1K_V1.url
    assert lpips_dists._DISTS.url == piq.DISTS._weights_url


def test_a_file_that_is_not_the_published_one_is_refused(hub):
    pytest.importorskip("lpips")
    (hub / "alexnet-owt-7be5be79.pth").write_bytes(b"no trunk")
    with pytest.raises(WeightsError, match="expected one that starts with 7be5be79"):
        lpips_dists.build_distance("lpips")


def stand_in(monkeypatch, hub, file):
    """A file in the place of a trunk, whose real content no test has."""
    content = b"a stand-in for the trunk"
    (hub / file.url.rsplit("/", 1)[1]).write_bytes(content)
    monkeypatch.setitem(file.__dict__, "sha256", hashlib.sha256(content).hexdigest())


def test_lpips_with_a_random_trunk(hub, monkeypatch):
    """The library's heads and scaling over an untrained AlexNet: 0 for equal images, the library's value for others."""
    lpips = pytest.importorskip("lpips")
    from torch import nn

    torch.manual_seed(0)
    widths, layers, last = (64, 192, 384, 256, 256), [], 3
    for i, width in enumerate(widths):
        layers += [nn.Conv2d(last, width, 11 if i == 0 else 3, 4 if i == 0 else 1, 2), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] * (i < 2)
        last = width
    trunk = nn.Module()
    trunk.features = nn.Sequential(*layers)
    monkeypatch.setattr(lpips.pretrained_networks.tv, "alexnet", lambda pretrained: trunk)
    stand_in(monkeypatch, hub, lpips_dists._ALEX)
    distance = lpips_dists.build_distance("lpips")
    sr, hr = pair(64, 64)
    assert distance(hr, hr) == 0
    network = lpips.LPIPS(net="alex", verbose=False)
    assert distance(sr, hr) == pytest.approx(network(2 * sr[None] - 1, 2 * hr[None] - 1).item(), rel=1e-6)
    assert distance(sr, hr) > 1e-4


def test_dists_with_a_random_trunk(hub, monkeypatch):
    """piq's DISTS over an untrained VGG16: 0 for equal images, more for a worse one."""
    piq = pytest.importorskip("piq")
    from torch import nn
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    trunk = nn.Module()
    trunk.features = make_layers(cfgs["D"])
    monkeypatch.setattr(piq.perceptual, "vgg16", lambda pretrained, progress: trunk)
    stand_in(monkeypatch, hub, lpips_dists._VGG16)
    count = 2 * (3 + 64 + 128 + 256 + 512 + 512)
    weights = torch.full((1, count // 2, 1, 1), 1 / count)
    torch.save({"alpha": weights, "beta": weights.clone()}, hub / "dists_weights.pt")
    distance = lpips_dists.build_distance("dists")
    sr, hr = pair(64, 64)
    noisy = (sr + 0.2 * torch.randn(sr.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert distance(hr, hr) == pytest.approx(0, abs=1e-5)
    assert 1e-5 < distance(sr, hr) < distance(noisy, hr) < 1


class Evil:
    def __reduce__(self):
        return (print, ("code of a pickle ran",))


def test_a_weights_file_that_could_run_code_is_refused(hub, monkeypatch, capsys):
    pytest.importorskip("piq")
    stand_in(monkeypatch, hub, lpips_dists._VGG16)
    torch.save({"alpha": Evil()}, hub / "dists_weights.pt")
    with pytest.raises(WeightsError, match="not a file of plain tensors"):
        lpips_dists.build_distance("dists")
    assert "code of a pickle ran" not in capsys.readouterr().out
