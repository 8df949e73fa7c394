"""RQI on AHIQ: the published network and its inference form."""

from sr_perceptual_loss.critics.rqi_ahiq.inference import RQIAhiqInference
from sr_perceptual_loss.critics.rqi_ahiq.network import RQIAhiq

__all__ = ["RQIAhiq"]

RQIAhiq.inference_class = RQIAhiqInference
