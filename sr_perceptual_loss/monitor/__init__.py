"""Monitoring of a training: the guard against reward hacking, its measures, and the probe that proposes weights."""

from sr_perceptual_loss.monitor.guard import HackingError, HackingGuard

__all__ = ["HackingError", "HackingGuard"]
