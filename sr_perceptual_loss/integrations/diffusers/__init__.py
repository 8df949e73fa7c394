"""Critics as losses for latent diffusion: SeeSR, PiSA-SR, OSEDiff and whatever else decodes through a frozen VAE.

Works from outside on objects that look like those of diffusers, of any version; diffusers itself is not imported.
"""

from sr_perceptual_loss.integrations.diffusers.decoding import decode_latents, to_unit_range
from sr_perceptual_loss.integrations.diffusers.latent_loss import LatentLoss
from sr_perceptual_loss.integrations.diffusers.prediction import error_gain, predict_x0

__all__ = ["LatentLoss", "decode_latents", "error_gain", "predict_x0", "to_unit_range"]
