"""Critics: image pair in, one score per pair out. One file or folder per critic; ``registry.py`` lists them."""

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.registry import create_critic, get_card, list_critics, register_critic

__all__ = ["Critic", "CriticCard", "SizeRule", "create_critic", "get_card", "list_critics", "register_critic"]
