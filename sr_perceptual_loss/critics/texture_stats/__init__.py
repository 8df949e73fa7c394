"""texture_stats: local texture statistics times structure."""

from sr_perceptual_loss.critics.texture_stats.critic import TextureStats

__all__ = ["TextureStats"]
