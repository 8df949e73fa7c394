from __future__ import annotations

import math

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import InputError
from sr_perceptual_loss.monitor.spectrum import (
    high_frequency_energy,
    high_frequency_ratio,
    pattern_spectrum,
    periodic_excess,
)


def images(n=8, side=64, seed=0):
    """Smooth content with other detail in each image, far from clipping."""
    sr, hr = make_pair(n, side, side, seed=seed)
    return 0.2 + 0.6 * sr, 0.2 + 0.6 * hr


def wave(period, side, *, across=True):
    x = torch.cos(2 * math.pi * torch.arange(side) / period)
    return x.expand(side, side) if across else x[:, None].expand(side, side)


def test_energy_of_a_wave_is_its_power_on_the_right_side_of_the_cutoff():
    image = 0.1 * wave(3, 96).expand(1, 3, 96, 96)
    # Power of 0.1 cos is 0.005; a Hann window normalised to mean 1 has a mean square of 1.5 per axis.
    torch.testing.assert_close(high_frequency_energy(image), torch.tensor([0.005 * 2.25]), rtol=0.03, atol=0)
    assert high_frequency_energy(0.1 * wave(8, 96).expand(1, 3, 96, 96)) < 1e-6


def test_ratio_is_one_for_equal_images_below_for_blur_above_for_noise():
    _, hr = images()
    torch.testing.assert_close(high_frequency_ratio(hr, hr), torch.tensor(1.0))
    blurred = torch.nn.functional.avg_pool2d(hr, 3, 1, 1)
    assert high_frequency_ratio(blurred, hr) < 0.2
    noisy = hr + 0.1 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(1))
    assert high_frequency_ratio(noisy, hr) > 2
    flat = torch.full((1, 3, 32, 32), 0.5)
    torch.testing.assert_close(high_frequency_ratio(flat, flat), torch.tensor(1.0))


@pytest.mark.parametrize("period", [2, 3, 4, 8])
def test_a_drawn_pattern_is_seen_at_its_period_and_amplitude(period):
    _, hr = images()
    amplitude = 4 / 255
    pattern = amplitude * (wave(period, 64) if period % 2 else wave(period, 64, across=False))
    excess = periodic_excess(hr + pattern, hr)
    rms = amplitude * (1 if period == 2 else 0.5**0.5)
    assert float(excess[period]) == pytest.approx(rms, rel=0.1)
    assert all(float(excess[p]) < 0.15 * rms for p in excess if p != period)


def test_a_pattern_that_the_reference_has_is_no_excess():
    _, hr = images()
    tiled = hr + 4 / 255 * wave(4, 64)
    assert float(periodic_excess(tiled, tiled)[4]) == 0
    assert float(periodic_excess(hr, tiled)[4]) < 0.2 / 255


def test_phase_locking_lowers_the_floor():
    """Detail that differs from image to image averages out over the batch; a drawn grid does not."""
    noise = 0.1 * torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    one = periodic_excess(0.5 + noise[:1], torch.full((1, 3, 64, 64), 0.5))[4]
    many = periodic_excess(0.5 + noise, torch.full((64, 3, 64, 64), 0.5))[4]
    assert float(many) < 0.25 * float(one)


def test_slopes_do_not_look_like_patterns():
    ramp = torch.linspace(0, 1, 64).expand(4, 3, 64, 64)
    assert all(float(v) < 0.1 / 255 for v in periodic_excess(ramp, torch.full_like(ramp, 0.5)).values())


def test_sizes_that_are_no_multiple_and_too_small():
    _, hr = make_pair(2, 50, 37)
    excess = periodic_excess(hr + 4 / 255 * wave(3, 50)[:, :37], hr)
    assert float(excess[3]) == pytest.approx(4 / 255 * 0.5**0.5, rel=0.15)
    small = hr[..., :20, :20]
    assert float(periodic_excess(small + 0.1 * wave(8, 20), small)[8]) == 0
    with pytest.raises(InputError, match="period.*1"):
        pattern_spectrum(hr, 1)


def test_parseval_and_divisors():
    pattern = (wave(2, 64) + 2 * wave(4, 64)).expand(1, 3, 64, 64)
    two, four = (pattern_spectrum(pattern, p).abs().square().sum((1, 2)) for p in (2, 4))
    torch.testing.assert_close(two, torch.ones(3), rtol=0.01, atol=0)
    torch.testing.assert_close(four, torch.full((3,), 2.0), rtol=0.01, atol=0)
