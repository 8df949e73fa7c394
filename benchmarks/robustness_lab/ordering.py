"""Whether a critic orders the few really rated pictures as people do: a check of direction, no statistic."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.images import read_image

__all__ = ["Rated", "ordered_pairs", "read_rated"]


@dataclass(frozen=True)
class Rated:
    """One rated picture.

    Attributes:
        reference: file of the reference.
        picture: file of the picture.
        score: of people, higher is better.
    """

    reference: Path
    picture: Path
    score: float


def read_rated(folder: Path) -> list[Rated]:
    """The rows of the only CSV of a folder: ``ref``, ``dist``, ``mos``; pictures lie beside it.

    Raises:
        InputError: not exactly one CSV, or columns missing.
    """
    files = sorted(folder.glob("*.csv"))
    if len(files) != 1:
        raise InputError(f"{folder}: got {len(files)} CSV files, expected one with ref, dist, mos.")
    with files[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {"ref", "dist", "mos"} - set(rows[0] if rows else ())
    if missing:
        raise InputError(f"{files[0]}: no column {', '.join(sorted(missing))}.")
    return [Rated(folder / row["ref"], folder / row["dist"], float(row["mos"])) for row in rows]


@torch.no_grad()
def ordered_pairs(critic: Critic, rated: Sequence[Rated]) -> tuple[int, int]:
    """Pairs of the same reference that the critic orders as people do, the reference itself being the best of all.

    Args:
        critic: judged.
        rated: of :func:`read_rated`, several references allowed.

    Returns:
        (right, all).
    """
    right = total = 0
    for reference in sorted({item.reference for item in rated}):
        hr = read_image(reference)[None]
        found = [(float("inf"), float(critic.score(hr, hr)))]
        for item in (item for item in rated if item.reference == reference):
            found.append((item.score, float(critic.score(read_image(item.picture)[None], hr))))
        for (people_a, critic_a), (people_b, critic_b) in combinations(found, 2):
            if people_a != people_b:
                total += 1
                right += (critic_a - critic_b) * (1 if people_a > people_b else -1) > 0
    return right, total
