"""Differences of critics with paired intervals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from sr_perceptual_loss.lab.data.labels import LabelSet, RatedImage
from sr_perceptual_loss.lab.evaluation.agreement import evaluate_scores
from sr_perceptual_loss.lab.evaluation.comparison import differences

REFERENCES, VERSIONS = 12, 6


def compared(*noises, constant=None):
    """Differences of critics that add so much noise to the opinions; `constant`: a reference that the last one ties."""
    rng = np.random.default_rng(0)
    rated = [
        RatedImage(f"r{i:02}", Path(f"{i}_{j}.png"), Path(f"{i}.png"), float(rng.normal()), "")
        for i in range(REFERENCES)
        for j in range(VERSIONS)
    ]
    labels = LabelSet("made", tuple(rated), score_range=(-5, 5))
    common = rng.normal(size=len(rated))
    results = {}
    for number, noise in enumerate(noises):
        scores = {(r.dist, r.ref): r.score + noise * common[k] for k, r in enumerate(rated)}
        if constant is not None and number == len(noises) - 1:
            scores |= {(r.dist, r.ref): 0.0 for r in rated if r.content == constant}
        results[f"c{number}"] = evaluate_scores(labels, scores, bootstrap=100)
    return results, {(d.first, d.second, d.number): d for d in differences(results)}


def test_a_worse_critic_is_different_and_an_equal_one_is_not():
    results, found = compared(0.5, 2.0, 0.5)
    worse, same = found["c0", "c1", "srcc_mean"], found["c0", "c2", "srcc_mean"]
    a, b = (next(row for row in results[name].rows if row.name == "srcc_mean") for name in ("c0", "c1"))
    assert worse.value == a.value - b.value > 0 and worse.low > 0 and worse.significant
    assert (same.low, same.value, same.high, same.significant) == (0, 0, 0, False)
    # Both see the same noise: pairs give a narrower interval than two independent ones would.
    assert worse.high - worse.low < math.hypot(a.high - a.low, b.high - b.low)


def test_numbers_of_different_references_get_no_interval():
    _, found = compared(0.5, 0.5, constant="r03")
    assert math.isnan(found["c0", "c1", "srcc_mean"].low)
    assert found["c0", "c1", "srcc_mean"].as_dict()["low"] is None
