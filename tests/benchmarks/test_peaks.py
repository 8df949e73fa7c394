from __future__ import annotations

import pytest
import torch
from trials.peaks import spectral_peaks

from sr_perceptual_loss import InputError
from sr_perceptual_loss.monitor.spectrum import periodic_excess


def noise(seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(2, 3, 192, 192, generator=torch.Generator().manual_seed(seed))


def test_white_noise_has_no_peaks():
    assert all(0.5 < float(value) < 2 for value in spectral_peaks(noise()).values())


@pytest.mark.parametrize("period", [2, 3, 4])
def test_a_grid_stands_out_at_its_period_only(period):
    grid = torch.zeros(2, 3, 192, 192)
    grid[..., ::period] = 0.1
    peaks = spectral_peaks(noise() + grid)
    assert float(peaks[period]) > 5
    # A comb of period 4 also has a harmonic at period 2.
    others = {2, 3, 4} - {period} - ({2} if period == 4 else set())
    assert all(float(peaks[p]) < 2 for p in others)


def test_a_grid_that_changes_its_sign_from_place_to_place_is_seen():
    signs = torch.randint(0, 2, (2, 1, 4, 4), generator=torch.Generator().manual_seed(1)).float() * 2 - 1
    signs = signs - signs.mean((2, 3), keepdim=True)
    place = signs.repeat_interleave(48, 2).repeat_interleave(48, 3)
    wave = torch.cos(torch.arange(192) * torch.pi / 2)
    image = noise() + 0.05 * place * wave
    assert float(spectral_peaks(image)[4]) > 5
    assert float(periodic_excess(image, noise())[4]) < 0.02


def test_bad_sizes_and_periods_are_refused():
    with pytest.raises(InputError, match="40x64.*48"):
        spectral_peaks(torch.rand(1, 3, 40, 64))
    with pytest.raises(InputError, match="5.*48"):
        spectral_peaks(torch.rand(1, 3, 64, 64), periods=(5,))
