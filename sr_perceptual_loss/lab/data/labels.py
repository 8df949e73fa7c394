"""One form for the labels of all data sets: rated images and pairwise votes, grouped by reference content.

A *reference content* is one reference image with all its distorted versions. Scores are higher = better in every set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sr_perceptual_loss.errors import InputError

__all__ = ["LabelSet", "RatedImage", "Vote", "split_contents"]


@dataclass(frozen=True)
class RatedImage:
    """One distorted (SR) image with its opinion score."""

    content: str  # name of the reference content; never shared between training and validation
    dist: Path  # the distorted image
    ref: Path  # its reference image
    score: float  # opinion score, higher is better, in the units of the set
    distortion: str = ""  # type of distortion or name of the SR method; empty where the set has none


@dataclass(frozen=True)
class Vote:
    """One compared pair of versions of a reference content."""

    content: str  # name of the reference content
    a: Path  # first version
    b: Path  # second version
    ref: Path  # their reference image
    probability: float  # share of people who prefer ``a``, in [0, 1]


@dataclass(frozen=True)
class LabelSet:
    """The labels of a data set."""

    name: str  # registry name of the data set
    rated: tuple[RatedImage, ...]  # images with an opinion score
    votes: tuple[Vote, ...] = ()  # compared pairs; empty for most sets
    # Lowest and highest score that the scale allows (documented range, or the extremes of the file where the scale is
    # open, such as Elo).
    score_range: tuple[float, float] = (0.0, 1.0)
    # False where scores were scaled per reference content, so that only images of one content can be compared
    comparable_across_contents: bool = True
    # Part ("train", "val", "test") -> distorted images of that part, where the set publishes one.
    official_split: Mapping[str, frozenset[Path]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what a user must know, one sentence each; shown before training and evaluation

    @property
    def contents(self) -> list[str]:
        """Names of all reference contents, sorted."""
        return sorted({r.content for r in self.rated} | {v.content for v in self.votes})

    def subset(self, contents: Iterable[str]) -> LabelSet:
        """The entries of these reference contents."""
        keep = frozenset(contents)
        return self._filtered(lambda content, _: content in keep)

    def part(self, name: str) -> LabelSet:
        """The entries of one part of the official split.

        Raises:
            InputError: the set has no such part.
        """
        if name not in self.official_split:
            known = ", ".join(self.official_split) or "none"
            raise InputError(f"{self.name}: no official part '{name}' (known: {known}).")
        keep = self.official_split[name]
        return self._filtered(lambda _, dist: dist in keep)

    def _filtered(self, keep: Callable[[str, Path], bool]) -> LabelSet:
        return replace(
            self,
            rated=tuple(r for r in self.rated if keep(r.content, r.dist)),
            votes=tuple(v for v in self.votes if keep(v.content, v.a)),
            official_split={},
        )


def split_contents(contents: Iterable[str], *, train: float = 0.8, seed: int = 0) -> tuple[list[str], list[str]]:
    """Two disjoint sets of reference contents by a seeded shuffle of their names, whatever the order of the names.

    ``train`` is the share of the first part, in (0, 1). Both parts are sorted, and neither is empty.

    Raises:
        InputError: fewer than two contents, or a share outside (0, 1).
    """
    names = sorted(set(contents))
    if len(names) < 2:
        raise InputError(f"a split needs at least two reference contents, got {len(names)}.")
    if not 0 < train < 1:
        raise InputError(f"train: got {train:g}, expected a share between 0 and 1.")
    count = min(max(round(train * len(names)), 1), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = {names[i] for i in order[:count]}
    return [n for n in names if n in chosen], [n for n in names if n not in chosen]
