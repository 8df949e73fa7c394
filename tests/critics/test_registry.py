from __future__ import annotations

import pytest
import torch
from pairs import make_pair
from tiny_critics import CRITICS

from sr_perceptual_loss import (
    Critic,
    CriticCard,
    InputError,
    SizeRule,
    UnknownNameError,
    WeightsError,
    create_critic,
    get_card,
    list_critics,
    register_critic,
    save_weights,
)
from sr_perceptual_loss.critics import registry
from sr_perceptual_loss.critics.registry import critic_class, which_critic


def test_the_critics_of_the_package():
    assert {"efficient_pban", "haarpsi", "rqi_ahiq", "rqi_maniqa", "rqi_topiq", "texture_stats"} <= set(CRITICS)


@pytest.mark.parametrize("name", CRITICS)
def test_a_card_says_what_the_critic_is_for(name):
    card = get_card(name)
    facts = (card.learned_from, card.cost, card.good_at, card.bad_at)
    assert all(0 < len(fact) <= 50 for fact in facts)
    assert "not stated" not in facts
    assert not card.as_loss or card.as_loss.endswith(".")


def test_a_misspelt_critic_gets_the_nearest_name():
    with pytest.raises(UnknownNameError) as error:
        create_critic("rqi_maniga")
    assert "Did you mean 'rqi_maniqa'?" in str(error.value)
    with pytest.raises(InputError, match="critic: got 3"):
        create_critic(3)


def test_random_weights_must_be_explicit():
    with pytest.raises(WeightsError, match="weights"):
        create_critic("efficient_pban")
    with pytest.raises(WeightsError, match=r"rqi_weights\.pt"):
        create_critic("rqi_maniqa")
    assert create_critic("tiny_rqi_maniqa", weights=None).config["side"] == 32


def test_a_formula_refuses_weights():
    with pytest.raises(WeightsError, match="has no weights"):
        create_critic("haarpsi", weights="official")
    assert create_critic("haarpsi", weights=None).card.name == "haarpsi"


class _Mean(Critic):
    card = CriticCard("mean_test", "none", SizeRule(minimum=8), (0.0, 1.0), relative=False, needs_weights=False)

    def _encode_target(self, hr):
        return (hr.mean((1, 2, 3)),)

    def _compare(self, sr, hr, target):
        return 1 - (sr.mean((1, 2, 3)) - target[0]).abs()


@pytest.fixture
def _clean_registry():
    before = dict(registry._CRITICS)
    yield
    registry._CRITICS.clear()
    registry._CRITICS.update(before)


@pytest.mark.usefixtures("_clean_registry")
def test_registering_twice_is_fine_and_a_clash_is_not():
    register_critic(_Mean)
    register_critic(_Mean)
    assert "mean_test" in list_critics() and get_card("mean_test") is _Mean.card

    class Other(_Mean):
        pass

    with pytest.raises(InputError, match="already registered"):
        register_critic(Other)


def test_an_unregistered_critic_works_as_it_is():
    sr, hr = make_pair(2, 16, 16)
    torch.testing.assert_close(_Mean().score(sr, hr), 1 - (sr.mean((1, 2, 3)) - hr.mean((1, 2, 3))).abs())


def test_tiny_is_the_critic_itself_by_default():
    assert type(_Mean.tiny()) is _Mean and _Mean().inference_form().card is _Mean.card


def test_which_critic_names_the_nearest_layout():
    keys = critic_class("tiny_rqi_topiq")().state_dict()
    assert which_critic(keys) in ("rqi_topiq", "tiny_rqi_topiq")
    assert which_critic(["a.weight"]) is None


def test_a_file_of_another_critic_is_refused(tmp_path):
    path = tmp_path / "topiq.safetensors"
    save_weights(create_critic("tiny_rqi_topiq", weights=None), path)
    with pytest.raises(WeightsError, match="'tiny_rqi_topiq', not 'tiny_rqi_maniqa'"):
        create_critic("tiny_rqi_maniqa", weights=path)


def test_size_rule():
    rule = SizeRule(minimum=32, multiple_of=8)
    assert rule.accepts(32, 40) and not rule.accepts(32, 36) and not rule.accepts(24, 40)
    assert rule.describe() == "sides >= 32, multiples of 8"
    with pytest.raises(InputError, match=r"x: got 100x224, takes exactly 224x224.*gt_size: 224"):
        SizeRule(fixed=224).check(100, 224, "x")


def test_creating_a_critic_preserves_the_global_random_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    create_critic("tiny_efficient_pban", weights=None)
    assert torch.equal(before, torch.get_rng_state())
