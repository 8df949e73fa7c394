"""PSNR and SSIM: closed forms, equality with BasicSR, published anchors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation import sr_metrics
from sr_perceptual_loss.lab.evaluation.sr_metrics import eight_bit, luma, psnr, ssim_8bit

SETS = Path(__file__).parents[4] / "shared" / "data"


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


@pytest.mark.parametrize("channel", ["y", "rgb"])
def test_large_and_8_bit_images_have_the_same_values(monkeypatch, channel):
    sr, hr = pair(90, 40)
    options = {"border": 3, "channel": channel}
    expected = [function(sr, hr, **options) for function in (psnr, ssim_8bit)]
    pixels = [eight_bit(image).byte() for image in (sr, hr)]
    assert [function(*pixels, **options) for function in (psnr, ssim_8bit)] == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(sr_metrics, "PIXELS_AT_ONCE", 2 * 40 * 17)
    assert [function(*pixels, **options) for function in (psnr, ssim_8bit)] == pytest.approx(expected, rel=1e-12)


def test_refusals():
    sr, hr = pair()
    with pytest.raises(InputError, match="border.*20.*40x48"):
        psnr(sr, hr, border=20)
    with pytest.raises(InputError, match="11x11"):
        ssim_8bit(sr, hr, border=15)
    with pytest.raises(InputError, match="shape"):
        psnr(sr[:, 1:], hr)
    with pytest.raises(InputError, match=r"\(3, H, W\)"):
        psnr(sr[None], hr[None])
    with pytest.raises(InputError, match="channel.*'Y'"):
        psnr(sr, hr, channel="Y")
