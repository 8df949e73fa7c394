"""Monitoring of a training for reward hacking: the guard, its measures, the probe."""

from sr_perceptual_loss.monitor.guard import HackingError, HackingGuard
from sr_perceptual_loss.monitor.probe import probe

__all__ = ["HackingError", "HackingGuard", "probe"]
