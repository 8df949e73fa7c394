"""Dots on the lattice of an up-sampling network: where they are, and what is none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sr_perceptual_loss.monitor.dots import dot_maps, dotted_share, worst_places


def photograph(count: int = 2, side: int = 96) -> torch.Tensor:
    """Noise that is strong in the upper half, as texture is."""
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    noise[..., side // 2 :, :] *= 0.2
    return (0.5 + 0.08 * noise).clamp(0, 1)


def with_dots(image: torch.Tensor, period: int, height: float = 0.12) -> torch.Tensor:
    """Dots of random sign at one phase of the period, in the upper left quarter of the first image."""
    image = image.clone()
    half = image.shape[-1] // 2
    spots = image[:1, :, 1:half:period, 2 % period : half : period]
    spots += height * (torch.randint(0, 2, spots.shape[-2:], generator=torch.Generator().manual_seed(1)) * 2.0 - 1)
    return image.clamp(0, 1)


SOFT = F.avg_pool2d(F.pad(photograph(), (1, 1, 1, 1), mode="reflect"), 3, 1)


@pytest.mark.parametrize("period", [2, 3, 4, 8])
def test_dots_are_seen_where_they_are(period):
    maps = dot_maps(with_dots(SOFT, period), photograph())
    assert dotted_share(maps) > 0.08 > 0.02 > dotted_share(dot_maps(SOFT, photograph()))
    image, y, x, value = worst_places(maps)[0]
    assert image == 0 and y < 52 and x < 52
    assert value == max(float(strength[0].max()) for strength in maps.values()) > 0.1
    assert worst_places(maps)[1][3] < 0.1, "the second image has none"


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image + 0.03 * torch.randn(image.shape, generator=torch.Generator().manual_seed(2)),
        lambda image: F.avg_pool2d(F.pad(image, (2, 2, 2, 2), mode="reflect"), 5, 1),
        lambda image: image.roll((1, 2), (2, 3)),
    ],
    ids=["equal", "noise", "blur", "shift"],
)
def test_what_is_no_lattice_has_no_dots(change):
    assert dotted_share(dot_maps(change(photograph()), photograph())) < 0.02


def test_a_lattice_of_the_reference_is_no_dot():
    real = with_dots(SOFT, 4)
    assert dotted_share(dot_maps(real, SOFT)) > 0.08
    assert dotted_share(dot_maps(real, real)) == dotted_share(dot_maps(SOFT, real)) == 0


def test_dots_do_not_depend_on_the_other_images():
    sr, hr = with_dots(SOFT, 4), photograph()
    for period, strength in dot_maps(sr, hr).items():
        torch.testing.assert_close(dot_maps(sr[:1], hr[:1])[period], strength[:1])
        assert strength.shape == (2, -(-(96 // period) // 2), -(-(96 // period) // 2))
