"""Correlations, the logistic fit and bootstrap intervals against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.correlation import cluster_draws, interval, krcc, logistic_fit, plcc, rmse, srcc


@pytest.mark.fault(73)
def test_perfect_reversed_and_constant():
    x = [0.1, 0.4, 0.35, 2.0]
    for function in (srcc, plcc, krcc):
        assert function(x, x) == pytest.approx(1.0)
        assert function(x, [-v for v in x]) == pytest.approx(-1.0)
        assert math.isnan(function(x, [3.0] * 4))
        assert math.isnan(function([3.0] * 4, x))
        assert math.isnan(function([1.0], [2.0]))
    assert rmse(x, x) == 0.0
    assert rmse([1, 2], [4, 6]) == pytest.approx(math.sqrt((9 + 16) / 2))


def test_known_values():
    # Pairs (1,2) (1,3) (2,3) in both orders: one of three disagrees.
    assert krcc([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert srcc([1, 2, 3], [1, 3, 2]) == pytest.approx(1 - 6 * 2 / (3 * 8))
    assert plcc([0, 1, 2], [0, 1, 5]) == pytest.approx(5 / math.sqrt(2 * 14))
    # Ranks do not change under a rising curve, Pearson does.
    x = np.arange(1.0, 8.0)
    assert srcc(x, np.exp(x)) == krcc(x, np.exp(x)) == pytest.approx(1.0)
    assert plcc(x, np.exp(x)) < 0.85


def test_ties():
    # tau-b with one tie in y: 2 concordant of 3 pairs -> 2 / sqrt(3 * 2).
    assert krcc([1, 2, 3], [1, 2, 2]) == pytest.approx(2 / math.sqrt(6))
    # Mean ranks 1, 2.5, 2.5.
    assert srcc([1, 2, 3], [1, 2, 2]) == pytest.approx(1.5 / math.sqrt(2 * 1.5))


@pytest.mark.fault(73)
@pytest.mark.parametrize(("x", "y"), [([1, 2], [1, 2, 3]), ([[1, 2]], [[1, 2]]), ([1, float("nan")], [1, 2])])
def test_lists_that_cannot_be_compared(x, y):
    with pytest.raises(InputError, match=r"shapes|entry 1 is nan"):
        srcc(x, y)


def curve(x, low=1.0, high=5.0, middle=-3.0, width=0.7):
    return low + (high - low) / (1 + np.exp(-(x - middle) / width))


def test_logistic_recovers_a_known_curve():
    x = np.linspace(-7, 1, 60)
    fit = logistic_fit(x, curve(x))
    assert [fit.low, fit.high, fit.middle, fit.width] == pytest.approx([1, 5, -3, 0.7], abs=1e-4)
    assert fit.reason == ""
    np.testing.assert_allclose(fit(x), curve(x), atol=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(1e-4, 1e3), (1e4, -50.0)])
def test_logistic_does_not_depend_on_the_units(scale, shift):
    x = np.linspace(-7, 1, 60) + 0.05 * np.sin(np.arange(60) * 1.7)
    y = curve(x) + 0.1 * np.cos(np.arange(60) * 2.3)
    other = logistic_fit(x * scale + shift, 1500 + 300 * y)
    np.testing.assert_allclose(other(x * scale + shift), 1500 + 300 * logistic_fit(x, y)(x), rtol=1e-4)


@pytest.mark.parametrize(
    ("y", "reason"),
    [([1, 2, 3, 4], "at least 5"), ([2, 2, 2, 2, 2], "constant"), ([5, 4, 3, 2, 1], "fall")],
)
def test_impossible_fits_have_a_reason(y, reason):
    x = list(range(len(y)))
    fit = logistic_fit(x, y)
    assert reason in fit.reason
    assert np.isnan(fit(x)).all()


def mean_interval(values, contents, resamples=300, seed=0):
    return interval(cluster_draws(lambda i: float(values[i].mean()), contents, resamples, seed))


def test_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says():
    """Means of 20 contents drawn around 0: the 95 % interval contains 0 in about 95 % of the studies."""
    rng, covered = np.random.default_rng(0), 0
    for study in range(100):
        low, high = mean_interval(rng.normal(size=20), [str(i) for i in range(20)], 100, study)
        covered += low <= 0 <= high
    assert 86 <= covered <= 99


def test_contents_are_drawn_whole():
    """Copies of a content add no information: the interval stays, and is wider than that of independent images."""
    values = np.random.default_rng(1).normal(size=10)

    def width(v, contents):
        low, high = mean_interval(v, contents)
        return high - low

    alone = width(values, [f"{i:02}" for i in range(10)])
    copied = width(np.repeat(values, 20), [f"{i:02}" for i in range(10) for _ in range(20)])
    independent = width(np.repeat(values, 20), [f"{i:03}" for i in range(200)])
    assert copied == pytest.approx(alone, rel=1e-9)
    assert independent < 0.4 * copied


def test_no_interval():
    values = np.arange(4.0)
    assert np.isnan(mean_interval(values, list("abcd"), resamples=0)).all()
    assert np.isnan(mean_interval(values[:1], ["a"])).all()
    assert np.isnan(interval(cluster_draws(lambda i: float("nan"), list("abcd"), 20, 0))).all()
    with pytest.raises(InputError, match="bootstrap"):
        mean_interval(values, list("abcd"), resamples=-1)
