"""Fine-tuning with a pixel loss, a perceptual loss and a GAN as a plain weighted sum; it can be interrupted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_perceptual_loss.losses.base import PairLoss
from trials.training import Photographs, Progress, shrink

__all__ = ["Recipe", "patch_discriminator", "train"]

#: Steps in which the discriminator learns alone, so that the network never follows an untrained one.
ALONE = 60


@dataclass(frozen=True)
class Recipe:
    """How a network is fine-tuned: L1 + weight * loss + gan * adversarial loss.

    Attributes:
        weight: of the perceptual loss; 0 without one.
        gan: of the adversarial loss; 0: no discriminator is trained.
        steps: of the network's optimizer.
        batch: crops per step.
        side: of GT crops.
        rate: Adam's learning rate, falling to a tenth along a cosine.
        seed: of crops and discriminator.
    """

    weight: float = 0.0
    gan: float = 0.0
    steps: int = 2500
    batch: int = 4
    side: int = 96
    rate: float = 2e-4
    seed: int = 0

    def key(self) -> str:
        """Part of a file name that identifies the training."""
        return "-".join(f"{value:.4g}" for value in asdict(self).values())


def patch_discriminator() -> nn.Sequential:
    """Five convolutions without normalisation, (N, 3, H, W) -> logits of patches; initialised for leaky ReLU.

    With spectral norm or the default initialisation it had learned nothing after 200 steps.
    """
    layers: list[nn.Module] = []
    sizes = ((3, 32, 3, 1), (32, 48, 4, 2), (48, 96, 4, 2), (96, 128, 3, 1), (128, 1, 3, 1))
    for number, (inner, outer, kernel, stride) in enumerate(sizes):
        convolution = nn.Conv2d(inner, outer, kernel, stride, 1)
        nn.init.kaiming_normal_(convolution.weight, a=0.2)
        nn.init.zeros_(convolution.bias)
        layers += [nn.LeakyReLU(0.2), convolution] if number else [convolution]
    return nn.Sequential(*layers)


class _Training:
    """Network, discriminator, their optimizers, and the steps done."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.patches = patch_discriminator()
        self.network, self.step = network, 0
        self.adam = torch.optim.Adam(network.parameters(), lr=recipe.rate, betas=(0.9, 0.99))
        self.adam_of_patches = torch.optim.Adam(self.patches.parameters(), lr=4e-4, betas=(0.9, 0.99))
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.adam, recipe.steps, eta_min=recipe.rate / 10)

    @property
    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler]:
        return {
            "network": self.network,
            "patches": self.patches,
            "adam": self.adam,
            "adam_of_patches": self.adam_of_patches,
            "schedule": self.schedule,
        }

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        torch.save({"step": self.step, **{name: value.state_dict() for name, value in self.parts.items()}}, part)
        part.replace(file)

    def load(self, file: Path) -> None:
        state = torch.load(file, weights_only=True)
        self.step = state["step"]
        for name, value in self.parts.items():
            value.load_state_dict(state[name])


def train(
    network: nn.Module,
    loss: PairLoss | None,
    recipe: Recipe,
    photographs: Photographs,
    state: Path,
    progress: Progress,
    every: int = 250,
) -> None:
    """Fine-tune ``network`` in place.

    Args:
        network: (N, 3, h, w) -> (N, 3, 4 h, 4 w) in [0, 1].
        loss: the perceptual loss, or None.
        recipe: weights and steps.
        photographs: to draw GT crops from.
        state: file that an interrupted training continues from; written every ``every`` steps.
        progress: called after every step.
        every: steps between two states.
    """
    training = _Training(network, recipe)
    if state.is_file():
        training.load(state)
    for step in range(training.step, recipe.steps):
        hr = photographs.crops(recipe.seed + 1, step, recipe.batch, recipe.side)
        sr = network(shrink(hr))
        if step >= ALONE or not recipe.gan:
            _update_network(training, loss, recipe, sr, hr)
        if recipe.gan:
            training.adam_of_patches.zero_grad()
            real, fake = training.patches(hr), training.patches(sr.detach())
            (F.softplus(-real).mean() + F.softplus(fake).mean()).backward()
            training.adam_of_patches.step()
        training.step = step + 1
        if training.step % every == 0:
            training.save(state)
        progress(training.step, recipe.steps, F.l1_loss(sr.detach(), hr).item())


def _update_network(training: _Training, loss: PairLoss | None, recipe: Recipe, sr: Tensor, hr: Tensor) -> None:
    total = F.l1_loss(sr, hr)
    if loss is not None and recipe.weight:
        loss.step(training.step)
        total = total + recipe.weight * loss(sr, hr)
    if recipe.gan:
        training.patches.requires_grad_(False)
        total = total + recipe.gan * F.softplus(-training.patches(sr)).mean()
    training.adam.zero_grad()
    total.backward()
    training.adam.step()
    training.schedule.step()
    training.patches.requires_grad_(True)
