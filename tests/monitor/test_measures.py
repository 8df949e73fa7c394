from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pairs import make_pair

from sr_perceptual_loss.monitor.measures import FIDELITY, average_over_ranks, colour_shift, fidelity, measure

_, HR = make_pair(4, 64, 64, seed=1)
BLURRED = F.interpolate(F.avg_pool2d(HR, 4), size=64, mode="bilinear", align_corners=False)


def test_fidelity_values_and_gains():
    same = fidelity(HR, HR)
    assert same["psnr"][0] == pytest.approx(60) and same["ssim"][0] == pytest.approx(1, abs=1e-5)
    assert same["haarpsi"][0] == pytest.approx(1, abs=1e-3) and same["dists"][0] == pytest.approx(1, abs=1e-3)
    assert all(gain == pytest.approx(0, abs=1e-4) for _, gain in fidelity(BLURRED, HR).values())
    noisy = HR.clamp(0.1, 0.9) + 0.1
    expected = -10 * (noisy.clamp(0, 1) - HR).square().mean((1, 2, 3)).log10().mean()
    assert fidelity(noisy, HR, ["psnr"])["psnr"][0] == pytest.approx(float(expected))


def test_measures_that_need_larger_images_are_left_out():
    assert set(fidelity(HR[..., :8, :8], HR[..., :8, :8])) == {"psnr"}
    assert set(fidelity(HR[..., :12, :12], HR[..., :12, :12])) == {"psnr", "ssim"}


def test_equal_images_have_no_excess():
    measured, shown, _ = measure(HR, HR, {}, {})
    zero = {name: value for name, value in measured.items() if name not in FIDELITY}
    periods = ("period_2", "period_3", "period_4", "period_8")
    assert zero == dict.fromkeys(("hf_over", "hf_under", *periods, "dots", "colour"), 0)
    assert set(shown) == {*FIDELITY, "overshoot", "dots"} and shown["overshoot"] == 0


def test_blur_noise_and_a_grid_have_their_measures():
    noisy = HR + 0.1 * torch.randn(HR.shape, generator=torch.Generator().manual_seed(0))
    grid = HR * 0.5 + 0.25 + 4 / 255 * torch.cos(2 * math.pi * torch.arange(64) / 4)
    blurred, noise = measure(BLURRED, HR, {}, {})[0], measure(noisy, HR, {}, {})[0]
    assert blurred["hf_under"] > 1 and blurred["hf_over"] == 0
    assert noise["hf_over"] > 1 and noise["hf_under"] == 0
    assert measure(grid, HR * 0.5 + 0.25, {}, {})[0]["period_4"] == pytest.approx(4 * 0.5**0.5, rel=0.1)


def test_scores_are_relative_to_the_reference():
    off = (*FIDELITY, "hf", "grid", "dots", "colour")
    scores, gt_scores = {"a": torch.tensor([1.0, 3.0])}, {"a": torch.tensor([2.0, 2.0])}
    assert measure(HR, HR, scores, gt_scores, off)[0] == {
        "over_gt a": 0.5, "score a": 0.0, "spread a": pytest.approx(1.0)
    }  # fmt: skip
    assert set(measure(HR, HR, scores, gt_scores, (*off, "over_gt"))[0]) == {"score a", "spread a"}
    assert measure(HR, HR, {"a": torch.tensor([1.0])}, {}, off)[0] == {"score a": 1.0, "spread a": 0.0}


def test_colour_shift_is_a_cast_or_a_change_of_saturation():
    image = 0.3 + 0.4 * BLURRED
    cast = torch.tensor([3.0, 0.0, 0.0]).view(3, 1, 1) / 255
    grey = image.mean(1, keepdim=True)
    torch.testing.assert_close(
        colour_shift(grey + cast, grey.expand_as(image)), torch.full((4,), 3.0), atol=1e-4, rtol=0
    )
    areas = F.avg_pool2d(image, 8)
    expected = 255 * 0.2 * (areas.amax(1) - areas.amin(1)).mean((1, 2))
    torch.testing.assert_close(colour_shift(grey + 1.2 * (image - grey), image), expected, atol=1e-3, rtol=0)


@pytest.fixture
def two_ranks(monkeypatch):
    """Two ranks; the given numbers are what the other one adds to a, b, and twice to the count."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)

    def set_other(*packed):
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda t: t.add_(torch.tensor(packed)))

    return set_other


def test_ranks_agree_on_means(two_ranks):
    values, cpu = {"b": 3.0, "a": 1.0}, torch.device("cpu")
    two_ranks(3.0, 1.0, 1.0, 1.0)
    assert average_over_ranks(values, cpu) == {"a": 2.0, "b": 2.0}
    assert average_over_ranks(dict.fromkeys("ab", math.nan), cpu, counts=False) == {"a": 3.0, "b": 1.0}
    two_ranks(0.0, 0.0, 0.0, 0.0)
    assert all(math.isnan(value) for value in average_over_ranks(values, cpu, counts=False).values())


def test_one_process_keeps_its_values():
    values = {"a": 1 / 3}
    assert average_over_ranks(values, torch.device("cpu")) == values
