"""Critics as losses for latent diffusion: SeeSR, PiSA-SR, OSEDiff and others that decode through a frozen VAE.

Works from outside on objects that look like those of diffusers, of any version; diffusers itself is not imported.
"""

from sr_perceptual_loss.integrations.diffusers.latent_loss import LatentLoss
from sr_perceptual_loss.integrations.diffusers.latents import decode_latents, error_gain, predict_x0, to_unit_range

__all__ = ["LatentLoss", "decode_latents", "error_gain", "predict_x0", "to_unit_range"]
