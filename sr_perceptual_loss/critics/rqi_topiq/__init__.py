"""RQI on TOPIQ-FR: the published network and its inference form."""

from sr_perceptual_loss.critics.rqi_topiq.inference import RQITopiqInference
from sr_perceptual_loss.critics.rqi_topiq.network import RQITopiq

__all__ = ["RQITopiq"]

RQITopiq.inference_class = RQITopiqInference
