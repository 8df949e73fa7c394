"""Entries against a network: strict, and the message names what is wrong (fault matrix 56, 57)."""

from __future__ import annotations

import pytest
import torch

from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights.matching import drop_aliases, load_state, own_entries


@pytest.fixture
def state(small):
    return {key: value.clone() for key, value in own_entries(small).items()}


def test_fills_the_aliases_and_both_names(small_class, state):
    critic = small_class()
    load_state(critic, state, "x")
    assert critic.again[0].weight is critic.body[0].weight
    assert torch.equal(critic.state_dict()["again.0.weight"], state["body.0.weight"])


@pytest.mark.fault(56)
def test_counts_and_first_five_names(small_class, state):
    keys = list(state)
    wrong = {f"x{i}": torch.zeros(1) for i in range(7)}
    wrong[keys[0]] = torch.zeros(5, 5)
    critic = small_class()
    before = {k: v.clone() for k, v in critic.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_state(critic, wrong, "some/file")
    text = str(error.value)
    assert text.startswith("some/file: does not fit the critic 'small' (7 entries expected, 8 found)")
    assert f"6 missing: {', '.join(keys[1:6])}, ...;" in text
    assert "7 extra: x0, x1, x2, x3, x4, ...;" in text
    assert "1 mis-shaped: body.0.weight got (5, 5) expected (2, 3, 3, 3)." in text
    assert "Nothing was loaded" in text
    assert all(torch.equal(v, before[k]) for k, v in critic.state_dict().items())


def test_dtypes_floats_are_cast_and_kinds_are_not_mixed(small_class, state):
    critic = small_class()
    load_state(critic, {k: v.double() if v.is_floating_point() else v for k, v in state.items()}, "x")
    assert critic.body[0].weight.dtype == torch.float32
    state["body.0.bias"] = state["body.0.bias"].long()
    words = r"1 of another dtype: body\.0\.bias got torch\.int64 expected torch\.float32"
    with pytest.raises(WeightsError, match=words):
        load_state(critic, state, "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_non_finite_also_after_the_cast(small_class, state, value):
    state["body.0.bias"] = torch.tensor([0.0, value], dtype=torch.float64)
    with pytest.raises(WeightsError, match=r"x: 1 entry: body\.0\.bias with NaN or infinity"):
        load_state(small_class(), state, "x")


def test_suggestion_names_another_critic_only(small_class):
    seen = []

    def suggest(keys):
        seen.append(set(keys))
        return "rqi_maniqa"

    with pytest.raises(WeightsError, match="look like the critic 'rqi_maniqa': use that name"):
        load_state(small_class(), {"vit.cls": torch.zeros(1)}, "x", suggest=suggest)
    assert seen == [{"vit.cls"}]
    for nothing in (None, "small"):
        with pytest.raises(WeightsError) as error:
            load_state(small_class(), {}, "x", suggest=lambda keys, answer=nothing: answer)
        assert "look like" not in str(error.value)


def test_alias_must_be_equal():
    kept = {"body.w": torch.ones(2), "again.w": torch.ones(2)}
    assert list(drop_aliases(kept, (("again.", "body."),), "x")) == ["body.w"]
    for other in (torch.zeros(2), torch.ones(3), torch.ones(2).half()):
        with pytest.raises(WeightsError, match=r"1 differing pair: again\.w and body\.w"):
            drop_aliases(kept | {"again.w": other}, (("again.", "body."),), "x")


def test_alias_without_its_twin_is_reported_as_extra(small_class):
    with pytest.raises(WeightsError, match=r"1 extra: again\.9\.w"):
        load_state(small_class(), {"again.9.w": torch.ones(1)}, "x")
