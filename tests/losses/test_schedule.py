from __future__ import annotations

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import CriticLoss, EfficientPBANLoss, InputError, RQILoss, SSIMLoss
from sr_perceptual_loss.losses.schedule import Schedule


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [1] * 8),
        ({"start": 3}, [0, 0, 0, 1, 1, 1, 1, 1]),
        ({"start": 2, "ramp": 4}, [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]),
        ({"end": 5}, [1, 1, 1, 1, 1, 0, 0, 0]),
        ({"every": 3}, [1, 0, 0, 1, 0, 0, 1, 0]),
        ({"start": 1, "ramp": 2, "end": 7, "every": 2}, [0, 0, 0.5, 0, 1, 0, 1, 0]),
    ],
)
def test_factor(fields, expected):
    assert [Schedule(**fields).factor(i) for i in range(8)] == expected


def test_height_ignores_every_and_end():
    schedule = Schedule(start=2, ramp=4, end=5, every=3)
    assert [schedule.ramp_factor(i) for i in (0, 4, 5, 100)] == [0, 0.5, 0.75, 1]


def test_of_takes_what_yaml_delivers():
    assert Schedule.from_config(None) == Schedule() and Schedule.from_config(None).constant
    assert Schedule.from_config({"start": "1e3", "ramp": 5.0, "end": None}) == Schedule(1000, 5)
    same = Schedule(every=2)
    assert Schedule.from_config(same) is same and not same.constant


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"stat": 1}, "schedule: .*stat.*start"),
        ({"start": -1}, "schedule.start: got -1"),
        ({"ramp": "soon"}, "schedule.ramp: .*soon"),
        ({"every": 0}, "schedule.every: got 0"),
        ({"start": 10, "end": 10}, "end 10 is not after start 10"),
        (5000, "schedule: got 5000, expected a mapping"),
    ],
)
def test_bad_values_name_the_key(value, words):
    with pytest.raises(InputError, match=words):
        Schedule.from_config(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda **k: SSIMLoss(**k),
        lambda **k: CriticLoss("haarpsi", **k),
        lambda **k: RQILoss("tiny_rqi_maniqa", weights=None, **k),
        lambda **k: EfficientPBANLoss("tiny_efficient_pban", weights=None, **k),
    ],
    ids=["ssim", "critic", "rqi", "pban"],
)
def test_the_factor_multiplies_the_weight(make):
    loss = make(loss_weight=0.4, schedule={"start": 10, "ramp": 4})
    side = getattr(getattr(loss, "critic", None), "input_size", None)
    side = (side.fixed if side else None) or 32
    sr, hr = make_pair(2, side, side)
    values = []
    for iteration in (11, 12, 14):
        loss.step(iteration)
        values.append(loss(sr, hr))
    torch.testing.assert_close(values[0] * 4, values[2])
    torch.testing.assert_close(values[1] * 2, values[2])
    assert values[2] != 0 and loss.terms["loss"] == values[2].detach()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_factor_of_zero_computes_nothing_and_stays_on_the_graph(reduction, monkeypatch):
    loss = CriticLoss("haarpsi", reduction=reduction, schedule={"start": 5})
    sr, hr = make_pair(3, 32, 32)
    loss.step(5)
    loss(sr, hr)
    keys = set(loss.terms)
    monkeypatch.setattr(loss.critic, "_compare", lambda *a: pytest.fail("the critic was called"))
    loss.step(4)
    sr = (sr * float("nan")).requires_grad_()
    value = loss(sr, hr)
    assert value.shape == ((3,) if reduction == "none" else ()) and bool((value == 0).all())
    value.sum().backward()
    assert bool((sr.grad == 0).all())
    assert set(loss.terms) == keys and all(v == 0 and v.dim() == 0 for v in loss.terms.values())


def test_without_an_iteration_it_says_what_to_do():
    loss = SSIMLoss(schedule={"start": 5})
    with pytest.raises(InputError, match=r"schedule.*loss\.step"):
        loss(*make_pair(1, 32, 32))
    assert SSIMLoss(schedule={})(*make_pair(1, 32, 32)) > 0


@pytest.mark.fault(31, 64, 78)
def test_calls_are_not_counted():
    """Accumulation and closures call a loss several times in one iteration, gated GAN steps not at all."""
    loss = SSIMLoss(schedule={"ramp": 10})
    sr, hr = make_pair(1, 32, 32)
    loss.step(5)
    assert loss(sr, hr) == loss(sr, hr)
    fresh = SSIMLoss(schedule={"ramp": 10})
    fresh.step(5)
    assert fresh(sr, hr) == loss(sr, hr)


def test_a_guard_may_cap_and_shrink_the_factor():
    loss = SSIMLoss(schedule={"ramp": 10})
    loss.step(5)
    assert loss.factor == 0.5
    loss.limit_weight(0.3, 1.0)
    assert loss.factor == 0.3
    loss.limit_weight(1.0, 0.25)
    assert loss.factor == 0.125
    assert loss.state_dict() == {}
    with pytest.raises(InputError, match="multiplier"):
        loss.limit_weight(1.0, 2.0)


def test_scores_for_an_onlooker_leave_no_trace():
    sr, hr = make_pair(3, 64, 64)
    a, b = (CriticLoss("haarpsi", crops={"size": 32, "count": 2}) for _ in range(2))
    a(sr, hr), b(sr, hr)
    terms = dict(a.terms)
    scores = a.scores(sr.requires_grad_(), hr)
    assert scores.shape == (3,) and not scores.requires_grad and a.terms == terms
    assert torch.equal(a.scores(sr, hr), scores)
    torch.testing.assert_close(a.scores(hr, hr), torch.ones(3))
    # The boxes of the next call are those of a loss that nobody looked at.
    assert torch.equal(a(sr, hr), b(sr, hr))


@pytest.mark.parametrize(
    ("fields", "never"),
    [
        ({"start": 10, "end": 15, "every": 100}, True),
        ({"start": 10, "end": 12, "every": 10}, False),
        ({"start": 10, "end": 11, "ramp": 5}, True),
        ({"start": 10, "end": 12, "ramp": 5}, False),
    ],
)
def test_a_schedule_that_never_acts_is_refused(fields, never):
    if never:
        with pytest.raises(InputError, match=f"start 10 .*end {fields['end']}"):
            Schedule(**fields)
    else:
        assert any(Schedule(**fields).factor(i) > 0 for i in range(20))
