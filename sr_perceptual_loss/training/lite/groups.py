"""Groups of versions and the pairs inside them; item ``k`` of the stream is all that step ``k`` needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sr_perceptual_loss.training.distortions import DISTORTIONS, LEVELS, SR_DISTORTIONS, distort, distort_sr
from sr_perceptual_loss.training.lite.measures import Fusion, fit_fusion, full_reference
from sr_perceptual_loss.training.lite.photographs import Photographs, numpy_generator
from sr_perceptual_loss.training.lite.settings import GroupsConfig, LitePairsConfig
from sr_perceptual_loss.training.lite.versions import MIXED, NETWORK, PRISTINE, Recipe, draw_recipes, make_version

__all__ = ["GroupStream", "Groups", "calibrate", "draw_pairs"]

# What a random number is for, so that two purposes never share a stream.
_TRAINING, _CALIBRATION, _PAIRS = 1, 2, 3


class Groups(NamedTuple):
    """Groups of one step.

    Attributes:
        images: (G, M, 3, S, S) in [0, 1]; version 0 is pristine. A network's version is pristine as yet.
        recipes: (G, M, 5) whole numbers, rows of :class:`Recipe`.
        pairs: (P, 2) numbers of images in 0..G*M-1, both of one group.
        same: (P,) whether both are levels of one type.
    """

    images: Tensor
    recipes: Tensor
    pairs: Tensor
    same: Tensor

    def recipe(self, number: int) -> Recipe:
        """Recipe of image ``number`` in 0..G*M-1."""
        return Recipe(*self.recipes.flatten(0, 1)[number].tolist())


def draw_pairs(random: Generator, recipes: Sequence[Recipe], config: LitePairsConfig) -> list[tuple[int, int, bool]]:
    """Pairs (first, second, levels of one type) of a group: against GT, against a slightly degraded one, any two.

    Args:
        random: numpy generator.
        recipes: of the group; 0 is pristine, 1 slightly degraded, 2 and 3 are levels of one type.
        config: shares.

    Returns:
        ``config.per_group`` pairs; the first one is of two levels.
    """
    count = len(recipes)
    pairs = [(2, 3)]
    for _ in range(config.per_group - 1):
        chance = float(random.random())
        if chance < config.against_gt:
            pairs.append((int(random.integers(1, count)), 0))
        elif chance < config.against_gt + config.degraded:
            first = int(random.integers(count - 1))
            pairs.append((first + (first >= 1), 1))
        else:
            first, second = random.choice(np.arange(1, count), 2, replace=False)
            pairs.append((int(first), int(second)))
    typed = [(r.kind, r.number) if r.kind not in (PRISTINE, MIXED, NETWORK) else None for r in recipes]
    return [(a, b, typed[a] is not None and typed[a] == typed[b]) for a, b in pairs]


class GroupStream(Dataset[Groups]):
    """Groups by step.

    Args:
        photographs: to cut crops from.
        groups: what to make.
        pairs: what to compare.
        left_out: types and families that are never shown.
        networks: number of SR networks whose outputs may be asked for.
        seed: of everything random.
        steps: length.
    """

    def __init__(
        self,
        photographs: Photographs,
        groups: GroupsConfig,
        pairs: LitePairsConfig,
        *,
        left_out: Sequence[int] = (),
        networks: int = 0,
        seed: int = 0,
        steps: int = 1,
    ) -> None:
        self.photographs, self.groups, self.pairs = photographs, groups, pairs
        self.left_out, self.networks, self.seed, self.steps = tuple(left_out), networks, seed, steps

    def __len__(self) -> int:
        """Number of steps."""
        return self.steps

    def __getitem__(self, step: int) -> Groups:
        """Groups of a step; the same in every process and order."""
        side = int(numpy_generator(self.seed, _TRAINING, step).choice(self.groups.crop_sides))
        images, rows, pairs, same = [], [], [], []
        for group in range(self.groups.count):
            random = numpy_generator(self.seed, _TRAINING, step, group)
            crop = self.photographs.crop(random, side, self.groups.shrink)
            recipes = draw_recipes(random, self.groups, self.left_out, self.networks)
            noise = torch.Generator().manual_seed(int(random.integers(2**62)))
            images.append(torch.stack([make_version(crop, recipe, noise) for recipe in recipes]))
            rows.append([recipe.row() for recipe in recipes])
            first = group * len(recipes)
            for a, b, typed in draw_pairs(numpy_generator(self.seed, _PAIRS, step, group), recipes, self.pairs):
                pairs.append((first + a, first + b))
                same.append(typed)
        return Groups(torch.stack(images), torch.tensor(rows), torch.tensor(pairs), torch.tensor(same))


def calibrate(
    photographs: Photographs,
    labels: Mapping[tuple[int, int], float],
    *,
    left_out: Sequence[int],
    crops: int,
    side: int,
    shrink: float,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Fusion:
    """Make crops of every type and level, measure them, and fit the fused measure to the table.

    Args:
        photographs: for training.
        labels: human means in [0, 1] by (type, level).
        left_out: types that the fit must not see; their cell means are measured all the same.
        crops: per type and level.
        side: of the crops.
        shrink: smallest factor of their reduction.
        seed: of crops and distortions.
        progress: called with (cells done, cells in all).

    Returns:
        The fitted fusion.
    """
    kinds = [*DISTORTIONS, *SR_DISTORTIONS]
    measured: dict[tuple[int, int], NDArray[np.float64]] = {}
    for place, number in enumerate(kinds):
        for level in LEVELS:
            random = numpy_generator(seed, _CALIBRATION, number, level)
            chosen = [photographs.crop(random, side, shrink) for _ in range(crops)]
            batch = torch.stack(chosen)
            noise = torch.Generator().manual_seed(int(random.integers(2**62)))
            make = distort if number in DISTORTIONS else distort_sr
            measured[number, level] = full_reference(make(batch, number, level, noise), batch).double().numpy()
        if progress is not None:
            progress(place + 1, len(kinds))
    return fit_fusion(measured, {key: value for key, value in labels.items() if key[0] not in left_out})
