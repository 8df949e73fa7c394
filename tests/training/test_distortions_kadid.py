"""Values of single KADID-10k types, and the real pictures of the data set."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from sr_perceptual_loss.data.images import read_image
from sr_perceptual_loss.training.distortions import distort
from sr_perceptual_loss.training.distortions.colour_spaces import (
    hsv_scaled_saturation,
    lab_to_rgb,
    rgb_to_lab,
    rgb_to_ycbcr,
    ycbcr_to_rgb,
)
from sr_perceptual_loss.training.distortions.filters import disk_kernel, filter_image, gaussian_blur, line_kernels
from sr_perceptual_loss.training.distortions.noises import dct_denoised
from sr_perceptual_loss.training.distortions.quantising import otsu_thresholds, variance_palette
from sr_perceptual_loss.training.distortions.registry import stretched
from sr_perceptual_loss.training.distortions.spatial import displaced, scaled_count
from sr_perceptual_loss.training.distortions.tones import change_contrast

REAL = Path(__file__).parents[3] / "shared" / "data" / "kadid_i01"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def grey(value, height=64, width=64):
    """Grey, but for two pixels that keep the picture from being stretched."""
    image = torch.full((1, 3, height, width), value)
    image[..., 0, 0], image[..., 0, 1] = 0.0, 1.0
    return image


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean() + 1e-15))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real KADID-10k pictures are not here (../shared/data/kadid_i01)")
@pytest.mark.parametrize(("kind", "level"), [(1, 2), (1, 5), (6, 5), (15, 5)])
def test_real_pictures(kind, level):
    reference = read_image(REAL / "I01.png")[None]
    real = read_image(REAL / f"I01_{kind:02d}_{level:02d}.png")[None]
    own = (distort(reference, kind, level, seeded()) * 255).round() / 255
    if kind == 1:
        # Exact but for single values that round to the neighbour: sigma, size, edges and the final stretch are right.
        assert psnr(own, real) > 90
        return
    assert abs(psnr(own, reference) - psnr(real, reference)) < 1
    if kind == 6:
        # The dots differ; what the eye sees from afar does not (the reference itself has 22 dB here).
        assert psnr(gaussian_blur(own, 3), gaussian_blur(real, 3)) > 34
        assert len(np.unique((own * 255).byte()[0].reshape(3, -1).numpy(), axis=1).T) == 8
    else:
        # The noise differs; how much fine structure the denoiser leaves does not.
        left, wanted = (float((x - gaussian_blur(x, 1)).std()) for x in (own, real))
        assert left == pytest.approx(wanted, rel=0.2)
        assert float((reference - gaussian_blur(reference, 1)).std()) < 0.8 * wanted


def test_kernels():
    kernel = disk_kernel(4)
    assert kernel.shape == (9, 9) and float(kernel.sum()) == pytest.approx(1)
    assert float(kernel[4, 4]) == pytest.approx(1 / (np.pi * 16), rel=0.01)
    assert float(kernel[0, 0]) == 0
    flat, diagonal, upright = line_kernels(5, torch.tensor([0.0, np.pi / 4, np.pi / 2]))
    assert torch.allclose(flat[2], torch.full((5,), 0.2, dtype=torch.float64)) and float(flat[[0, 1, 3, 4]].sum()) == 0
    assert torch.allclose(upright, flat.T, atol=1e-6)
    # Counter-clockwise: up on the right.
    assert float(diagonal[1, 3]) > 0.1 and float(diagonal[3, 3]) == 0
    assert line_kernels(1, torch.tensor([0.3])).tolist() == [[[1.0]]]


def test_filters_repeat_edges_and_know_their_image():
    image = torch.rand(2, 3, 20, 24, generator=seeded())
    assert torch.allclose(gaussian_blur(torch.full((1, 1, 9, 9), 0.3), 3), torch.full((1, 1, 9, 9), 0.3))
    kernels = torch.zeros(2, 3, 3)
    kernels[0, 1, 1] = kernels[1, 0, 1] = 1
    result = filter_image(image, kernels)
    assert torch.equal(result[0], image[0])
    assert torch.equal(result[1, :, 1:], image[1, :, :-1]) and torch.equal(result[1, :, 0], image[1, :, 0])


def test_colour_spaces():
    image = torch.rand(2, 3, 8, 8, generator=seeded(), dtype=torch.float64)
    assert torch.allclose(lab_to_rgb(rgb_to_lab(image)), image, atol=1e-6)
    assert torch.allclose(ycbcr_to_rgb(rgb_to_ycbcr(image)), image, atol=1e-6)
    # Published values: sRGB red is L 53.24, a 80.09, b 67.20; BT.601 white is Y 235, Cb 128, Cr 128.
    red = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)[None, :, None, None]
    assert rgb_to_lab(red).flatten().tolist() == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    white = torch.ones(1, 3, 1, 1, dtype=torch.float64)
    assert (rgb_to_ycbcr(white) * 255).flatten().tolist() == pytest.approx([235, 128, 128], abs=0.01)
    assert rgb_to_lab(white).flatten().tolist() == pytest.approx([100, 0, 0], abs=0.02)
    # HSV (h, .5, .8) with half its saturation is (h, .25, .8).
    colour = torch.tensor([0.8, 0.6, 0.4])[None, :, None, None]
    assert hsv_scaled_saturation(colour, 0.5).flatten().tolist() == pytest.approx([0.8, 0.7, 0.6])


def test_tone_curves():
    # Amount .4: .7 from RGB, twice; L 53.39 becomes 73.30, which is .7057.
    assert float(distort(grey(0.5), 16, 3, seeded())[0, 0, 9, 9]) == pytest.approx((2 * 0.7 + 0.7057) / 3, abs=1e-4)
    assert float(distort(grey(0.5), 17, 4, seeded())[0, 0, 9, 9]) == pytest.approx(0.3, abs=1e-6)
    x = torch.tensor([0.0, 0.3, 0.5, 0.7, 1.0])
    for amount in (0.3, 0.0, -0.6):
        expected = [0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1]
        assert change_contrast(x, amount, None).tolist() == pytest.approx(expected, abs=1e-6)
    # A straight line through the five points stays one: amount -.2 gives .3 -> .3 and .7 -> .7.
    line = torch.linspace(0, 1, 11)
    assert torch.allclose(change_contrast(line, -0.2, None), line, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "level", "expected"),
    [(11, 5, 0.01), (14, 5, 0.05 * 0.25), (13, 5, 0.03 * 0.25)],
    ids=["white", "multiplicative", "impulse"],
)
def test_noise_has_the_published_variance(kind, level, expected):
    image = grey(0.5, 256, 256)
    error = distort(image, kind, level, seeded()) - image
    assert float(error.var()) == pytest.approx(expected, rel=0.05)
    assert float(error.mean()) == pytest.approx(0, abs=2e-3)


def test_noise_is_normal_uniform_or_salt_and_pepper():
    image = grey(0.5, 128, 128)[..., 1:, :]
    kurtosis = {}
    for kind in (11, 14):
        error = distort(image, kind, 5, seeded()) - image
        kurtosis[kind] = float((error**4).mean() / error.var() ** 2)
    assert kurtosis[11] == pytest.approx(3.0, abs=0.1) and kurtosis[14] == pytest.approx(1.8, abs=0.05)
    impulses = distort(image, 13, 5, seeded())
    assert sorted(impulses.unique().tolist()) == [0.0, 0.5, 1.0]
    assert float((impulses == 1).float().mean()) == pytest.approx(0.015, abs=0.003)
    assert not torch.equal(impulses[:, 0], impulses[:, 1])


def test_denoiser_keeps_structure_and_removes_noise():
    clean = torch.zeros(1, 1, 64, 64)
    clean[..., 20:44, 20:44] = 0.8
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=seeded())
    result = dct_denoised(noisy, torch.tensor([0.1]))
    assert psnr(noisy, clean) < 20.5 and psnr(result, clean) > 25
    assert torch.allclose(dct_denoised(noisy, torch.tensor([0.0])), noisy, atol=1e-5), "no noise: nothing to remove"


def test_palette_and_thresholds():
    colours = np.array([[10, 20, 30], [200, 10, 10], [10, 200, 10], [90, 90, 250]], dtype=np.uint8)
    pixels = np.repeat(colours, [50, 5, 20, 30], axis=0)
    assert {tuple(c) for c in variance_palette(pixels, 4)} == {tuple(c) for c in colours.astype(float)}
    assert len(variance_palette(pixels, 16)) == 4
    histogram = np.zeros(256, dtype=np.int64)
    histogram[[10, 12, 100, 103, 240]] = [5, 5, 3, 3, 9]
    assert otsu_thresholds(histogram, 2) == [12, 103]
    assert otsu_thresholds(histogram, 1) == [103]
    assert otsu_thresholds(histogram, 9) == [10, 12, 100, 103]


def test_otsu_is_as_good_as_a_full_search():
    histogram = np.random.default_rng(0).integers(0, 20, 256)
    histogram[:120] = histogram[136:] = 0
    values, weights = np.arange(256.0), histogram.astype(float)

    def within(cuts):
        edges = [-1, *cuts, 255]
        total = 0.0
        for low, high in itertools.pairwise(edges):
            w, v = weights[low + 1 : high + 1], values[low + 1 : high + 1]
            total += float((w * (v - (w * v).sum() / w.sum()) ** 2).sum()) if w.sum() else 0.0
        return total

    best = min(within((a, b)) for a in range(120, 135) for b in range(a + 1, 136))
    assert within(otsu_thresholds(histogram, 2)) == pytest.approx(best)


def test_counts_follow_the_area_and_blocks_have_their_size():
    image = torch.zeros(1, 3, 384, 512)
    assert scaled_count(100, image) == 100 and scaled_count(100, image[..., :192, :256]) == 25
    assert scaled_count(2, image[..., :48, :48]) == 1
    one = distort(grey(0.0, 96, 96), 23, 5, seeded())
    assert int((one != grey(0.0, 96, 96)).any(1).sum()) == 32 * 32


def test_displacement_pixelation_and_shift():
    ramp = torch.arange(60.0).expand(1, 3, 50, 60) / 60
    offsets = torch.zeros(1, 2, 50, 60)
    offsets[:, 1] = 1.5
    assert torch.allclose(displaced(ramp, offsets)[..., :57], ramp[..., :57] + 1.5 / 60, atol=1e-5)
    assert torch.allclose(displaced(ramp, offsets)[..., -1], ramp[..., -1])
    small = distort(ramp, "pixelate", 5, seeded())
    assert len(small[0, 0, 0].unique()) == -(-60 * (0.95 - 0.5**0.6) // 1)
    moved = distort(torch.rand(1, 3, 64, 64, generator=seeded()), "colour shift", 5, seeded())
    source = torch.rand(1, 3, 64, 64, generator=seeded())
    assert torch.allclose(moved[:, ::2], source[:, ::2], atol=2e-3), "only green moves"
    assert float((moved - source)[:, 1].abs().mean()) > 0.05


def test_stretch_reaches_back_to_the_range_of_the_picture_and_never_squeezes():
    source = torch.linspace(0.2, 0.8, 16).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    dull = 0.5 + 0.5 * (source - 0.5)
    assert torch.allclose(stretched(dull, source), source, atol=1e-6)
    wide = (source - 0.5) * 1.5 + 0.5
    assert torch.allclose(stretched(wide, source), wide, atol=1e-6)
    flat = torch.full((1, 3, 4, 4), 0.4)
    assert torch.equal(stretched(flat, source), flat)


def test_jpeg2000_of_a_small_crop_is_no_worse_than_of_a_large_one():
    """Without the mirrored surround, a 64-pixel crop at ratio 400 would get 31 bytes, less than the header."""
    generator = seeded()
    low = torch.rand(1, 3, 32, 32, generator=generator)
    large = torch.nn.functional.interpolate(low, scale_factor=8, mode="bicubic").clamp(0, 1)
    small = large[..., :64, :64]
    error = psnr(distort(large, 9, 3, seeded())[..., :64, :64], small)
    assert psnr(distort(small, 9, 3, seeded()), small) == pytest.approx(error, abs=4)
