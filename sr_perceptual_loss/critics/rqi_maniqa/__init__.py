"""RQI on MANIQA: the published network and its inference form."""

from sr_perceptual_loss.critics.rqi_maniqa.inference import RQIManiqaInference
from sr_perceptual_loss.critics.rqi_maniqa.network import RQIManiqa

__all__ = ["RQIManiqa"]

RQIManiqa.inference_class = RQIManiqaInference
