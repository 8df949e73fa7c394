"""Every kind of loss, for what all of them promise."""

from __future__ import annotations

import pytest
from tiny_critics import tiny

from sr_perceptual_loss import CriticLoss, SSIMLoss
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss

LOSSES = {
    "critic-haarpsi": lambda **options: CriticLoss("haarpsi", **options),
    "critic-learned": lambda **options: CriticLoss(tiny("efficient_pban"), **options),
    "ratio": lambda **options: SSIMPerceptualRatioLoss("haarpsi", **options),
    "ratio-sum": lambda **options: SSIMPerceptualRatioLoss("haarpsi", loss_balance="none", **options),
    "ssim": lambda **options: SSIMLoss(**options),
}


@pytest.fixture(params=list(LOSSES))
def build(request):
    """Constructor of a loss that takes what all losses take."""
    return LOSSES[request.param]
