"""Phases of a period: means for grids, energies for dots."""

from __future__ import annotations

import pytest
import torch

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops import lattice
from sr_perceptual_loss.ops.lattice import INVISIBLE, dot_strength, gaussian_means, grid_share, lattice_contrast


def noise(side: int = 192) -> torch.Tensor:
    return 0.1 * torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def dots(signs: torch.Tensor, period: int = 4, height: float = 0.1) -> torch.Tensor:
    image = torch.zeros(1, 1, len(signs) * period, len(signs) * period, dtype=torch.float64)
    image[..., 1::period, 2::period] = height * signs
    return image


def test_smoothing_is_a_mean_at_every_step():
    ones = torch.ones(1, 2, 9, 10, dtype=torch.float64)
    torch.testing.assert_close(gaussian_means(ones, 1.5, 4), ones[..., :3, :3])
    # A line keeps its value at the centres where the window is not cut off.
    line = torch.arange(100, dtype=torch.float64).expand(1, 1, 100, 100)
    means = gaussian_means(line, 1.5, 4)
    torch.testing.assert_close(means[0, 0, 5, 3:-3], torch.arange(25, dtype=torch.float64)[3:-3] * 4 + 1.5)


@pytest.mark.parametrize(("sigma", "step"), [(1.1, 2), (3.0, 4), (4.0, 1)])
def test_wide_rows_are_smoothed_in_blocks_with_the_same_means(monkeypatch, sigma, step):
    image = noise()[..., :40, :]
    expected = gaussian_means(image, sigma, step)
    monkeypatch.setattr(lattice, "WIDE", 100)
    torch.testing.assert_close(gaussian_means(image, sigma, step), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("period", [3, 4])
def test_a_grid_is_all_share_and_noise_has_little(period):
    grid = dots(torch.ones(48, 48), period)
    grid = grid - grid.mean()
    energy = float(grid.square().mean())
    expected = energy / (energy + INVISIBLE**2)
    assert float(grid_share(grid, period).mean()) == pytest.approx(expected, rel=1e-6)
    assert float(grid_share(noise(), period).mean()) < 0.01


@pytest.mark.parametrize("period", [3, 4])
def test_dots_of_any_sign_have_contrast_and_noise_has_little(period):
    signs = torch.randint(0, 2, (48, 48), generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    image = dots(signs, period)
    energy = float(image.square().mean())
    expected = (period**2 - 1) ** 0.5 * energy / (energy + INVISIBLE**2)
    assert float(lattice_contrast(image, period).mean()) == pytest.approx(expected, rel=1e-6)
    assert float(lattice_contrast(noise(), period).mean()) < 0.25
    # Their sign averages out, so they are no grid.
    assert float(grid_share(image, period).mean()) < 0.02


@pytest.mark.parametrize("period", [3, 4])
def test_strength_of_dots_is_what_chance_and_the_reference_do_not_explain(period):
    signs = torch.randint(0, 2, (48, 48), generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    image = dots(signs, period)
    energy = float(image.square().mean())
    # Equal squares in all cells leave nothing to chance.
    expected = (period**2 - 1) * (energy / (energy + INVISIBLE**2)) ** 2 * energy**0.5
    found = dot_strength(image, torch.zeros_like(image), period)
    assert float(found.mean()) == pytest.approx(expected, rel=1e-6) and found.shape == (1, 1, 24, 24)
    assert float(dot_strength(image, image, period).max()) == pytest.approx(0, abs=1e-12)
    assert float(dot_strength(noise(), noise().flip(-1), period).mean()) < 1e-4


def test_flat_images_have_neither_and_their_gradient_is_finite():
    image = torch.zeros(1, 1, 32, 32, requires_grad=True)
    value = grid_share(image, 4).sum() + lattice_contrast(image, 4).sum()
    (gradient,) = torch.autograd.grad(value, image)
    assert float(value.detach()) < 0.1
    assert bool(torch.isfinite(gradient).all())


def test_too_small_images_are_refused():
    with pytest.raises(InputError, match="two cells"):
        grid_share(torch.zeros(1, 1, 7, 32), 4)
