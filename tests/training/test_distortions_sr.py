"""Values of the SR families, and the outputs of a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pairs import make_pair
from PIL import Image

from sr_perceptual_loss._checks import InputError
from sr_perceptual_loss.training.distortions import distort_sr, network_output
from sr_perceptual_loss.training.distortions.colour_spaces import gray
from sr_perceptual_loss.training.distortions.sr_upscaling import resampled, smoothed_edges_kept

LEVEL_5 = 20 / 255


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photo(height=64, width=80):
    return make_pair(1, height, width)[1] * 0.5 + 0.25


def rms(image):
    return float(image.square().mean().sqrt())


@pytest.mark.parametrize("size", [(20, 33), (90, 100)])
@pytest.mark.parametrize(("kernel", "filter_"), [("bilinear", Image.BILINEAR), ("lanczos", Image.LANCZOS)])
def test_resampling_agrees_with_pillow_away_from_the_edges(kernel, filter_, size):
    """Pillow shortens the kernel at the edges, we mirror as MATLAB does. Its bicubic has our a = -1/2 too."""
    image = photo(48, 60)[:, :1]
    wanted = Image.fromarray(image[0, 0].numpy()).resize(size[::-1], filter_)
    found = resampled(image, size, kernel)[0, 0]
    edge = 9
    assert torch.allclose(
        found[edge:-edge, edge:-edge], torch.tensor(np.array(wanted))[edge:-edge, edge:-edge], atol=1e-5
    )


def test_bicubic_resampling():
    image = photo(48, 60)[:, :1]
    for size in ((12, 15), (96, 120)):
        wanted = torch.tensor(np.array(Image.fromarray(image[0, 0].numpy()).resize(size[::-1], Image.BICUBIC)))
        found = resampled(image, size, "bicubic")[0, 0]
        assert torch.allclose(found[3:-3, 3:-3], wanted[3:-3, 3:-3], atol=1e-5)
    flat = torch.full((1, 3, 9, 11), 0.3)
    assert torch.allclose(resampled(flat, (31, 5), "lanczos"), torch.full((1, 3, 31, 5), 0.3), atol=1e-6)
    assert torch.allclose(resampled(image, (48, 60), "bicubic"), image, atol=1e-6)


def test_better_kernels_come_closer():
    image = make_pair(1, 96, 96)[1]
    errors = [rms(distort_sr(image, f"{kernel} enlarged", 2, seeded()) - image) for kernel in ("nearest", "bicubic")]
    assert errors[1] < 0.95 * errors[0]
    stairs = distort_sr(image, "nearest enlarged", 4, seeded())
    assert torch.equal(stairs[..., 0::4, :], stairs[..., 3::4, :]), "steps of 4 pixels at scale 4"


@pytest.mark.parametrize("period", [2, 4])
def test_checkerboards_have_their_period_and_strength(period):
    image = photo()
    pattern = distort_sr(image, f"checkerboard of period {period}", 5, seeded()) - image
    assert torch.allclose(pattern[..., period:, :], pattern[..., :-period, :], atol=1e-6)
    assert torch.allclose(pattern[..., period:], pattern[..., :-period], atol=1e-6)
    assert not torch.allclose(pattern[..., 1:], pattern[..., :-1], atol=1e-3)
    assert rms(pattern) == pytest.approx(LEVEL_5, rel=0.02)
    assert float(pattern.mean()) == pytest.approx(0, abs=1e-3)


def test_seams_lie_on_a_grid():
    image = photo(96, 96)
    sides = set()
    for seed in range(6):
        pattern = distort_sr(image, "seams", 3, seeded(seed)) - image
        steps = pattern[0, 0, 4].diff().abs() > 1e-5
        places = set((steps.nonzero().flatten() + 1).tolist())
        side = next(s for s in (32, 16, 8) if places <= set(range(0, 96, s)))
        assert len(places) == 96 // side - 1
        sides.add(side)
    assert len(sides) > 1


def test_waves_are_one_frequency():
    image = photo(96, 96)
    wave = (distort_sr(image, "waves", 4, seeded()) - image)[0]
    assert rms(wave) == pytest.approx(10 / 255, rel=0.05)
    power = torch.fft.rfft2(wave[wave.square().mean((1, 2)).argmax()]).abs().square()
    strongest = power.flatten().topk(9).values.sum() / power.sum()
    assert float(strongest) > 0.8


def test_noise_without_low_frequencies():
    image = photo(96, 96)
    noise = distort_sr(image, "high-frequency noise", 4, seeded()) - image
    power = torch.fft.fft2(noise).abs().square().mean((0, 1))
    assert float(power[:6, :6].mean()) < 0.01 * float(power[40:56, 40:56].mean())


def test_low_pass_removes_what_is_above_and_rings():
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 0.6
    edge += 0.2
    result = distort_sr(edge, "low-pass ringing", 3, seeded())
    assert float(result.max()) > 0.84 and float(result.min()) < 0.16, "overshoot on both sides"
    assert float((result[..., :16] - 0.2).abs().max()) < 0.03


def test_back_projection_and_sharpening_overshoot():
    edge = torch.full((1, 3, 64, 64), 0.3)
    edge[..., 32:] = 0.7
    for name in ("back-projection", "over-sharpened"):
        peaks = [float(distort_sr(edge, name, level, seeded()).max()) for level in (1, 3, 5)]
        assert 0.7 < peaks[0] < peaks[1] <= peaks[2], name


def test_smoothing_keeps_the_edge_and_drops_the_texture():
    edge = torch.full((1, 3, 40, 40), 0.2)
    edge[..., 20:] = 0.8
    noisy = edge + 0.02 * torch.randn(edge.shape, generator=seeded())
    result = smoothed_edges_kept(noisy, 0.1)
    assert rms(result - edge) < 0.4 * rms(noisy - edge)
    assert float((result - edge)[..., 19:21].abs().max()) < 0.03


def test_texture_has_the_energy_that_was_lost():
    image = make_pair(1, 128, 128)[1] * 0.5 + 0.25
    smooth = distort_sr(image, "over-smoothed", 3, seeded())
    lost = rms(gray(image - smooth))
    added = [rms(gray(distort_sr(image, 118, level, seeded()) - smooth)) / lost for level in (2, 3, 4)]
    assert added == pytest.approx([0.5, 1.0, 1.5], rel=0.1)


def test_warp_moves_detail_only():
    low = make_pair(1, 64, 64)[1].mean((2, 3), keepdim=True).expand(1, 3, 64, 64).contiguous()
    assert torch.allclose(distort_sr(low, "warped detail", 5, seeded()), low, atol=1e-5), "nothing to warp in a plain"
    image = photo()
    change = distort_sr(image, "warped detail", 3, seeded()) - image
    assert rms(torch.nn.functional.avg_pool2d(change, 16)) < 0.2 * rms(change)


def test_network_output():
    image = photo(50, 61)
    seen = []

    def network(low):
        seen.append(low)
        return torch.nn.functional.interpolate(low, scale_factor=4, mode="nearest") + 2

    result = network_output(image, network, 4)
    assert seen[0].shape == (1, 3, 13, 16)
    assert result.shape == image.shape and torch.equal(result, torch.ones_like(image))
    with pytest.raises(InputError, match=r"expected \(1, 3, 50, 62\)"):
        network_output(image, network, 2)
