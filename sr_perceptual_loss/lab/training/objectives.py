"""Distance of predicted and labelled score, one value per pair.

Source: RQI supplement, table 2 (Huber against L1 and L2); Efficient-PBAN, equation (11) (squared error).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.checks import check_choice

__all__ = ["OBJECTIVES", "objective"]

OBJECTIVES = ("huber", "l1", "l2")


def objective(loss: str, predictions: Tensor, labels: Tensor, *, delta: float = 1.0) -> Tensor:
    """l1: |d|. l2: d^2. huber: d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2). d = prediction - label.

    Args:
        loss: one of :data:`OBJECTIVES`.
        predictions: (N,).
        labels: (N,).
        delta: of the Huber loss.

    Returns:
        (N,) distances.

    Raises:
        InputError: another name.
    """
    check_choice("loss", loss, OBJECTIVES)
    if loss == "huber":
        return F.huber_loss(predictions, labels, reduction="none", delta=delta)
    if loss == "l1":
        return F.l1_loss(predictions, labels, reduction="none")
    return F.mse_loss(predictions, labels, reduction="none")
