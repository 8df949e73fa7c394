"""Splits by reference content and subsets of a label set."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, RatedImage, Vote, split_contents

CONTENTS = [f"I{i:02}" for i in range(1, 82)]


@pytest.mark.parametrize("count", [2, 3, 10, 81, 200])
@pytest.mark.parametrize("train", [0.01, 0.5, 0.8, 0.99])
def test_splits_are_disjoint_and_whole(count, train):
    names = [f"s{i}" for i in range(count)]
    for seed in (0, 1, 2**32 - 1):
        first, second = split_contents(names, train=train, seed=seed)
        assert first and second
        assert not set(first) & set(second)
        assert sorted(first + second) == sorted(names)
        assert abs(len(first) - train * count) <= 1


def test_split_depends_on_the_seed_and_on_nothing_else():
    first, second = split_contents(CONTENTS, seed=3)
    assert (len(first), len(second)) == (65, 16)
    assert split_contents(list(reversed(CONTENTS)) + CONTENTS, seed=3) == (first, second)
    assert split_contents(CONTENTS, seed=4) != (first, second)
    assert second[:3] == ["I06", "I08", "I09"]  # a change of the shuffle would move contents between the parts


@pytest.mark.parametrize(("contents", "train"), [(["a"], 0.8), ([], 0.8), (["a", "b"], 0.0), (["a", "b"], 1.0)])
def test_splits_that_cannot_be(contents, train):
    with pytest.raises(InputError):
        split_contents(contents, train=train)


def test_subsets_keep_images_and_votes_of_their_contents():
    paths = {name: Path(name) for name in ("a1", "a2", "b1", "a", "b")}
    labels = LabelSet(
        name="x",
        rated=(RatedImage("a", paths["a1"], paths["a"], 1.0), RatedImage("b", paths["b1"], paths["b"], 2.0)),
        votes=(Vote("a", paths["a1"], paths["a2"], paths["a"], 0.5),),
        score_range=(1.0, 5.0),
        comparable_across_contents=False,
        official_split={"test": frozenset({paths["b1"]})},
        notes=("n",),
    )
    only_a = labels.subset(["a"])
    assert ([r.score for r in only_a.rated], len(only_a.votes), only_a.contents) == ([1.0], 1, ["a"])
    test = labels.part("test")
    assert ([r.score for r in test.rated], test.votes) == ([2.0], ())
    assert (test.score_range, test.comparable_across_contents, test.notes) == ((1.0, 5.0), False, ("n",))
    with pytest.raises(InputError, match="'val'.*test"):
        labels.part("val")
