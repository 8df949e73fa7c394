"""The table of a critic on a label set: correlations, means over references, intervals, choices and votes."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, RatedImage, Vote
from sr_perceptual_loss.lab.evaluation.agreement import MEANINGS, evaluate_scores


def evaluate(x, y, contents, *, comparable=True, **options):
    """The evaluation of predictions ``x`` of opinion scores ``y``, and its rows by name."""
    paths = [Path(f"{i:03}.png") for i in range(len(x))]
    rated = tuple(RatedImage(c, p, Path(f"{c}.png"), float(v)) for c, p, v in zip(contents, paths, y, strict=True))
    predictions = {(r.dist, r.ref): float(v) for r, v in zip(rated, x, strict=True)}
    labels = LabelSet("made", rated, comparable_across_contents=comparable)
    result = evaluate_scores(labels, predictions, **({"bootstrap": 0} | options))
    return result, {row.name: row for row in result.rows}


def test_logistic_fit_where_the_relation_is_curved():
    x = np.linspace(-7, 1, 60)
    _, rows = evaluate(x, 1 + 4 / (1 + np.exp(-(x + 3) / 0.7)), ["a"] * 60)
    assert rows["plcc_raw"].value < 0.97 < 0.99999 < rows["plcc_fitted"].value
    assert rows["rmse"].value < 1e-3


def test_no_fit_is_nan_with_a_note():
    result, rows = evaluate([1, 2, 3, 4], [1, 2, 3, 4], ["a"] * 4)
    assert math.isnan(rows["plcc_fitted"].value) and math.isnan(rows["rmse"].value)
    assert any("at least 5 images" in note for note in result.notes)


def test_mean_over_references_is_not_the_overall_number():
    """Two references, each ordered perfectly, whose levels are the wrong way round."""
    result, rows = evaluate([1, 2, 3, 11, 12, 13], [10, 20, 30, 1, 2, 3], list("aaabbb"))
    assert [rows[name].value for name in ("srcc_mean", "krcc_mean", "plcc_mean")] == pytest.approx([1.0] * 3)
    assert rows["srcc"].value < 0
    assert result.content_srcc == {"a": pytest.approx(1.0), "b": pytest.approx(1.0)}
    assert all(math.isnan(end) for row in result.rows for end in (row.low, row.high))


@pytest.mark.fault(73)
def test_references_without_a_correlation_are_skipped_and_counted():
    x = [1, 2, 3, 3, 2, 1, 5, 5, 5, 7, 1, 2]
    y = [1, 2, 3, 1, 2, 3, 1, 2, 3, 7, 4, 4]
    result, rows = evaluate(x, y, list("aaabbbcccdee"))
    assert rows["srcc_mean"].value == pytest.approx(0.0)  # +1 of a, -1 of b
    assert rows["srcc_mean"].count == 2
    (note,) = result.notes
    assert all(f"1 ({reason})" in note for reason in ("equal predictions", "one image only", "equal opinions"))
    _, rows = evaluate([1, 1], [1, 2], ["a", "b"])
    assert math.isnan(rows["srcc_mean"].value) and rows["srcc_mean"].count == 0


def test_scores_that_cannot_be_compared_across_references():
    result, rows = evaluate([1, 2, 3, 4, 5, 6], [0, 50, 99, 0, 40, 99], list("aaabbb"), comparable=False)
    assert set(rows) == {"srcc_mean", "plcc_mean", "krcc_mean", "win_rate", "pairwise_accuracy"}
    assert rows["srcc_mean"].value == pytest.approx(1.0)
    assert "cannot be compared" in result.notes[0]


def noisy(contents, images, noise, seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=contents * images)
    return y + noise * rng.normal(size=len(y)), y, [f"s{i // images}" for i in range(len(y))]


def test_intervals_are_deterministic_and_contain_their_number():
    data = noisy(8, 6, 0.5, 0)

    def ends(seed):
        return [(row.low, row.high) for row in evaluate(*data, bootstrap=40, seed=seed)[0].rows]

    first = evaluate(*data, bootstrap=40, seed=4)[1]
    assert ends(4) == [(row.low, row.high) for row in first.values()] != ends(5)
    assert set(first) == {*MEANINGS, "win_rate", "pairwise_accuracy"}
    assert all(first[name].low < first[name].value < first[name].high for name in MEANINGS)


def test_single_reference_resamples_images_with_a_note():
    x, y, _ = noisy(1, 30, 0.5, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result, rows = evaluate(x, y, ["only"] * 30, bootstrap=30)
        _, few = evaluate([1, 2, 3, 4], [1, 2, 4, 3], ["a"] * 4, bootstrap=60)  # some draws are undefined
    mean, overall = rows["srcc_mean"], rows["srcc"]
    assert (mean.value, mean.low, mean.high) == (overall.value, overall.low, overall.high)
    assert any("Only 1 reference" in note for note in result.notes)
    assert evaluate(x, y, ["only"] * 30)[0].notes == ()
    assert -1 <= few["srcc"].low < 0.8 < few["srcc"].high <= 1


def test_rated_images(labels, score):
    result = evaluate_scores(labels, score(labels), bootstrap=0)
    rows = {row.name: row for row in result.rows}
    assert rows["srcc_mean"].value == pytest.approx(1 / 3)  # +1, +1, -1
    assert rows["srcc_mean"].count == 3
    assert rows["win_rate"].value == pytest.approx(2 / 3)
    assert rows["pairwise_accuracy"].value == pytest.approx(12 / 18)
    assert rows["srcc"].count == 12
    assert result.notes[0] == "Made <for> a test."


def test_votes_and_their_parts(labels, score):
    def vote(content, a, b, p):
        images = [r for r in labels.rated if r.content == content]
        return Vote(content, images[a].dist, images[b].dist, images[0].ref, p)

    votes = (vote("a", 0, 3, 0.9), vote("a", 3, 1, 0.2), vote("b", 2, 0, 0.7))
    split = {"train": frozenset(v.a for v in votes[:2]), "test": frozenset({votes[2].a})}
    only = LabelSet("voted", (), votes, official_split=split)
    scores = score(only)
    assert len(scores) == 5
    found = {row.name: row.value for row in evaluate_scores(only, scores, bootstrap=0).rows}
    assert found["two_afc"] == pytest.approx((0.9 + 0.8 + 0.3) / 3)
    assert found["two_afc_ceiling"] == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert (found["two_afc_train"], found["two_afc_test"]) == (pytest.approx(0.85), pytest.approx(0.3))


@pytest.mark.fault(74)
def test_gaps_and_scores_that_are_not_finite(labels, score):
    scores = score(labels)
    last = scores.popitem()[0]
    with pytest.raises(InputError, match=r"c_3.png.*no score"):
        evaluate_scores(labels, scores)
    with pytest.raises(InputError, match="nan"):
        evaluate_scores(labels, scores | {last: float("nan")})
    with pytest.raises(InputError, match="empty"):
        evaluate_scores(LabelSet("empty", ()), {})
