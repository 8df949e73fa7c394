"""SF, SN, SFSN: closed forms, since the authors published no expected values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss.errors import InputError, InstallError
from sr_perceptual_loss.lab.evaluation import sfsn as module
from sr_perceptual_loss.lab.evaluation.sfsn import gray_square, high_band, sfsn, split_bands


def flat(level=100, height=161, width=161):
    return torch.full((3, height, width), level / 255)


@pytest.mark.parametrize("side", [2, 3, 8, 9, 161, 256])
def test_mask_counts(side):
    """Low are the diagonals 0 .. t - 1 with t = side - 1 - round(side / 2): t (t + 1) / 2 coefficients."""
    t = side - 1 - math.floor(side / 2 + 0.5)
    mask = high_band(side)
    assert int((~mask).sum()) == t * (t + 1) // 2
    assert mask.shape == (side, side) and (mask == mask.T).all()
    if side == 8:
        assert [tuple(i) for i in np.argwhere(~mask)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]


@pytest.mark.parametrize("side", [8, 9])
def test_bands_add_up_and_are_orthogonal(side):
    gray = np.random.default_rng(0).uniform(0, 255, (side, side))
    low, high = split_bands(gray)
    assert np.allclose(low + high, gray, atol=1e-10)
    assert abs((low * high).sum()) < 1e-8
    assert abs(high).max() > 1


def test_one_cosine_falls_into_one_band():
    """cos(pi (2 i + 1) k / 2 s) is the DCT basis function k: low for k < 3, high from 3 on, if s = 8."""
    for k in range(8):
        wave = np.cos(np.pi * (2 * np.arange(8) + 1) * k / 16)[:, None] * np.ones((1, 8))
        low, high = split_bands(wave)
        assert np.allclose(low if k < 3 else high, wave, atol=1e-12)


def test_gray_square():
    image = torch.zeros(3, 5, 5)
    image[0] = 1
    assert (gray_square(image) == 76).all()
    assert (gray_square(flat(100, 20, 30)) == 100).all()
    assert gray_square(flat(100, 20, 30)).shape == (20, 20)
    ramp = torch.linspace(0, 1, 40).expand(3, 20, 40)
    square = gray_square(ramp)
    assert (np.diff(square[0]) > 0).all() and np.allclose(square, square[0])
    # Twice narrower: each pixel is about the mean of the two that it covers.
    expected = (np.rint(np.linspace(0, 255, 40)) @ np.kron(np.eye(20), [[0.5], [0.5]]))[2:-2]
    assert np.allclose(square[0, 2:-2], expected, atol=1)


def test_equal_flat_images():
    found = sfsn(flat(), flat())
    assert found["sf"] == pytest.approx(1, abs=1e-12)
    assert found["sn"] == 0
    assert found["sfsn"] == pytest.approx(0.9)
    assert found["sfsn_1_9"] == pytest.approx(1.9)


def test_entropy_of_known_bands():
    bins = np.arange(256, dtype=np.uint8)
    assert module._entropy(bins.reshape(16, 16)) == pytest.approx(8)
    assert module._entropy(np.repeat(bins[:4], 64).reshape(16, 16)) == pytest.approx(2)
    assert module._entropy(np.zeros((4, 4), np.uint8)) == 0
    # 3 of 4 zeros, 1 of 4 ones.
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert module._entropy(np.array([[0, 0], [0, 1]], np.uint8)) == pytest.approx(expected)


def test_cast_is_that_of_matlab():
    assert module._cast(np.array([-3.0, -0.4, 0.49, 0.5, 1.5, 2.5, 254.6, 300.0])).tolist() == [
        0, 0, 0, 1, 2, 3, 255, 255,
    ]  # fmt: skip


def test_sn_rises_with_noise_and_ignores_the_reference():
    _, hr = make_pair(1, 164, 170)
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    images = [(hr + sigma * noise).clamp(0, 1)[0] for sigma in (0, 0.02, 0.08, 0.2)]
    found = [sfsn(image, hr[0]) for image in images]
    for f in found:
        assert f["sfsn"] == pytest.approx(0.9 * f["sf"] + 0.1 * f["sn"])
        assert f["sfsn_1_9"] == pytest.approx(1.9 * f["sf"] + 0.1 * f["sn"])
    assert [f["sn"] for f in found] == sorted(f["sn"] for f in found)
    assert found[3]["sn"] > found[0]["sn"] + 1
    # Each pixel of noise is rewarded by SN while SF falls.
    assert found[0]["sf"] == pytest.approx(1, abs=1e-12) and found[3]["sf"] < found[1]["sf"] < 1
    assert sfsn(images[2], flat(0, 164, 170))["sn"] == found[2]["sn"]


def test_high_frequencies_leave_sf_alone():
    """A checkerboard lies in the high band, so only SN sees it."""
    rows = torch.arange(162)
    board = ((rows[:, None] + rows[None]) % 2).float().expand(3, -1, -1)
    sr = flat(100, 162, 162) + board * 20 / 255 - 10 / 255
    found = sfsn(sr, flat(100, 162, 162))
    assert found["sf"] == pytest.approx(1, abs=1e-3)
    # Half of the pixels are +10, the others are cut to 0.
    assert found["sn"] == pytest.approx(1, abs=0.3)
    low, _ = split_bands(gray_square(sr))
    assert np.allclose(low, 100, atol=2)


def test_refusals(monkeypatch):
    with pytest.raises(InputError, match="170x160.*161"):
        sfsn(flat(0, 160, 170), flat(0, 160, 170))
    with pytest.raises(InputError, match="shapes"):
        sfsn(flat(), flat(0, 162, 161))
    monkeypatch.setitem(__import__("sys").modules, "scipy.fft", None)
    with pytest.raises(InstallError, match=r"pip install 'sr_perceptual_loss\[lab\]'"):
        sfsn(flat(), flat())
