"""KADID-10k types 16, 17, 18 and 25: brightness, mean shift and contrast, by tone curves."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sr_perceptual_loss.training.distortions.colour_spaces import lab_to_rgb, rgb_to_lab
from sr_perceptual_loss.training.distortions.draws import Draws

__all__ = ["brighten", "change_contrast", "darken", "shift_mean"]


def _middle_curve(image: Tensor, middle: float) -> Tensor:
    """The parabola through (0, 0), (1/2, middle), (1, 1), clipped to [0, 1]."""
    return (image * (4 * middle - 1) + image**2 * (2 - 4 * middle)).clamp(0, 1)


def brighten(image: Tensor, amount: float, draws: Draws) -> Tensor:
    """Lift the middle tones to 1/2 + amount/2: two parts in RGB, one part in L of Lab."""
    middle = 0.5 + amount / 2
    lab = rgb_to_lab(image)
    lab[:, :1] = 100 * _middle_curve(lab[:, :1] / 100, middle)
    return (2 * _middle_curve(image, middle) + lab_to_rgb(lab)) / 3


def darken(image: Tensor, amount: float, draws: Draws) -> Tensor:
    """Lower the middle tones to 1/2 - amount/2, in RGB."""
    return _middle_curve(image, 0.5 - amount / 2)


def shift_mean(image: Tensor, amount: float, draws: Draws) -> Tensor:
    """Add a constant and clip."""
    return (image + amount).clamp(0, 1)


def change_contrast(image: Tensor, amount: float, draws: Draws) -> Tensor:
    """S-shaped curve through (.3, .25 - amount/4) and (.7, .75 + amount/4); the ends and the middle stay.

    A cubic spline without knots at .3 and .7 (MATLAB's not-a-knot rule) has one knot left, 1/2, so it is one cubic plus
    a multiple of max(x - 1/2, 0)^3.
    """
    x = np.array([0.0, 0.3, 0.5, 0.7, 1.0])
    y = np.array([0.0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1.0])
    basis = np.stack([np.ones(5), x, x**2, x**3, np.maximum(x - 0.5, 0) ** 3], 1)
    c = np.linalg.solve(basis, y).tolist()
    cubic = c[0] + image * (c[1] + image * (c[2] + image * c[3]))
    return (cubic + c[4] * (image - 0.5).clamp(min=0) ** 3).clamp(0, 1)
