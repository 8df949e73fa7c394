"""Losses at equal PSNR cost: interpolation, intervals, the table; trainings with a GAN continue exactly."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import trials.adversarial
from PIL import Image
from trials.adversarial import Recipe, patch_discriminator, train
from trials.equal_cost import at_cost, markdown
from trials.networks import SmallSR
from trials.training import Photographs

from sr_perceptual_loss import CriticLoss


def pictures(psnr: float, lpips: float) -> dict[str, dict[str, float]]:
    """Two pictures with these means."""
    return {
        "a": {"psnr_y": psnr - 2, "lpips": lpips - 0.1},
        "b": {"psnr_y": psnr + 2, "lpips": lpips + 0.1},
    }


#: Steps of the discriminator alone, here.
ALONE = 2
CONTROL = {0.0: [pictures(30.0, -0.5)]}


def test_judges_are_interpolated_at_the_cost():
    curves = {("none", 0.0): CONTROL, ("dists", 0.0): {0.5: [pictures(29.8, -0.4)], 0.7: [pictures(29.4, -0.3)]}}
    table = at_cost(curves, 0.1)
    assert table["dists"]["lpips"][0] == pytest.approx(-0.45)
    assert at_cost(curves, 0.4)["dists"]["lpips"][0] == pytest.approx(-0.35)
    assert table["L1"]["lpips"][0] == pytest.approx(-0.5)
    value, low, high = table["dists"]["lpips"]
    assert low < value < high


def test_a_cost_that_no_row_reaches_is_a_dash():
    curves = {("none", 0.0): CONTROL, ("dists", 0.0): {0.5: [pictures(29.8, -0.4)]}}
    table = at_cost(curves, 1.0)
    assert math.isnan(table["dists"]["lpips"][0])
    assert "| dists | - |" in markdown(table, 1.0)


def test_a_curve_with_a_gan_starts_at_the_gan_alone():
    curves = {
        ("none", 0.0): CONTROL,
        ("none", 0.006): {0.0: [pictures(29.5, -0.4)]},
        ("dists", 0.006): {0.5: [pictures(29.0, -0.2)]},
    }
    assert math.isnan(at_cost(curves, 0.25)["dists + GAN"]["lpips"][0])
    assert at_cost(curves, 0.75)["dists + GAN"]["lpips"][0] == pytest.approx(-0.3)
    assert at_cost(curves, 0.25)["GAN"]["lpips"][0] == pytest.approx(-0.45)


def test_the_mean_over_seeds_counts_and_own_judges_are_in_brackets():
    curves = {("none", 0.0): CONTROL, ("lpips", 0.0): {0.5: [pictures(29.9, -0.4), pictures(29.7, -0.2)]}}
    table = at_cost(curves, 0.2)
    assert table["lpips"]["lpips"][0] == pytest.approx(-0.3)
    row = next(line for line in markdown(table, 0.2).splitlines() if line.startswith("| lpips"))
    assert "(-0.300 [" in row


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(trials.adversarial, "ALONE", ALONE)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels = (F.interpolate(image, size=(96, 96), mode="bicubic").clamp(0, 1)[0] * 255).byte().permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(folder / "p.png")
    return Photographs(folder)


def trained(photographs: Photographs, recipe: Recipe, state, stop: int | None = None) -> torch.nn.Module:
    """A small network after the recipe; ``stop``: interrupted after that step."""
    torch.manual_seed(0)
    network = SmallSR("shuffle", width=8, blocks=1)

    def progress(step: int, steps: int, value: float) -> None:
        if step == stop:
            raise KeyboardInterrupt

    train(network, CriticLoss("haarpsi"), recipe, photographs, state, progress, every=4)
    return network


def test_an_interrupted_training_continues_exactly(photographs, tmp_path):
    recipe = Recipe(weight=0.1, gan=0.01, steps=ALONE + 8, batch=1, side=32)
    whole = trained(photographs, recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(photographs, recipe, tmp_path / "cut", stop=ALONE + 5)
    again = trained(photographs, recipe, tmp_path / "cut")
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_network_waits_for_the_discriminator(photographs, tmp_path):
    torch.manual_seed(0)
    start = SmallSR("shuffle", width=8, blocks=1)
    recipe = Recipe(gan=0.01, steps=ALONE, batch=1, side=32)
    for a, b in zip(trained(photographs, recipe, tmp_path / "s").parameters(), start.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_discriminator_gives_logits_of_patches():
    assert patch_discriminator()(torch.rand(2, 3, 32, 32)).shape == (2, 1, 8, 8)
