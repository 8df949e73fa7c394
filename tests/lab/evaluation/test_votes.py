"""2AFC, win rate, pairwise accuracy and Thurstone scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.votes import (
    pairwise_accuracy,
    thurstone,
    two_afc_terms,
    win_rate,
)


def test_two_afc():
    assert two_afc_terms([0.9, 0.2, 0.7], [1.5, -0.1, 0.0]).tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert two_afc_terms([0.9, 0.2], [-1, 1]).tolist() == pytest.approx([0.1, 0.2])
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        two_afc_terms([1.2], [1])
    with pytest.raises(InputError, match="nan"):
        two_afc_terms([0.5], [math.nan])


def test_win_rate():
    # a: hit, b: miss, c: alone and skipped
    x = [1, 5, 2, 9, 1, 3]
    y = [10, 30, 20, 1, 2, 7]
    share = win_rate(x, y, list("aaabbc"))
    assert (share.value, share.count, share.ties, share.skipped) == (0.5, 2, 0, 1)
    assert "best image" in share.definition


@pytest.mark.fault(74)
def test_win_rate_with_ties():
    # People like two best: any of them wins. The metric likes two best, one of which is right: half.
    assert win_rate([1, 2, 3], [0, 9, 9], list("aaa")).value == 1.0
    share = win_rate([3, 3, 1], [5, 4, 6], list("aaa"))
    assert (share.value, share.ties) == (0.0, 1)
    assert win_rate([3, 3, 1], [5, 7, 6], list("aaa")).value == 0.5
    assert math.isnan(win_rate([1, 2], [4, 4], ["a", "a"]).value)


def test_pairwise_accuracy_looks_of_one_reference_only():
    x, y = [1, 2, 3, 10, 20], [1, 3, 2, 5, 4]
    share = pairwise_accuracy(x, y, list("aaabb"))
    assert (share.value, share.count) == (pytest.approx(2 / 4), 4)  # a: 2 of 3, b: 0 of 1
    assert share.per_content == {"a": (2.0, 3), "b": (0.0, 1)}
    tied = pairwise_accuracy([1, 1, 2], [1, 2, 2], list("aaa"))
    assert (tied.value, tied.count, tied.ties, tied.skipped) == (pytest.approx(1.5 / 2), 2, 1, 1)


def votes(wins):
    """Single choices from a matrix of counts."""
    return [(i, j) for i, row in enumerate(wins) for j, count in enumerate(row) for _ in range(count)]


def test_thurstone_recovers_simulated_scores():
    truth = np.array([-1.2, -0.4, 0.0, 0.5, 1.1])
    rng, choices = np.random.default_rng(0), []
    for i in range(5):
        for j in range(i):
            won = rng.random(80) < norm.cdf(truth[i] - truth[j])
            choices += [(i, j) if w else (j, i) for w in won]
    found = thurstone("abcde", choices)
    assert found.scores.sum() == pytest.approx(0, abs=1e-9)
    assert np.argsort(found.scores).tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(found.scores, truth - truth.mean(), atol=0.25)
    assert (found.low < truth - truth.mean()).all() and (truth - truth.mean() < found.high).all()


def test_thurstone_unit_and_intervals():
    """Two items, 841 of 1000 votes: Phi(1) = 0.8413, so they are one apart. Fewer votes, wider interval."""
    many = thurstone("ab", votes([[0, 841], [159, 0]]))
    assert many.scores[0] - many.scores[1] == pytest.approx(1.0, abs=0.01)
    few = thurstone("ab", votes([[0, 8], [2, 0]]))
    assert few.high[0] - few.low[0] > 5 * (many.high[0] - many.low[0])


@pytest.mark.fault(74)
def test_item_that_always_wins_stays_finite():
    assert 1 < thurstone("ab", votes([[0, 20], [0, 0]])).scores[0] < 10


@pytest.mark.fault(74)
def test_disconnected_comparisons():
    with pytest.raises(InputError, match=r"\{a, b\} with items of \{c, d\}"):
        thurstone("abcd", [(0, 1), (1, 0), (2, 3)])


@pytest.mark.parametrize("choice", [(0, 0), (0, 2), (-1, 0)])
def test_choices_that_are_not_between_two_items(choice):
    with pytest.raises(InputError, match="choices"):
        thurstone("ab", [(0, 1), choice])
