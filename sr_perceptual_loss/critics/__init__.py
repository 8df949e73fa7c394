"""Critics: image pair in, one score per pair out. One file or folder per critic; importing this registers them all."""

from sr_perceptual_loss.critics import haarpsi
from sr_perceptual_loss.critics.base import Critic, CriticCard, SizeRule
from sr_perceptual_loss.critics.efficient_pban import network as efficient_pban
from sr_perceptual_loss.critics.registry import create_critic, get_card, list_critics, register_critic
from sr_perceptual_loss.critics.rqi_ahiq import network as rqi_ahiq
from sr_perceptual_loss.critics.rqi_maniqa import network as rqi_maniqa
from sr_perceptual_loss.critics.rqi_topiq import network as rqi_topiq
from sr_perceptual_loss.critics.texture_stats import critic as texture_stats

__all__ = [
    "Critic",
    "CriticCard",
    "SizeRule",
    "create_critic",
    "efficient_pban",
    "get_card",
    "haarpsi",
    "list_critics",
    "register_critic",
    "rqi_ahiq",
    "rqi_maniqa",
    "rqi_topiq",
    "texture_stats",
]
