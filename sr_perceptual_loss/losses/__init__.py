"""Losses in plain PyTorch, independent of training frameworks."""

from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.losses.critic_loss import CriticLoss, EfficientPBANLoss, RQILoss
from sr_perceptual_loss.losses.frozen import FrozenCritic
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss
from sr_perceptual_loss.losses.schedule import Schedule
from sr_perceptual_loss.losses.ssim_loss import SSIMLoss

__all__ = [
    "CriticLoss",
    "EfficientPBANLoss",
    "FrozenCritic",
    "GradNormBalancer",
    "RQILoss",
    "SSIMLoss",
    "SSIMPerceptualRatioLoss",
    "Schedule",
]
