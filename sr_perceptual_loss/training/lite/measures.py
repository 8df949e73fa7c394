"""Classical full-reference measures of a version, and their fusion, fitted to the table of human means.

SSIM at full and at half size was tried too and got no weight: with 3 crops of 128 pixels per type and level of
KADID-10k, HaarPSI alone reached a rank correlation of 0.85 with the table, fitted on all types or on all but one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_perceptual_loss._checks import InputError
from sr_perceptual_loss.critics.haarpsi import haarpsi

__all__ = ["MEASURES", "PRISTINE_LABEL", "Fusion", "fit_fusion", "full_reference"]

#: What :func:`full_reference` gives: all are 0 for equal images and grow with the damage.
MEASURES = ("1 - HaarPSI", "RMS error")
_POWERS = (0.5, 1.0, 2.0)
#: Label of a pristine picture on the scale (score - 1) / 4; KADID-10k gives it no score, its best cells have 0.90.
PRISTINE_LABEL = 0.95


@torch.no_grad()
def full_reference(image: Tensor, reference: Tensor) -> Tensor:
    """Distances of :data:`MEASURES`.

    Args:
        image: (N, 3, H, W) in [0, 1], sides >= 16.
        reference: same shape.

    Returns:
        (N, 2), float32.
    """
    image, reference = image.float(), reference.float()
    rms = (image - reference).square().mean((1, 2, 3)).sqrt()
    return torch.stack((1 - haarpsi(image, reference), rms), 1).clamp(min=0)


def _basis(measures: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([measures**power for power in _POWERS], axis=1)


@dataclass(frozen=True)
class Fusion:
    """label = pristine - sum of w_kp d_k^p with w >= 0, so no measure can make a damaged picture better.

    Attributes:
        weights: of the powers of the measures.
        cells: (type or family, level) -> mean fused label of calibration crops.
    """

    weights: tuple[float, ...]
    cells: Mapping[tuple[int, int], float]

    def __call__(self, measures: Tensor) -> list[float]:
        """(N, 2) distances -> labels in [0, pristine]."""
        values = PRISTINE_LABEL - _basis(measures.double().cpu().numpy()) @ np.asarray(self.weights)
        return [float(v) for v in values.clip(0.0, PRISTINE_LABEL)]

    def save(self, path: Path) -> None:
        """Write as JSON; numbers come back bit by bit."""
        cells = [[*key, value] for key, value in sorted(self.cells.items())]
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps({"weights": self.weights, "cells": cells}), encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Fusion:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: no such file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            cells = {(int(kind), int(level)): float(value) for kind, level, value in content["cells"]}
            return cls(tuple(float(w) for w in content["weights"]), cells)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a calibration of this training ({error}); delete it.") from None


def fit_fusion(
    measures: Mapping[tuple[int, int], NDArray[np.float64]], labels: Mapping[tuple[int, int], float]
) -> Fusion:
    """Non-negative least squares of the table's labels on powers of the measures.

    Args:
        measures: (type or family, level) -> (crops, 2) distances; SR families too.
        labels: (type, level) -> label in [0, 1], for KADID-10k's types only.

    Returns:
        The fitted fusion with the mean of each cell.

    Raises:
        InputError: no cell has a label.
    """
    from scipy.optimize import nnls

    known = [key for key in sorted(measures) if key in labels]
    if not known:
        raise InputError("no type with a label is left to fit the fused measure on; leave fewer types out.")
    rows = np.concatenate([_basis(measures[key]) for key in known])
    damage = np.concatenate([np.full(len(measures[key]), PRISTINE_LABEL - labels[key]) for key in known])
    weights, _ = nnls(rows, damage)
    fusion = Fusion(tuple(float(w) for w in weights), {})
    means = {key: float(np.mean(fusion(torch.from_numpy(values)))) for key, values in sorted(measures.items())}
    return Fusion(fusion.weights, means)
