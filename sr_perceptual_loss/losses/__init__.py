"""Losses in plain PyTorch; no training framework is known here."""

from sr_perceptual_loss.losses.critic_loss import CriticLoss, EfficientPBANLoss, RQILoss
from sr_perceptual_loss.losses.frozen import FrozenCritic
from sr_perceptual_loss.losses.ssim_loss import SSIMLoss

__all__ = ["CriticLoss", "EfficientPBANLoss", "FrozenCritic", "RQILoss", "SSIMLoss"]
