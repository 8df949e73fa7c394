"""augment_pair: the same change of both images, drawn from a private generator."""

from __future__ import annotations

import pytest
import torch

from sr_perceptual_loss._checks import InputError
from sr_perceptual_loss.losses.augment import AugmentPlan, augment_pair


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pair():
    draw = generator(5)
    return torch.rand(2, 3, 40, 48, generator=draw), torch.rand(2, 3, 40, 48, generator=draw)


def test_off_returns_the_same_tensors(pair):
    sr, hr = augment_pair(*pair, AugmentPlan(), generator())
    assert sr is pair[0]
    assert hr is pair[1]


def test_shift_cuts_the_same_region_out_of_both(pair):
    plan, places = AugmentPlan(shift=5), set()
    for seed in range(40):
        sr, hr = augment_pair(*pair, plan, generator(seed))
        assert sr.shape == (2, 3, 35, 43)
        found = [
            (t, x)
            for t in range(6)
            for x in range(6)
            if torch.equal(sr, pair[0][..., t : t + 35, x : x + 43])
            and torch.equal(hr, pair[1][..., t : t + 35, x : x + 43])
        ]
        assert len(found) == 1
        places.add(found[0])
    assert {t for t, _ in places} == set(range(6))
    assert {x for _, x in places} == set(range(6))


def test_equal_images_stay_equal_under_all_changes(pair):
    plan = AugmentPlan(noise=0.05, shift=3, rescale=(0.6, 0.9))
    sr, hr = augment_pair(pair[0], pair[0].clone(), plan, generator())
    torch.testing.assert_close(sr, hr)
    assert min(sr.shape[-2:]) < 35


def test_noise_has_the_stated_deviation_and_rescale_the_stated_range(pair):
    sr, _ = augment_pair(*pair, AugmentPlan(noise=0.1), generator())
    assert float((sr - pair[0]).std()) == pytest.approx(0.1, rel=0.05)
    sides = [augment_pair(*pair, AugmentPlan(rescale=(0.5, 1.0)), generator(s))[0].shape[-2] for s in range(30)]
    assert min(sides) >= 20
    assert max(sides) <= 40
    assert len(set(sides)) > 8


def test_gradient_reaches_sr_and_the_global_generator_is_untouched(pair):
    sr = pair[0].clone().requires_grad_()
    before = torch.get_rng_state()
    out, _ = augment_pair(sr, pair[1], AugmentPlan(noise=0.1, shift=2, rescale=(0.7, 0.8)), generator())
    out.sum().backward()
    assert torch.equal(before, torch.get_rng_state())
    assert float(sr.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nois": 0.1}, "noise"),
        ({"rescale": 0.5}, "two factors"),
        ({"rescale": [1.0, 0.5]}, "smaller factor first"),
        ({"noise": -1}, "augment.noise"),
        ({"phases": 0}, "augment.phases"),
    ],
)
def test_wrong_options_fail_with_the_cure(given, message):
    with pytest.raises(InputError, match=message):
        AugmentPlan.of(given)


def test_images_smaller_than_the_shift_are_refused(pair):
    with pytest.raises(InputError, match="smaller shift"):
        augment_pair(*pair, AugmentPlan(shift=40), generator())
