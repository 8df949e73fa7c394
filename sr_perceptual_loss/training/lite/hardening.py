"""Attacks in the loop: they fill a pool with what raises the critic and makes no picture better, labelled rightly."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.rqi_lite import RQILite
from sr_perceptual_loss.training.attacks.networks import HEADS, SmallSR
from sr_perceptual_loss.training.attacks.patterns import PERIODS, attack_tile, draw_tile, with_pattern
from sr_perceptual_loss.training.attacks.pixels import pixel_attack
from sr_perceptual_loss.training.attacks.pool import AttackPool
from sr_perceptual_loss.training.lite.labels import Labels
from sr_perceptual_loss.training.lite.measures import PRISTINE_LABEL, full_reference
from sr_perceptual_loss.training.lite.settings import AttackConfig

__all__ = ["HONEST", "Hardening", "shrunk"]

#: Networks that learn from L1 alone and serve as versions: three that grow up, three that stay half-trained.
HONEST = 2 * len(HEADS)
_RATE = 1e-3
# Pressure of the critic beside L1, of one restart after the other.
_PRESSURES = (0.02, 0.1, 0.5)
_PIXEL_RATES = (0.001, 0.002, 0.004, 0.008)
_AMPLITUDES = 0.5 / 255, 20 / 255
_TILE_STEPS = 3


def shrunk(hr: Tensor) -> Tensor:
    """Antialiased bicubic x1/4, (N, 3, H, W) with sides that are multiples of 4."""
    size = (hr.shape[-2] // 4, hr.shape[-1] // 4)
    return F.interpolate(hr, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _network(head: str, seed: int, device: torch.device) -> SmallSR:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallSR(head).to(device)


def _generator(seed: int, step: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) * 31 + purpose) % 2**62)


class Hardening:
    """Honest and attacking SR networks, and the pool.

    Args:
        critic: what is attacked, as it is at each step.
        labels: to correct labels with.
        config: what is on, and how often.
        side: of the pool's images.
        seed: of everything random.
        device: of the critic.
    """

    def __init__(
        self, critic: RQILite, labels: Labels, config: AttackConfig, *, side: int, seed: int, device: torch.device
    ) -> None:
        self.critic, self.labels, self.config, self.seed, self.device = critic, labels, config, seed, device
        self.pool = AttackPool(max(1, config.pool), side)
        self.honest = [_network(HEADS[i % 3], seed * 1009 + i, device) for i in range(HONEST)]
        self.attackers = [_network(HEADS[i], seed * 1009 + 100 + i, device) for i in range(len(HEADS))]
        self._optimizers = [torch.optim.Adam(n.parameters(), lr=_RATE) for n in (*self.honest, *self.attackers)]

    @property
    def active(self) -> bool:
        """Whether anything fills the pool."""
        return self.config.pool > 0 and bool(self.config.pixels or self.config.networks or self.config.patterns)

    @torch.no_grad()
    def honest_output(self, number: int, gt: Tensor) -> Tensor:
        """Output of an honest network for reduced crops, (N, 3, S, S) in [0, 1]."""
        return self.honest[number](shrunk(gt)).clamp(0, 1)

    def teach(self, step: int, gt: Tensor) -> None:
        """One step of L1 for one honest network; a young one starts anew from time to time."""
        number = step % HONEST
        if number >= len(HEADS) and (step // HONEST) % self.config.restart == 0:
            fresh = _network(HEADS[number % 3], self.seed * 1009 + 1000 + step, self.device)
            self._replace(number, fresh)
        network = self.honest[number]
        self._update(number, network, F.l1_loss(network(shrunk(gt)), gt))

    def _replace(self, number: int, fresh: SmallSR) -> None:
        """Load other weights and forget the optimizer's moments."""
        network = (*self.honest, *self.attackers)[number]
        network.load_state_dict(fresh.state_dict())
        self._optimizers[number] = torch.optim.Adam(network.parameters(), lr=_RATE)

    def _update(self, number: int, network: SmallSR, loss: Tensor) -> None:
        """A step whose gradient reaches the network alone, never the critic."""
        parameters = list(network.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self._optimizers[number].step()

    def attack(self, step: int, groups: Tensor, labels: Tensor) -> dict[str, float]:
        """Make attacked images where this step asks for them.

        Args:
            step: of the training.
            groups: (G, M, 3, S, S), version 0 pristine.
            labels: (G, M) of the versions.

        Returns:
            name -> mean score less label of the new images, for the log.
        """
        config = self.config
        found: dict[str, float] = {}
        if not self.active or step < config.start:
            return found
        gt = self._cut(groups[:, 0], step)
        if config.pixels and step % config.pixels == 0:
            found["pixels"] = self._pixels(step, groups, labels)
        if config.patterns and step % config.patterns == config.patterns // 2:
            found["patterns"] = self._patterns(step, groups, labels)
        if config.networks and step % config.networks == 0:
            found["networks"] = self._networks(step, gt)
        return found

    def _cut(self, images: Tensor, step: int) -> Tensor:
        """Aligned square of the pool's size out of the last two dimensions."""
        spare = images.shape[-1] - self.pool.side
        y, x = torch.randint(0, spare + 1, (2,), generator=_generator(self.seed, step, 1)).tolist()
        return images[..., y : y + self.pool.side, x : x + self.pool.side]

    def _hosts(self, step: int, groups: Tensor, labels: Tensor, purpose: int) -> tuple[Tensor, Tensor, list[float]]:
        """Images to attack, half of them pristine, with their references and labels."""
        generator = _generator(self.seed, step, purpose)
        cut = self._cut(groups, step)
        count, versions = cut.shape[:2]
        group = torch.randint(0, count, (self.config.pixel_images,), generator=generator)
        version = torch.randint(0, versions, (self.config.pixel_images,), generator=generator)
        version[::2] = 0
        starts = labels.cpu()[group, version].tolist()
        return cut[group, version], cut[group, 0], starts

    def _pixels(self, step: int, groups: Tensor, labels: Tensor) -> float:
        generator = _generator(self.seed, step, 2)
        start, gt, values = self._hosts(step, groups, labels, 3)
        steps = int(
            torch.randint(min(4, self.config.pixel_steps), self.config.pixel_steps + 1, (), generator=generator)
        )
        rate = _PIXEL_RATES[int(torch.randint(len(_PIXEL_RATES), (), generator=generator))]
        attacked = pixel_attack(self.critic, start, gt, steps=steps, rate=rate)
        corrected = self.labels.corrected(values, full_reference(start, gt), full_reference(attacked, gt))
        return self._keep(attacked, gt, corrected)

    def _patterns(self, step: int, groups: Tensor, labels: Tensor) -> float:
        generator = _generator(self.seed, step, 4)
        start, gt, values = self._hosts(step, groups, labels, 5)
        period = PERIODS[int(torch.randint(len(PERIODS), (), generator=generator))]
        low, high = (math.log(a) for a in _AMPLITUDES)
        amplitude = math.exp(low + float(torch.rand((), generator=generator)) * (high - low))
        tile = draw_tile(period, generator)
        if float(torch.rand((), generator=generator)) < 0.5:
            tile = attack_tile(self.critic, start, gt, tile, amplitude=amplitude, steps=_TILE_STEPS)
        cost = self.labels.pattern_cost(amplitude)
        return self._keep(with_pattern(start, tile, amplitude), gt, [max(-0.2, value - cost) for value in values])

    def _networks(self, step: int, gt: Tensor) -> float:
        """One step of one network towards L1 and the critic; its outputs go into the pool."""
        turn = step // self.config.networks
        head, life = turn % len(HEADS), turn // len(HEADS)
        if life % self.config.restart == 0:
            self._replace(HONEST + head, self.honest[head])
        network = self.attackers[head]
        pressure = _PRESSURES[life // self.config.restart % len(_PRESSURES)]
        low = shrunk(gt)
        output = network(low)
        score = self.critic.score(output, gt).mean()
        self._update(HONEST + head, network, F.l1_loss(output, gt) - pressure * score)
        with torch.no_grad():
            attacked = output.detach().clamp(0, 1)
            bicubic = F.interpolate(low, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)
        starts = [self.labels.network_start] * len(gt)
        corrected = self.labels.corrected(starts, full_reference(bicubic, gt), full_reference(attacked, gt))
        return self._keep(attacked, gt, corrected)

    def _keep(self, attacked: Tensor, gt: Tensor, labels: list[float]) -> float:
        """Into the pool; returns how far the critic is above the corrected labels on average."""
        differences = [label - PRISTINE_LABEL for label in labels]
        self.pool.add(attacked, gt, differences)
        with torch.no_grad():
            scores = self.critic.score(attacked, gt)
        return float(scores.mean()) - sum(differences) / len(differences)

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """Pairs of the pool for this step, or None while it is empty."""
        if not self.active or not len(self.pool):
            return None
        return self.pool.draw(self.config.pairs, _generator(self.seed, step, 6), self.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        networks = [*self.honest, *self.attackers]
        return {
            "networks": [n.state_dict() for n in networks],
            "optimizers": [o.state_dict() for o in self._optimizers],
            "pool": self.pool.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As it was."""
        for network, value in zip((*self.honest, *self.attackers), state["networks"], strict=True):
            network.load_state_dict(value)
        for optimizer, value in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(value)
        self.pool.load_state_dict(state["pool"])
