"""Entries against a network: strict, and the message names what is wrong (fault matrix 56, 57)."""

from __future__ import annotations

import pytest
import torch

from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights.matching import drop_aliases, load_state, stored_entries


@pytest.fixture
def state(small):
    return {key: value.clone() for key, value in stored_entries(small).items()}


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
    with pytest.raises(WeightsError, match=r"some/file.*'small'.*7 entries expected, 8 found") as error:
        load_state(critic, wrong, "some/file")
    for words in (
        f"5 missing: {', '.join(k for k in keys[1:] if not k.endswith('num_batches_tracked'))};",
        "7 extra: x0, x1, x2, x3, x4, ...",
        "1 mis-shaped: body.0.weight got (5, 5) expected (2, 3, 3, 3)",
    ):
        assert words in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in critic.state_dict().items())


def test_floats_are_cast_and_kinds_of_dtype_are_not_mixed(small_class, state):
    critic = small_class()
    load_state(critic, {k: v.double() if v.is_floating_point() else v for k, v in state.items()}, "x")
    assert critic.body[0].weight.dtype == torch.float32
    state["body.0.bias"] = state["body.0.bias"].long()
    with pytest.raises(WeightsError, match=r"body\.0\.bias got torch\.int64 expected torch\.float32"):
        load_state(critic, state, "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_non_finite_also_after_the_cast(small_class, state, value):
    state["body.0.bias"] = torch.tensor([0.0, value], dtype=torch.float64)
    with pytest.raises(WeightsError, match=r"x: 1 with NaN or infinity: body\.0\.bias"):
        load_state(small_class(), state, "x")


def test_suggestion_names_another_critic_only(small_class):
    def message(answer):
        with pytest.raises(WeightsError) as error:
            load_state(small_class(), {"vit.cls": torch.zeros(1)}, "x", suggest=lambda keys: answer)
        return str(error.value)

    assert "'rqi_maniqa'" in message("rqi_maniqa")
    assert message(None) == message("small")


def test_aliases(small_class):
    state, aliases = {"body.w": torch.ones(2), "again.w": torch.ones(2)}, (("again.", "body."),)
    assert list(drop_aliases(state, aliases, "x")) == ["body.w"]
    for other in (torch.zeros(2), torch.ones(3), torch.ones(2).half()):
        with pytest.raises(WeightsError, match=r"again\.w and body\.w differ"):
            drop_aliases(state | {"again.w": other}, aliases, "x")
    with pytest.raises(WeightsError, match=r"1 extra: again\.9\.w"):  # without its twin
        load_state(small_class(), {"again.9.w": torch.ones(1)}, "x")


def test_what_torch_takes_with_strict_is_taken(small_class, state):
    """No counters of batches; counters as numbers with one dimension, or floating, as averaging codes leave them."""
    name, critic = "body.1.num_batches_tracked", small_class()
    for counter, expected in ((None, 0), (torch.tensor([7]), 7), (torch.tensor(7.0), 7)):
        given = {k: v for k, v in state.items() if k != name} | ({} if counter is None else {name: counter})
        small_class().load_state_dict({**given, **{k.replace("body", "again"): v for k, v in given.items()}})
        critic = small_class()
        load_state(critic, given, "x")
        assert int(critic.body[1].num_batches_tracked) == expected
        assert torch.equal(critic.body[0].weight, state["body.0.weight"])
    with pytest.raises(WeightsError, match="num_batches_tracked"):
        load_state(critic, state | {name: torch.zeros(2)}, "x")
