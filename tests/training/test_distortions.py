"""All distortions alike: range, repeatability, independence of batch mates, sizes, order of the levels, refusals."""

from __future__ import annotations

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss._checks import InputError
from sr_perceptual_loss.data import kadid10k
from sr_perceptual_loss.training.distortions import DISTORTIONS, LEVELS, SR_DISTORTIONS, distort, distort_sr

ALL = [*DISTORTIONS, *SR_DISTORTIONS]
# Types whose result depends on the generator.
RANDOM = {3, 5, 11, 12, 13, 14, 15, 19, 20, 23, *range(113, 120), 110}
# Level 1 is the identity (up to rounding) there, and level 3 for type 18.
NEUTRAL = {(3, 1), (8, 1), (18, 3)}
SIGNED = {18, 25}


def photo(n=1, height=64, width=80, seed=0):
    """A picture with smooth parts, edges and detail that fills [0, 1]."""
    _, image = make_pair(n, height, width, seed=seed)
    image[..., : height // 2, width // 2 :] = 0.8 * image[..., : height // 2, width // 2 :].round() + 0.1
    image[..., 0, 0], image[..., 0, 1] = 0.0, 1.0
    return image


def apply(image, number, level, seed=0):
    function = distort if number in DISTORTIONS else distort_sr
    return function(image, number, level, torch.Generator().manual_seed(seed))


def psnr(a, b):
    return float(-10 * torch.log10((a - b).square().mean() + 1e-12))


def test_tables_are_whole():
    assert list(DISTORTIONS) == list(range(1, 26))
    assert list(SR_DISTORTIONS) == list(range(101, 120))
    assert [d.name for d in DISTORTIONS.values()] == list(kadid10k.DISTORTIONS)
    assert len({d.name for table in (DISTORTIONS, SR_DISTORTIONS) for d in table.values()}) == 44


@pytest.mark.parametrize("number", ALL)
def test_range_repeatability_and_change(number):
    image = photo()
    before = image.clone()
    for level in LEVELS:
        once = apply(image, number, level)
        assert once.shape == image.shape and once.dtype == image.dtype
        assert bool(torch.isfinite(once).all()) and float(once.min()) >= 0 and float(once.max()) <= 1
        changed = float((once - image).abs().max())
        assert changed < 1e-3 if (number, level) in NEUTRAL | {(1, 1)} else changed > 3e-3
    assert torch.equal(image, before), "the input was changed in place"
    assert torch.equal(once, apply(image, number, 5))
    other = apply(image, number, 5, seed=1)
    assert torch.equal(once, other) == (number not in RANDOM)


@pytest.mark.parametrize("number", ALL)
def test_an_image_does_not_depend_on_its_batch_mates(number):
    a, b = photo(seed=1), photo(seed=2)
    alone = apply(a, number, 4)
    in_batch = apply(torch.cat([a, b, a]), number, 4)
    # Convolutions of other batch sizes may sum in another order, and sharpening multiplies that (4e-6 on an AMD CPU).
    assert torch.allclose(in_batch[:1], alone, atol=1e-5)
    if number in RANDOM:
        assert not torch.equal(in_batch[0], in_batch[2]), "two images of a batch share their random numbers"
    else:
        assert torch.allclose(in_batch[2:], alone, atol=1e-5)


@pytest.mark.parametrize("number", ALL)
def test_odd_and_smallest_sizes(number):
    for height, width in ((48, 48), (51, 97)):
        result = apply(photo(1, height, width), number, 5)
        assert result.shape == (1, 3, height, width)
        assert float((result - photo(1, height, width)).abs().mean()) > 1e-3


@pytest.mark.parametrize("number", [n for n in ALL if n not in SIGNED])
def test_higher_level_is_farther_from_the_picture(number):
    # Patches and blocks are few: on a small picture, two levels may have the same number of them.
    image = photo(1, 384, 512) if number in (20, 23) else photo(1, 128, 144)
    values = [psnr(apply(image, number, level), image) for level in LEVELS]
    assert values == sorted(values, reverse=True)
    assert values[4] < values[0] - 1


def test_signed_types_run_from_plus_to_minus():
    image = 0.25 + 0.5 * photo(1, 96, 96)
    image[..., 0, 0], image[..., 0, 1] = 0.0, 1.0
    # The constant is added, then what lies beyond is stretched back: (x + .15 - .15) / (1 - .15).
    lighter = apply(image, 18, 1)
    assert torch.allclose(lighter[..., 2:, :], image[..., 2:, :] / 0.85, atol=1e-5)
    means = [float((apply(image, 18, level) - image).mean()) for level in LEVELS]
    assert means[0] > means[1] > 0.01 and means[3] < -0.01 and means[4] < means[3]
    assert means[2] == pytest.approx(0, abs=1e-6)
    contrasts = [float(apply(image, 25, level).std() / image.std()) for level in LEVELS]
    assert contrasts == sorted(contrasts, reverse=True)
    assert contrasts[0] > contrasts[2] > 1 > contrasts[3] > contrasts[4]


def test_by_name_and_number_and_double_precision():
    image = photo()
    generator = torch.Generator().manual_seed(3)
    named = distort(image, "white noise", 3, generator)
    assert torch.equal(named, apply(image, 11, 3, seed=3))
    assert not torch.equal(named, distort(image, "white noise", 3, generator)), "the generator did not move on"
    assert torch.equal(distort(image, "11", 3, torch.Generator().manual_seed(3)), named)
    double = apply(image.double(), 24, 3)
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), apply(image, 24, 3), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "level", "wanted"),
    [
        ("gausian blur", 1, "Did you mean 'gaussian blur'"),
        (26, 1, "25 contrast change"),
        (1, 0, "level: got 0, expected a whole number >= 1"),
        (1, 6, "level: got 6, expected 1 to 5"),
    ],
)
def test_unknown_type_or_level(kind, level, wanted):
    with pytest.raises(InputError, match=wanted):
        distort(photo(), kind, level, torch.Generator())


def test_images_that_are_refused():
    with pytest.raises(InputError, match="at least 48"):
        apply(photo(1, 47, 64), 1, 1)
    with pytest.raises(InputError, match="divide by 255"):
        apply(photo() * 255, 1, 1)
    with pytest.raises(InputError, match=r"use image\.unsqueeze"):
        apply(photo()[0], 1, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("number", ALL)
def test_same_picture_on_the_gpu(number):
    image = photo(2)
    expected = apply(image, number, 4)
    found = apply(image.cuda(), number, 4).cpu()
    # Codecs and quantisers may round single values to a neighbour.
    assert float((found - expected).abs().mean()) < 1e-3
