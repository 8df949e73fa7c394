"""Splits by scene, subsets of a label set, and the scale of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, RatedImage, Vote, split_scenes
from sr_perceptual_loss.lab.data.scale import ScoreScale

SCENES = [f"I{i:02}" for i in range(1, 82)]


@pytest.mark.parametrize("count", [2, 3, 10, 19, 81, 200])
@pytest.mark.parametrize("train", [0.01, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_splits_are_disjoint_and_whole(count, train, seed):
    names = [f"s{i}" for i in range(count)]
    first, second = split_scenes(names, train=train, seed=seed)
    assert first and second
    assert not set(first) & set(second)
    assert sorted(first + second) == sorted(names)
    assert abs(len(first) - train * count) <= 1


def test_split_depends_on_the_seed_and_on_nothing_else():
    first, second = split_scenes(SCENES, seed=3)
    assert (len(first), len(second)) == (65, 16)
    assert split_scenes(list(reversed(SCENES)) + SCENES, seed=3) == (first, second)
    assert split_scenes(SCENES, seed=4) != (first, second)
    assert second[:3] == ["I06", "I08", "I09"]  # a change of the shuffle would move scenes between the parts


@pytest.mark.parametrize(("scenes", "train"), [(["a"], 0.8), ([], 0.8), (["a", "b"], 0.0), (["a", "b"], 1.0)])
def test_splits_that_cannot_be(scenes, train):
    with pytest.raises(InputError):
        split_scenes(scenes, train=train)


def test_subsets_keep_images_and_votes_of_their_scenes():
    paths = {name: Path(name) for name in ("a1", "a2", "b1", "a", "b")}
    labels = LabelSet(
        name="x",
        rated=(RatedImage("a", paths["a1"], paths["a"], 1.0), RatedImage("b", paths["b1"], paths["b"], 2.0)),
        votes=(Vote("a", paths["a1"], paths["a2"], paths["a"], 0.5),),
        score_range=(1.0, 5.0),
        comparable_across_scenes=False,
        official_split={"test": frozenset({paths["b1"]})},
        notes=("n",),
    )
    only_a = labels.subset(["a"])
    assert ([r.score for r in only_a.rated], len(only_a.votes), only_a.scenes) == ([1.0], 1, ["a"])
    test = labels.part("test")
    assert ([r.score for r in test.rated], test.votes) == ([2.0], ())
    assert (test.score_range, test.comparable_across_scenes, test.notes) == ((1.0, 5.0), False, ("n",))
    with pytest.raises(InputError, match=r"no official part 'val' \(known: test\)"):
        labels.part("val")


def test_scale_maps_its_ends_to_0_and_1():
    scale = ScoreScale.from_scores([3.0, 1.5, 4.5])
    assert scale == ScoreScale(1.5, 4.5)
    assert [scale.to_unit(s) for s in (1.5, 3.0, 4.5, 6.0)] == [0.0, 0.5, 1.0, 1.5]
    assert [scale.from_unit(u) for u in (0.0, 0.5, 1.0, 1.5)] == [1.5, 3.0, 4.5, 6.0]


def test_scale_takes_arrays_tensors_and_numbers_from_yaml():
    scale = ScoreScale("917", 1836)  # type: ignore[arg-type]
    scores = np.array([917.0, 1836.0])
    assert scale.to_unit(scores).tolist() == [0.0, 1.0]
    assert torch.equal(scale.from_unit(torch.tensor([0.0, 1.0])), torch.tensor([917.0, 1836.0]))


@pytest.mark.parametrize(("low", "high"), [(1.0, 5.0), (-12.5, 0.0), (916.7136, 1835.9856), (0.0, 0.01)])
@pytest.mark.parametrize("score", [-3.0, 0.0, 4.93, 1448.96])
def test_scale_goes_there_and_back(low, high, score):
    scale = ScoreScale(low, high)
    assert scale.from_unit(scale.to_unit(score)) == pytest.approx(score, abs=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScoreScale(5.0, 1.0), "got low 5 and high 1, expected low < high"),
        (lambda: ScoreScale.from_scores([2.0, 2.0]), "scores that are all equal teach nothing"),
        (lambda: ScoreScale.from_scores([]), "got no scores"),
        (lambda: ScoreScale.from_scores([1.0, float("nan")]), "expected a finite number"),
    ],
)
def test_scales_that_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        make()
