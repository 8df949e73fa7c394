"""Our losses in BasicSR's LOSS_REGISTRY; importing this module registers them."""

from __future__ import annotations

import logging

from basicsr.utils.registry import LOSS_REGISTRY

from sr_perceptual_loss.integrations.basicsr.loss_list import LossList
from sr_perceptual_loss.integrations.basicsr.slots import StockSlot, build_entry, entry_name
from sr_perceptual_loss.losses.critic_loss import CriticLoss, EfficientPBANLoss, RQILoss
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss
from sr_perceptual_loss.losses.ssim_loss import SSIMLoss

logger = logging.getLogger("sr_perceptual_loss")

#: Before the name of a loss whose own name is taken.
PREFIX = "SRPL"

__all__ = ["LossList", "StockSlot", "build_entry", "entry_name", "register"]


def register() -> None:
    """Put the losses into LOSS_REGISTRY; a second call changes nothing.

    A name that a project has taken before stays the project's; ours is registered as ``SRPL<name>``, with a warning.
    """
    for loss_class in (CriticLoss, RQILoss, EfficientPBANLoss, SSIMLoss, SSIMPerceptualRatioLoss):
        name = loss_class.__name__
        if name in LOSS_REGISTRY and LOSS_REGISTRY.get(name).__module__ != __name__:
            logger.warning("BasicSR knows another %s already; ours is registered as %s%s.", name, PREFIX, name)
            name = PREFIX + name
        if name not in LOSS_REGISTRY:
            slot = type(name, (StockSlot,), {"loss_class": loss_class, "__doc__": loss_class.__doc__})
            slot.__module__ = __name__
            LOSS_REGISTRY.register(slot)
    if "LossList" not in LOSS_REGISTRY:
        LOSS_REGISTRY.register(LossList)


register()
