"""Correlations, the logistic fit, means over scenes and their intervals, against closed forms."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.bootstrap import Bootstrap, cluster_interval
from sr_perceptual_loss.lab.evaluation.correlation import correlate, krcc, logistic_fit, plcc, rmse, srcc

pytest.importorskip("scipy", reason="scipy (extra eval) is not installed")


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
    # Rank and order do not see a rising curve, Pearson does.
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
    with pytest.raises(InputError, match=r"two lists of one length|entry 1 is nan"):
        srcc(x, y)


def curve(x, low=1.0, high=5.0, middle=-3.0, width=0.7):
    return low + (high - low) / (1 + np.exp(-(x - middle) / width))


def test_logistic_recovers_a_known_curve():
    x = np.linspace(-7, 1, 60)
    fit = logistic_fit(x, curve(x))
    assert (fit.reason, fit.low, fit.high) == ("", pytest.approx(1, abs=1e-4), pytest.approx(5, abs=1e-4))
    assert (fit.middle, fit.width) == (pytest.approx(-3, abs=1e-4), pytest.approx(0.7, abs=1e-4))
    np.testing.assert_allclose(fit(x), curve(x), atol=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(1e-4, 1e3), (1e4, -50.0)])
def test_logistic_does_not_depend_on_the_units(scale, shift):
    x = np.linspace(-7, 1, 60) + 0.05 * np.sin(np.arange(60) * 1.7)
    y = curve(x) + 0.1 * np.cos(np.arange(60) * 2.3)
    fit = logistic_fit(x, y)
    np.testing.assert_allclose(
        logistic_fit(x * scale + shift, 1500 + 300 * y)(x * scale + shift), 1500 + 300 * fit(x), rtol=1e-4
    )


def test_logistic_beats_the_raw_values_where_the_relation_is_curved():
    x = np.linspace(-7, 1, 60)
    y = curve(x)
    agreement = correlate(x, y, ["a"] * 60, bootstrap=0)
    assert agreement.plcc_raw < 0.97
    assert agreement.plcc_fitted > 0.99999
    assert agreement.rmse < 1e-3


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], "at least 5 images, got 4"),
        ([1, 2, 3, 4, 5], [2, 2, 2, 2, 2], "constant"),
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], "fall where opinions rise"),
    ],
)
def test_fits_that_cannot_be(x, y, reason):
    fit = logistic_fit(x, y)
    assert reason in fit.reason
    assert np.isnan(fit(x)).all()
    agreement = correlate(x, y, ["a"] * len(x), bootstrap=0)
    assert math.isnan(agreement.plcc_fitted) and math.isnan(agreement.rmse)
    assert any(reason in note for note in agreement.notes)


def test_mean_over_scenes_is_not_the_overall_number():
    """Two scenes, each ordered perfectly, whose levels are the wrong way round."""
    x = [1, 2, 3, 11, 12, 13]
    y = [10, 20, 30, 1, 2, 3]
    agreement = correlate(x, y, list("aaabbb"), bootstrap=0)
    assert [agreement.srcc_mean, agreement.krcc_mean, agreement.plcc_mean] == pytest.approx([1.0] * 3)
    assert agreement.srcc < 0
    assert agreement.scene_srcc == {"a": pytest.approx(1.0), "b": pytest.approx(1.0)}
    assert all(math.isnan(end) for end in agreement.intervals["srcc"])


@pytest.mark.fault(73)
def test_scenes_without_a_correlation_are_skipped_and_counted():
    x = [1, 2, 3, 3, 2, 1, 5, 5, 5, 7, 1, 2]
    y = [1, 2, 3, 1, 2, 3, 1, 2, 3, 7, 4, 4]
    agreement = correlate(x, y, list("aaabbbcccdee"), bootstrap=0)
    assert agreement.srcc_mean == pytest.approx(0.0)  # +1 of a, -1 of b
    assert agreement.scenes_used == 2
    assert agreement.skipped == {"equal predictions": 1, "one image only": 1, "equal opinions": 1}
    assert any("1 (equal opinions)" in note for note in agreement.notes)


def test_scores_that_do_not_compare_across_scenes():
    agreement = correlate(
        [1, 2, 3, 4, 5, 6], [0, 50, 100, 0, 40, 100], list("aaabbb"), comparable_across_scenes=False, bootstrap=0
    )
    assert (agreement.srcc, agreement.plcc_raw, agreement.plcc_fitted, agreement.krcc, agreement.rmse) == (None,) * 5
    assert agreement.srcc_mean == pytest.approx(1.0)
    assert "do not compare" in agreement.notes[0]


def noisy(scenes, images, noise, seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=scenes * images)
    return y + noise * rng.normal(size=len(y)), y, [f"s{i // images}" for i in range(len(y))]


def test_intervals_are_deterministic_and_hold_their_number():
    x, y, scenes = noisy(8, 6, 0.5, 0)
    first = correlate(x, y, scenes, bootstrap=40, seed=4)
    assert correlate(x, y, scenes, bootstrap=40, seed=4) == first
    assert correlate(x, y, scenes, bootstrap=40, seed=5).intervals != first.intervals
    for name in ("srcc", "plcc_raw", "plcc_fitted", "krcc", "srcc_mean", "plcc_mean", "krcc_mean", "rmse"):
        low, high = first.intervals[name]
        assert low < getattr(first, name) < high, name
    wide = correlate(x, y, scenes, bootstrap=40, seed=4, confidence=0.99).intervals["srcc"]
    assert wide[0] <= first.intervals["srcc"][0] and wide[1] >= first.intervals["srcc"][1]


def test_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says():
    """Means of 20 scenes drawn around 0: the 90 % interval holds 0 in about 90 % of the studies."""
    rng, held = np.random.default_rng(0), 0
    for study in range(100):
        values = rng.normal(size=20)
        scenes = [str(i) for i in range(20)]
        low, high = cluster_interval(
            lambda i, v=values: float(v[i].mean()), scenes, Bootstrap(100, seed=study, confidence=0.9)
        )
        held += low <= 0 <= high
    assert 80 <= held <= 97


def test_scenes_are_drawn_whole():
    """Copies inside a scene add nothing: the interval is that of the scenes, wider than that of independent images."""
    values = np.random.default_rng(1).normal(size=10)

    def width(v, scenes):
        low, high = cluster_interval(lambda i: float(v[i].mean()), scenes, Bootstrap(300))
        return high - low

    alone = width(values, [f"{i:02}" for i in range(10)])
    copied = width(np.repeat(values, 20), [f"{i:02}" for i in range(10) for _ in range(20)])
    independent = width(np.repeat(values, 20), [f"{i:03}" for i in range(200)])
    assert copied == pytest.approx(alone, rel=1e-9)
    assert independent < 0.4 * copied


def test_single_scene_resamples_images_and_says_so():
    x, y, _ = noisy(1, 30, 0.5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agreement = correlate(x, y, ["only"] * 30, bootstrap=30)
    assert agreement.resampled == "images"
    assert agreement.srcc_mean == agreement.srcc
    assert agreement.intervals["srcc_mean"] == agreement.intervals["srcc"]
    assert any("Only 1 scene(s)" in note for note in agreement.notes)
    assert correlate(x, y, ["only"] * 30, bootstrap=0).notes == ()


def test_few_images_give_an_interval_although_some_draws_are_undefined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agreement = correlate([1, 2, 3, 4], [1, 2, 4, 3], ["a"] * 4, bootstrap=60)
    low, high = agreement.intervals["srcc"]
    assert -1 <= low < 0.8 < high <= 1


@pytest.mark.parametrize("options", [{"bootstrap": -1}, {"confidence": 1.0}, {"confidence": 0.1}])
def test_options_out_of_range(options):
    with pytest.raises(InputError):
        correlate([1, 2], [1, 2], ["a", "a"], **options)


@pytest.mark.fault(73)
def test_nothing_to_correlate():
    with pytest.raises(InputError, match="at least one image"):
        correlate([], [], [])
