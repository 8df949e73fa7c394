"""Which versions of a crop are made, and making them: all a function of (seed, step, group, slot)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from numpy.random import Generator
from torch import Tensor

from sr_perceptual_loss.training.distortions import DISTORTIONS, LEVELS, SR_DISTORTIONS, distort, distort_sr
from sr_perceptual_loss.training.lite.settings import GroupsConfig

__all__ = ["KADID", "MIXED", "NETWORK", "PRISTINE", "SR", "Recipe", "draw_recipes", "make_version"]

#: Kinds of versions.
PRISTINE, KADID, SR, MIXED, NETWORK = range(5)

#: Mild cells that serve as imperfect references: (type, level).
_SLIGHT = ((1, 1), (1, 2), (10, 1), (10, 2), (12, 1), (16, 1), (17, 1), (18, 2), (103, 1), (104, 1), (111, 1), (119, 1))


@dataclass(frozen=True)
class Recipe:
    """One version.

    Attributes:
        kind: ``PRISTINE``, ``KADID``, ``SR``, ``MIXED`` (an SR family, then a KADID type) or ``NETWORK``.
        number: type or family; 0 if there is none. Of a network: which of them.
        level: 1..5; 0 if there is none.
        second: type of a mixture, otherwise 0.
        second_level: its level.
    """

    kind: int = PRISTINE
    number: int = 0
    level: int = 0
    second: int = 0
    second_level: int = 0

    def row(self) -> tuple[int, int, int, int, int]:
        """As whole numbers, for a tensor."""
        return (self.kind, self.number, self.level, self.second, self.second_level)


def _cell(number: int, level: int) -> Recipe:
    return Recipe(KADID if number in DISTORTIONS else SR, number, level)


def draw_recipes(random: Generator, config: GroupsConfig, left_out: Sequence[int], networks: int) -> list[Recipe]:
    """Recipes of one group: the pristine crop, a slightly degraded one, two levels of one type, and anything.

    Args:
        random: numpy generator.
        config: shares and number of versions.
        left_out: types and families that must not be drawn.
        networks: number of SR networks whose outputs may be asked for; 0 for none.

    Returns:
        ``config.versions`` recipes, the pristine one first.
    """
    kadid = [n for n in DISTORTIONS if n not in left_out]
    families = [n for n in SR_DISTORTIONS if n not in left_out]
    slight = [cell for cell in _SLIGHT if cell[0] not in left_out] or [((kadid or families)[0], 1)]

    def level() -> int:
        return int(random.choice(LEVELS))

    def single() -> Recipe:
        use_sr = bool(families) and (not kadid or random.random() < config.sr)
        return _cell(int(random.choice(families if use_sr else kadid)), level())

    def anything() -> Recipe:
        chance = float(random.random())
        if networks and chance < config.networks:
            return Recipe(NETWORK, int(random.integers(networks)))
        if kadid and families and chance > 1 - config.mixtures:
            # Strong second distortions hide the first, so these are mild.
            parts = int(random.choice(families)), level(), int(random.choice(kadid)), int(random.integers(1, 4))
            return Recipe(MIXED, *parts)
        return single()

    first = single()
    other = [value for value in LEVELS if value != first.level]
    recipes = [Recipe(), _cell(*slight[int(random.integers(len(slight)))])]
    recipes += [first, _cell(first.number, int(random.choice(other)))]
    return (recipes + [anything() for _ in range(config.versions - len(recipes))])[: config.versions]


def make_version(crop: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """One version of a crop.

    Args:
        crop: (3, H, W) in [0, 1].
        recipe: what to do; a network's version is left pristine, since networks live in the training process.
        generator: for what is random in a distortion.

    Returns:
        (3, H, W) in [0, 1].
    """
    image = crop[None]
    if recipe.kind == KADID:
        image = distort(image, recipe.number, recipe.level, generator)
    elif recipe.kind in (SR, MIXED):
        image = distort_sr(image, recipe.number, recipe.level, generator)
        if recipe.kind == MIXED:
            image = distort(image, recipe.second, recipe.second_level, generator)
    return image[0]
