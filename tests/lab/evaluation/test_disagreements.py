"""The largest disagreements of a critic with people."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_perceptual_loss.lab.data.labels import LabelSet, Vote
from sr_perceptual_loss.lab.evaluation.disagreements import largest_disagreements


def test_rated_images(labels, score):
    """Reference c is reversed: its best against its worst contradicts most, then the two in the middle."""
    cases = largest_disagreements(labels, score(labels))
    assert [(c.better.name, c.worse.name) for c in cases] == [("c_3.png", "c_0.png"), ("c_2.png", "c_1.png")]
    assert [c.size for c in cases] == [pytest.approx(1.0), pytest.approx(1 / 3)]
    assert (cases[0].opinions, cases[0].ranks) == ((4.0, 1.0), (4.0, 1.0))
    assert cases[0].predictions[0] < cases[0].predictions[1]
    assert len(largest_disagreements(labels, score(labels), count=1)) == 1
    assert largest_disagreements(labels.subset("ab"), score(labels)) == []


def test_votes():
    a, b, c, ref = (Path(f"{name}.png") for name in ("a", "b", "c", "ref"))
    votes = (Vote("r", a, b, ref, 0.9), Vote("r", b, c, ref, 0.3), Vote("r", a, c, ref, 0.5))
    scores = {(a, ref): 3.0, (b, ref): 2.0, (c, ref): 1.0}
    (case,) = largest_disagreements(LabelSet("voted", (), votes), scores)
    assert (case.better, case.worse, case.ranks) == (c, b, None)
    assert (case.opinions, case.size) == (pytest.approx((0.7, 0.3)), pytest.approx(0.4))
    assert case.predictions == (1.0, 2.0)
