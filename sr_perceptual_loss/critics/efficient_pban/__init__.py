"""Efficient-PBAN: the published network and its inference form."""

from sr_perceptual_loss.critics.efficient_pban.inference import EfficientPBANInference
from sr_perceptual_loss.critics.efficient_pban.network import EfficientPBAN

__all__ = ["EfficientPBAN"]

EfficientPBAN.inference_class = EfficientPBANInference
