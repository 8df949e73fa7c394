"""Prepared forms against the published formulation in float64."""

from __future__ import annotations

import pytest
from speed.equality import FULL_SIZES, equality
from speed.reference import has_reference_form
from sr_perceptual_loss.benchmarking import equality as module

from sr_perceptual_loss import InputError
from sr_perceptual_loss.critics import list_critics


def assert_equal(found):
    assert found.score <= 1e-10 and found.slope <= 1e-10
    # Scores and gradients that say something, and sampling away from whole pixels.
    assert found.change > 1e-5 and found.slope_norm > 1e-6
    assert found.offsets is None or found.offsets > 0.3


def test_every_critic_with_a_reference_form_has_a_size():
    assert set(FULL_SIZES) == {name for name in list_critics() if has_reference_form(name)}


@pytest.mark.parametrize("name", FULL_SIZES)
def test_tiny(name):
    side = {"rqi_ahiq": 32, "rqi_maniqa": 32}.get(name, 64)
    found = equality(name, side, 2, critic_size="tiny")
    assert (found.critic, found.side, found.batch) == (name, side, 2)
    assert_equal(found)
    assert (found.offsets is None) == (name not in ("efficient_pban", "rqi_ahiq"))


def test_a_difference_is_found(monkeypatch):
    real = module.reference_form

    def wrong(critic):
        form = real(critic)
        plain = form.score
        form.score = lambda sr, hr: plain(sr, hr) + 1e-6 * sr.mean((1, 2, 3))
        return form

    monkeypatch.setattr(module, "reference_form", wrong)
    found = equality("rqi_topiq", 64, critic_size="tiny")
    assert 1e-7 < found.score < 1e-6 and found.slope > 1e-10


def test_a_formula_has_none():
    with pytest.raises(InputError, match="no reference formulation"):
        equality("haarpsi", 64)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), FULL_SIZES.items())
def test_full_size(name, side):
    assert_equal(equality(name, side))
