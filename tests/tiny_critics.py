"""Small critics for tests: ``tiny_<name>`` for each critic with weights, registered by the root conftest.

``tiny_rqi_maniqa`` is the class RQIManiqa with other default arguments, so a YAML or a loss can name it.
"""

from __future__ import annotations

import dataclasses

import torch
from pairs import make_pair

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.dists import Dists, DistsVgg
from sr_perceptual_loss.critics.efficient_pban.network import EfficientPBAN
from sr_perceptual_loss.critics.lpips import Lpips, LpipsAlex, LpipsSqueeze, LpipsVgg
from sr_perceptual_loss.critics.registry import create_critic, get_card, list_critics, register_critic
from sr_perceptual_loss.critics.rqi_ahiq.network import RQIAhiq
from sr_perceptual_loss.critics.rqi_maniqa.network import RQIManiqa
from sr_perceptual_loss.critics.rqi_topiq.network import RQITopiq

#: Critics of the package, whatever else a test has registered.
CRITICS = tuple(name for name in list_critics() if not name.startswith("tiny_"))


def _register_tiny(base: type[Critic]) -> type[Critic]:
    with torch.random.fork_rng(devices=[]):
        small = base.tiny()
    config = dict(small.config)

    class Tiny(base):
        card = dataclasses.replace(base.card, name=f"tiny_{base.card.name}", input_size=small.input_size)

        def __init__(self, **options):
            super().__init__(**{**config, **options})

        @classmethod
        def tiny(cls):
            return cls()

    # Importable under its own name, so that instances can be pickled.
    Tiny.__name__ = Tiny.__qualname__ = f"Tiny{base.__name__}"
    return register_critic(Tiny)


TinyEfficientPBAN = _register_tiny(EfficientPBAN)
TinyRQIManiqa = _register_tiny(RQIManiqa)
TinyRQIAhiq = _register_tiny(RQIAhiq)
TinyRQITopiq = _register_tiny(RQITopiq)
TinyLpips = _register_tiny(Lpips)
TinyLpipsAlex = _register_tiny(LpipsAlex)
TinyLpipsVgg = _register_tiny(LpipsVgg)
TinyLpipsSqueeze = _register_tiny(LpipsSqueeze)
TinyDists = _register_tiny(Dists)
TinyDistsVgg = _register_tiny(DistsVgg)


def tiny(name, dtype=torch.float32):
    """The critic at its tiny size, always with the same weights; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        critic = create_critic(name).to(dtype) if not get_card(name).needs_weights else None
        if critic is None:
            critic = create_critic(f"tiny_{name.removeprefix('tiny_')}", weights=None).to(dtype)
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
