"""texture_stats: which changes of an image its parts measure, and which they ignore."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sr_perceptual_loss.critics.haarpsi import haarpsi
from sr_perceptual_loss.critics.texture_stats import TextureStats
from sr_perceptual_loss.critics.texture_stats.bands import pyramid
from sr_perceptual_loss.critics.texture_stats.measures import STATISTICS, measure, similarity
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops.lattice import gaussian_means


def texture(seed: int, side: int = 96) -> torch.Tensor:
    """Stationary noise with most energy at low frequencies, as photographs have; mean 0.5, deviation 0.15."""
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mixed = noise + 3 * gaussian_means(noise, 1.0, 1) + 9 * gaussian_means(noise, 3.0, 1)
    return 0.5 + 0.15 * mixed / mixed.std()


def softened(image: torch.Tensor, sigma: float = 1.2) -> torch.Tensor:
    return gaussian_means(image, sigma, 1)


def stats(image: torch.Tensor) -> dict[str, torch.Tensor]:
    levels = pyramid(image, 2)
    return measure(levels[0], levels[1], STATISTICS, 3.0)


def test_equal_images_score_one_and_nothing_scores_more():
    critic, image = TextureStats(), texture(0)
    assert float(critic.score(image, image)) == pytest.approx(1, abs=1e-12)
    for other in (softened(image), image + 0.02 * torch.randn_like(image), texture(1)):
        assert float(critic.score(other, image)) < 0.99


def test_black_and_flat_pairs_score_one_with_finite_gradients():
    for value in (0.0, 0.5, 1.0):
        sr = torch.full((1, 3, 64, 64), value, requires_grad=True)
        score = TextureStats().score(sr, torch.full((1, 3, 64, 64), value))
        score.sum().backward()
        assert float(score.detach()) == pytest.approx(1, abs=1e-5)
        assert bool(torch.isfinite(sr.grad).all())


def test_another_sample_of_the_texture_is_better_than_its_blur():
    """What separates it from SSIM: the right energy at the wrong place beats none at all."""
    hr = texture(0)
    low = softened(hr, 2.0)
    other = low + (texture(1) - softened(texture(1), 2.0))
    critic = TextureStats(structure_weight=0)
    assert float(critic.score(other, hr)) > 1.3 * float(critic.score(low, hr))


def test_haarpsi_keeps_texture_in_its_place():
    hr = texture(0)
    shuffled = hr.roll((32, 32), (2, 3))
    without = float(TextureStats(structure_weight=0).score(shuffled, hr))
    with_structure = float(TextureStats().score(shuffled, hr))
    assert with_structure < 0.6 * without
    half = float(TextureStats(structure_weight=1.0).score(shuffled, hr))
    assert half == pytest.approx((with_structure * without) ** 0.5, rel=1e-6)


def test_haarpsi_as_structure_is_the_product():
    sr, hr = softened(texture(0)), texture(0)
    product = TextureStats(structure_weight=0).score(sr, hr) * haarpsi(sr, hr) ** 2
    torch.testing.assert_close(TextureStats().score(sr, hr), product)


def test_energy_falls_with_blur_and_rises_with_noise():
    image = texture(0)
    sharp = stats(image)["energy"].mean()
    assert float(stats(softened(image))["energy"].mean()) < 0.5 * float(sharp)
    noisy = image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(3), dtype=image.dtype)
    assert float(stats(noisy)["energy"].mean()) > 1.04 * float(sharp)


def test_textured_places_weigh_more():
    """An image flat on the left: losing the texture on the right costs more the more the places are weighted."""
    hr = texture(0)
    hr[..., :48] = 0.5 + 0.02 * (hr[..., :48] - 0.5)
    sr = hr.clone()
    sr[..., 48:] = softened(hr)[..., 48:]
    even, weighted = (float(TextureStats(structure_weight=0, weighting=w).score(sr, hr)) for w in (0.0, 1.0))
    assert weighted < even - 0.05


def test_grain_is_not_missed():
    """Noise of two 8-bit steps in the reference: an image without it keeps nearly all of its score."""
    smooth = gaussian_means(texture(0), 4.0, 1)
    grainy = smooth + 0.008 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0), dtype=smooth.dtype)
    critic = TextureStats(structure_weight=0, statistics=("energy",))
    assert float(critic.score(smooth, grainy)) > 0.9


def test_shape_separates_sparse_from_dense_detail():
    dense = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sparse = dense * (torch.rand(dense.shape, generator=torch.Generator().manual_seed(1)) < 0.05)
    level = stats(0.5 + 0.1 * sparse)["shape"][:, :5].mean(), stats(0.5 + 0.1 * dense)["shape"][:, :5].mean()
    # Mean |x| over root mean square of a normal variable is sqrt(2 / pi).
    assert float(level[1]) == pytest.approx((2 / torch.pi) ** 0.5, abs=0.02)
    assert float(level[0]) < 0.7


def test_shape_tells_bright_dots_from_dark_ones():
    dots = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    dots[..., 4::8, 4::8] = 0.5
    bright, dark = stats(0.4 + dots)["shape"][:, 5].mean(), stats(0.6 - dots)["shape"][:, 5].mean()
    assert float(bright) == pytest.approx(-float(dark), rel=1e-6)
    assert float(bright) > 0.3


def test_no_band_measures_a_grid_of_period_2():
    """So that energy at the Nyquist frequency is never rewarded."""
    image = texture(0)
    grid = torch.zeros_like(image)
    grid[..., ::2, ::2] = 0.1
    inside = (..., slice(2, -2), slice(2, -2))
    for name in ("energy", "colour"):
        torch.testing.assert_close(stats(image + grid)[name][inside], stats(image)[name][inside], rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["grid", "dots"])
def test_patterns_tied_to_the_lattice_are_measured_by_their_statistic(kind):
    """A grid has means that differ between phases, dots of changing sign have energies that differ."""
    hr, pattern = softened(texture(0)), torch.zeros(1, 3, 96, 96, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (24, 24), generator=generator) * 2.0 - 1 if kind == "dots" else torch.ones(24, 24)
    pattern[..., ::4, ::4] = 0.1 * signs
    name = "lattice" if kind == "dots" else "grid"
    blind = TextureStats(structure_weight=0, statistics=("energy",))
    seeing = TextureStats(structure_weight=0, statistics=("energy", name))
    lost = float(blind.score(hr + pattern, hr) - seeing.score(hr + pattern, hr))
    assert lost > 0.15
    # One-sided: an image that has less of it than the reference loses nothing.
    assert float(seeing.score(hr, hr + pattern)) > float(blind.score(hr, hr + pattern)) - 0.02


def test_orientation_tells_the_diagonals_apart():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    wave = 0.5 + 0.2 * torch.sin((x + y) / 2)
    image = wave.expand(1, 3, 64, 64).double()
    # Along one diagonal the horizontal and the vertical difference agree, along the other they are opposite.
    assert float(stats(image)["orientation"][:, 0].mean()) > 0.9
    assert float(stats(image.flip(-1))["orientation"][:, 0].mean()) < -0.9


def test_colour_is_measured_and_grey_has_none():
    grey = texture(0).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert float(stats(grey)["colour"].max()) == pytest.approx(1e-3, rel=0.02)
    tinted = grey.clone()
    tinted[:, 0] += 0.1 * torch.randn(96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(stats(tinted)["colour"].mean()) > 0.004


def test_similarity_is_symmetric_and_saturates():
    a, b = stats(texture(0)), stats(softened(texture(0)))
    one, two = similarity(a, b, 0.004), similarity(b, a, 0.004)
    for name in one:
        if not name.startswith(("grid", "lattice")):
            torch.testing.assert_close(one[name], two[name])
        assert 0 < float(one[name].min()) <= float(one[name].max()) <= 1


@pytest.mark.parametrize("options", [{"structure_weight": 0}, {"weighting": 0}, {"scales": 4}, {"statistics": ()}])
def test_variants_prefer_gt_and_have_gradients_that_sharpen(options):
    critic, hr = TextureStats(**options), texture(0)
    sr = softened(hr).requires_grad_()
    score = critic.score(sr, hr)
    (gradient,) = torch.autograd.grad(score.sum(), sr)
    step = sr.detach() + 0.01 * gradient / gradient.abs().max()
    assert float(score.detach()) < float(critic.score(step, hr)) < float(critic.score(hr, hr))
    assert F.cosine_similarity(gradient.flatten(), (hr - sr.detach()).flatten(), 0) > 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"scales": 5}, InputError),
        ({"statistics": ("energie",)}, InputError),
        ({"statistics": "energy"}, InputError),
        ({"structure_weight": -1}, InputError),
    ],
)
def test_wrong_options_fail_at_construction(options, error):
    with pytest.raises(error):
        TextureStats(**options)
