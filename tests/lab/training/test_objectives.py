"""Distances of prediction and label, in closed form."""

from __future__ import annotations

import pytest
import torch

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.training.objectives import objective

D = torch.tensor([0.05, -0.1, 0.4, -2.0])
ZERO = torch.zeros(4)


def test_values():
    torch.testing.assert_close(objective("l1", D, ZERO), torch.tensor([0.05, 0.1, 0.4, 2.0]))
    torch.testing.assert_close(objective("l2", D, ZERO), torch.tensor([0.0025, 0.01, 0.16, 4.0]))
    expected = torch.tensor([0.00125, 0.005, 0.2 * (0.4 - 0.1), 0.2 * (2.0 - 0.1)])
    torch.testing.assert_close(objective("huber", D, ZERO, delta=0.2), expected)


def test_huber_of_small_differences_is_half_of_l2():
    torch.testing.assert_close(objective("huber", D[:3], ZERO[:3]), 0.5 * objective("l2", D[:3], ZERO[:3]))


def test_other_names_fail():
    with pytest.raises(InputError, match="huber"):
        objective("hubert", D, ZERO)
