"""Critics: image pair in, one score per pair out. One file or folder per critic; importing this registers them all."""

from sr_perceptual_loss.critics import (
    dists,
    efficient_pban,
    haarpsi,
    lpips,
    rqi_ahiq,
    rqi_maniqa,
    rqi_topiq,
    ssimulacra2,
    texture_stats,
)
from sr_perceptual_loss.critics.base import Critic, CriticCard, SizeRule
from sr_perceptual_loss.critics.registry import create_critic, get_card, list_critics, register_critic

__all__ = [
    "Critic",
    "CriticCard",
    "SizeRule",
    "create_critic",
    "dists",
    "efficient_pban",
    "get_card",
    "haarpsi",
    "list_critics",
    "lpips",
    "register_critic",
    "rqi_ahiq",
    "rqi_maniqa",
    "rqi_topiq",
    "ssimulacra2",
    "texture_stats",
]
