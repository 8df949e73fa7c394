"""What is counted and in which order; how long it takes is never asserted."""

from __future__ import annotations

import sys

import pytest
import torch
from speed.measuring import gradient, interleaved, one_thread, peak_memory, power, saved_bytes


def test_rounds_are_interleaved_and_shuffled():
    calls = {name: (lambda name=name: ran.append(name)) for name in "abcd"}
    ran: list[str] = []
    found = interleaved(calls, 6, warmup=1, seed=3)
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys("abcd", 6)
    rounds = [tuple(ran[i : i + 4]) for i in range(0, len(ran), 4)]
    assert len(rounds) == 7
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 3
    first, ran = rounds, []
    interleaved(calls, 6, warmup=1, seed=3)
    assert [tuple(ran[i : i + 4]) for i in range(0, len(ran), 4)] == first


def test_time_is_process_time_of_the_call_alone(monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr("speed.measuring.time.process_time", lambda: float(next(clock)))
    assert interleaved({"a": lambda: None}, 2, warmup=3) == {"a": [2.0, 2.0]}


def test_one_thread_inside_and_what_it_was_afterwards():
    torch.set_num_threads(2)
    inside = []
    interleaved({"a": lambda: inside.append(torch.get_num_threads())}, 1, warmup=0)
    assert inside == [1] and torch.get_num_threads() == 2
    with pytest.raises(RuntimeError, match="stop"), one_thread():
        raise RuntimeError("stop")
    assert torch.get_num_threads() == 2


def test_gradient_is_to_the_image():
    x = torch.tensor([1.0, 2.0, 3.0])
    assert gradient(lambda t: t**2, x).tolist() == [2.0, 4.0, 6.0]
    assert not x.requires_grad


def test_saved_bytes_counts_storages_once_and_leaves_parameters_out():
    x = torch.rand(10, 10, requires_grad=True)
    weight = torch.rand(10, 10, dtype=torch.float32)
    # x * x saves x twice; x * weight saves weight.
    assert saved_bytes(lambda: x * x).kept == 400
    assert saved_bytes(lambda: (x * weight).exp()).kept == 400 + 400
    assert saved_bytes(lambda: (x * weight).exp(), [weight]).kept == 400
    assert saved_bytes(lambda: x.sum()).kept == 0
    with torch.no_grad():
        assert saved_bytes(lambda: x.exp()).kept == 0


def test_what_is_thrown_away_is_recorded_but_not_kept():
    x = torch.rand(100, requires_grad=True)

    def forward():
        x.exp().sin()  # exp saves its result, and so does sin its argument: one storage; nobody uses it
        return x.tanh()

    found = saved_bytes(forward)
    assert (found.kept, found.recorded) == (400, 800)


def test_backward_still_works_after_the_hooks():
    x = torch.rand(5, requires_grad=True)
    results = []
    saved_bytes(lambda: results.append(x.exp()) or results[0])
    results[0].sum().backward()
    torch.testing.assert_close(x.grad, x.detach().exp())


def test_power_law():
    assert power({1: 3.0, 2: 12.0, 4: 48.0}) == pytest.approx(2.0, abs=1e-12)
    assert power({96: 5.0, 192: 5.0}) == pytest.approx(0.0, abs=1e-12)
    assert power({96: 5.0}) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_peak_contains_what_a_call_allocates_and_frees():
    def peak(megabytes):
        return peak_memory(lambda: torch.ones(megabytes * 250_000).sum())

    small, large = peak(40), peak(120)
    if small is None:
        pytest.skip("this container forbids the reset of the high-water mark")
    # To within a few pages.
    assert 39e6 < small < 60e6 and 119e6 < large < 140e6
