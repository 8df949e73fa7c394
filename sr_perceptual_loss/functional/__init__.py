"""Pure tensor maths."""

from sr_perceptual_loss.functional.balance import GradNormBalancer
from sr_perceptual_loss.functional.crops import CropPlan
from sr_perceptual_loss.functional.ssim import ssim

__all__ = ["CropPlan", "GradNormBalancer", "ssim"]
