"""Distortions of pictures: KADID-10k's 25 types (:mod:`.kadid`) and what super-resolution does (:mod:`.sr`)."""

from sr_perceptual_loss.training.distortions.kadid import DISTORTIONS, distort
from sr_perceptual_loss.training.distortions.registry import LEVELS, MINIMUM_SIDE, Distortion
from sr_perceptual_loss.training.distortions.sr import SR_DISTORTIONS, distort_sr
from sr_perceptual_loss.training.distortions.sr_upscaling import network_output

__all__ = [
    "DISTORTIONS",
    "LEVELS",
    "MINIMUM_SIDE",
    "SR_DISTORTIONS",
    "Distortion",
    "distort",
    "distort_sr",
    "network_output",
]
