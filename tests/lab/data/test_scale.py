"""The map from opinion scores to [0, 1]."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.scale import ScoreScale


def test_scale_maps_its_ends_to_0_and_1():
    scale = ScoreScale.from_scores([3.0, 1.5, 4.5])
    assert scale == ScoreScale(1.5, 4.5)
    assert [scale.to_unit(s) for s in (1.5, 3.0, 4.5, 6.0)] == [0.0, 0.5, 1.0, 1.5]


def test_scale_takes_arrays_tensors_and_numbers_from_yaml():
    scale = ScoreScale("917", 1836)  # type: ignore[arg-type]
    scores = np.array([917.0, 1836.0])
    assert scale.to_unit(scores).tolist() == [0.0, 1.0]
    assert scale.to_unit(torch.tensor([917.0, 1836.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScoreScale(5.0, 1.0), "low 5 and high 1"),
        (lambda: ScoreScale.from_scores([2.0, 2.0]), "all equal"),
        (lambda: ScoreScale.from_scores([]), "got no scores"),
        (lambda: ScoreScale.from_scores([1.0, float("nan")]), "finite"),
    ],
)
def test_scales_that_cannot_be(make, message):
    with pytest.raises(InputError, match=message):
        make()
