"""2AFC, win rate and pairwise accuracy."""

from __future__ import annotations

import math

import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.votes import (
    pairwise_accuracy,
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
