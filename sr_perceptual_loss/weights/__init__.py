"""Weights: published files, the local store, the file format, conversion. Does not import ``critics``."""

from sr_perceptual_loss.weights.file import WeightsFile, load_weights
from sr_perceptual_loss.weights.file import save as save_weights
from sr_perceptual_loss.weights.manifest import WeightsEntry

__all__ = ["WeightsEntry", "WeightsFile", "load_weights", "save_weights"]
