"""One form for all label files: rated images and pairwise votes, grouped by scene.

A *scene* is one pristine picture with all its versions. Scores are higher = better in every set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sr_perceptual_loss.errors import InputError

__all__ = ["LabelSet", "Problems", "RatedImage", "Vote", "split_scenes"]


@dataclass(frozen=True)
class RatedImage:
    """One judged image.

    Attributes:
        scene: name of the pristine picture; never shared between training and validation.
        dist: the judged image.
        ref: its reference.
        score: opinion score, higher is better, in the units of the set.
        distortion: type of distortion or name of the SR method; empty where the set has none.
    """

    scene: str
    dist: Path
    ref: Path
    score: float
    distortion: str = ""


@dataclass(frozen=True)
class Vote:
    """One compared pair of versions of a scene.

    Attributes:
        scene: name of the pristine picture.
        a: first version.
        b: second version.
        ref: their reference.
        probability: share of people who prefer ``a``, in [0, 1].
    """

    scene: str
    a: Path
    b: Path
    ref: Path
    probability: float


@dataclass(frozen=True)
class LabelSet:
    """A data set as its label files give it.

    Attributes:
        name: registry name of the reader.
        rated: images with an opinion score.
        votes: compared pairs; empty for most sets.
        score_range: lowest and highest score that the scale allows (documented range, or the extremes of the file
            where the scale is open, such as Elo).
        comparable_across_scenes: False where scores were scaled per scene, so that only images of one scene compare.
        official_split: part ("train", "val", "test") -> its entries' judged images, where the set publishes one.
        notes: what a user must know, one sentence each; shown before training and evaluation.
    """

    name: str
    rated: tuple[RatedImage, ...]
    votes: tuple[Vote, ...] = ()
    score_range: tuple[float, float] = (0.0, 1.0)
    comparable_across_scenes: bool = True
    official_split: Mapping[str, frozenset[Path]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def scenes(self) -> list[str]:
        """Names of all scenes, sorted."""
        return sorted({r.scene for r in self.rated} | {v.scene for v in self.votes})

    def subset(self, scenes: Iterable[str]) -> LabelSet:
        """The entries of these scenes."""
        keep = frozenset(scenes)
        return self._filtered(lambda scene, _: scene in keep)

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
        return LabelSet(
            name=self.name,
            rated=tuple(r for r in self.rated if keep(r.scene, r.dist)),
            votes=tuple(v for v in self.votes if keep(v.scene, v.a)),
            score_range=self.score_range,
            comparable_across_scenes=self.comparable_across_scenes,
            notes=self.notes,
        )


def split_scenes(scenes: Iterable[str], *, train: float = 0.8, seed: int = 0) -> tuple[list[str], list[str]]:
    """Two disjoint sets of scenes by a seeded shuffle.

    Args:
        scenes: names; the order does not matter.
        train: share of the first part, in (0, 1).
        seed: of the shuffle.

    Returns:
        (training scenes, validation scenes), both sorted and neither empty.

    Raises:
        InputError: fewer than two scenes, or a share that leaves a part empty for any number of scenes.
    """
    names = sorted(set(scenes))
    if len(names) < 2:
        raise InputError(f"a split needs at least two scenes, got {len(names)}; a scene never lies in both parts.")
    if not 0 < train < 1:
        raise InputError(f"train: got {train:g}, expected a share between 0 and 1.")
    count = min(max(round(train * len(names)), 1), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = {names[i] for i in order[:count]}
    return [n for n in names if n in chosen], [n for n in names if n not in chosen]


class Problems:
    """Collects what is wrong with label files, so that a user sees everything in one report.

    Args:
        name: of the data set, for the heading.
    """

    SHOWN = 20

    def __init__(self, name: str) -> None:
        self.name = name
        self._lines: list[str] = []

    def add(self, file: Path, line: int | None, what: str) -> None:
        """Note one fault: file, line (from 1; None for the whole file), what came and what was expected."""
        self._lines.append(f"{file}{'' if line is None else f', line {line}'}: {what}")

    def __len__(self) -> int:
        return len(self._lines)

    def check(self) -> None:
        """Raise if anything was noted.

        Raises:
            InputError: one report, the first 20 faults and the number of the others.
        """
        if not self._lines:
            return
        shown = "\n  ".join(self._lines[: self.SHOWN])
        rest = len(self._lines) - self.SHOWN
        more = f"\n  ... and {rest} more" if rest > 0 else ""
        raise InputError(f"{self.name}: {len(self._lines)} problem(s) in the data set:\n  {shown}{more}")
