"""Small instances of the registered critics, and image pairs of a size that they take."""

from __future__ import annotations

import torch
from pairs import make_pair

from sr_perceptual_loss import create_critic, get_card


def tiny(name, dtype=torch.float32):
    """The critic at its tiny size, always with the same weights; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        weights = None if get_card(name).needs_weights else "local"
        critic = create_critic(name, weights=weights, size="tiny").to(dtype)
    # Random weights may give nearly dead networks: spread the parameters a little, always in the same way.
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in critic.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator).to(p.dtype))
    return critic


def pair_for(critic, n=3, *, seed=0, dtype=torch.float32):
    """sr, hr of a size that the critic takes."""
    side = critic.input_size.fixed
    if side:
        return make_pair(n, side, side, seed=seed, dtype=dtype)
    base = max(critic.input_size.minimum, 40)
    return make_pair(n, base + 8, base + 13, seed=seed, dtype=dtype)
