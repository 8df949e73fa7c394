"""Pure tensor maths, no state."""

from sr_perceptual_loss.functional.crops import CropPlan
from sr_perceptual_loss.functional.ssim import ssim

__all__ = ["CropPlan", "ssim"]
