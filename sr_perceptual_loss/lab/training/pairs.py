"""Which two images a training step compares, and the label of the comparison.

Every draw is a function of (seed, epoch, index) alone: the same after an interruption, for any number of loader workers
and processes.

Source: RQI, arXiv 2503.13074, training scheme (ordered pairs of one scene, arbitrary distortions, label q_i - q_j).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.scale import ScoreScale

__all__ = ["Comparison", "Draws", "OpinionDraws", "ScenePairDraws", "VoteDraws", "generator_for"]

# The pristine picture as a member of its scene has no distortion type of its own.
PRISTINE = "(pristine)"


@dataclass(frozen=True)
class Comparison:
    """One training sample.

    Attributes:
        judged: first image.
        reference: second image.
        label: what the critic should say.
    """

    judged: Path
    reference: Path
    label: float


def generator_for(seed: int, epoch: int, index: int, purpose: int) -> np.random.Generator:
    """A private generator for one draw; ``purpose`` keeps pairs and crops independent."""
    return np.random.default_rng([seed, epoch, index, purpose])


class Draws(ABC):
    """A number of comparisons per epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """Comparisons per epoch."""

    @abstractmethod
    def draw(self, epoch: int, index: int) -> Comparison:
        """Comparison ``index`` of ``epoch``."""


class ScenePairDraws(Draws):
    """Ordered pairs of two versions of one scene; label = difference of their scaled scores.

    A scene is drawn, then an ordered pair of it, each uniformly; both orders are equally likely.

    Args:
        labels: training scenes.
        scale: from scores to [0, 1].
        seed: of the draws.
        same_distortion: only pairs of one distortion type.
        pristine: score of the pristine picture as a member of its scene, already scaled; None leaves it out.
        pristine_share: share of pairs of which one is the pristine picture; None for what its membership gives.
        per_epoch: draws per epoch; None for one per rated image.

    Raises:
        InputError: no scene has a pair.
    """

    def __init__(
        self,
        labels: LabelSet,
        scale: ScoreScale,
        *,
        seed: int,
        same_distortion: bool = False,
        pristine: float | None = None,
        pristine_share: float | None = None,
        per_epoch: int | None = None,
    ) -> None:
        if pristine_share is not None and pristine is None:
            raise InputError(
                "pairs.pristine_share: needs pairs.pristine, the score of the pristine picture (such as 1.0)."
            )
        if not labels.comparable_across_scenes and pristine is not None:
            raise InputError(f"pairs.pristine: {labels.name} scales its scores per scene; leave it null.")
        self.seed = seed
        scenes: dict[str, list[tuple[Path, float, str]]] = defaultdict(list)
        references: dict[str, Path] = {}
        for image in labels.rated:
            scenes[image.scene].append((image.dist, scale.to_unit(image.score), image.distortion))
            references[image.scene] = image.ref
        self._share, self._pristine = pristine_share, pristine
        self._references = [references[scene] for scene in sorted(scenes)]
        self._members = [scenes[scene] for scene in sorted(scenes)]
        if pristine is not None and pristine_share is None:
            for scene, ref in references.items():
                scenes[scene].append((ref, pristine, PRISTINE))
        self._groups = self._grouped(scenes, same_distortion)
        if not self._groups:
            kind = " of one distortion type" if same_distortion else ""
            raise InputError(f"{labels.name}: no scene has two images{kind}; the RQI scheme needs pairs of one scene.")
        self._length = per_epoch or len(labels.rated)

    @staticmethod
    def _grouped(
        scenes: dict[str, list[tuple[Path, float, str]]], same_distortion: bool
    ) -> list[list[list[tuple[Path, float, str]]]]:
        """Scene -> groups inside which pairs are drawn -> members."""
        result = []
        for scene in sorted(scenes):
            groups: dict[str, list[tuple[Path, float, str]]] = defaultdict(list)
            for member in scenes[scene]:
                groups[member[2] if same_distortion else ""].append(member)
            usable = [groups[key] for key in sorted(groups) if len(groups[key]) > 1]
            if usable:
                result.append(usable)
        return result

    def __len__(self) -> int:
        """Draws per epoch."""
        return self._length

    def draw(self, epoch: int, index: int) -> Comparison:
        """A pair; a function of (seed, epoch, index)."""
        random = generator_for(self.seed, epoch, index, 0)
        if self._share is not None and self._pristine is not None and random.random() < self._share:
            return self._with_pristine(random, self._pristine)
        groups = self._groups[random.integers(len(self._groups))]
        # Weighted by their number of pairs, so that every ordered pair of the scene is equally likely.
        sizes = np.array([len(group) * (len(group) - 1) for group in groups], dtype=np.float64)
        group = groups[random.choice(len(groups), p=sizes / sizes.sum())]
        first, second = random.choice(len(group), size=2, replace=False)
        (judged, high, _), (reference, low, _) = group[first], group[second]
        return Comparison(judged, reference, high - low)

    def _with_pristine(self, random: np.random.Generator, pristine: float) -> Comparison:
        """A version and its pristine picture, in either order."""
        scene = random.integers(len(self._references))
        members, reference = self._members[scene], self._references[scene]
        image, score, _ = members[random.integers(len(members))]
        if random.random() < 0.5:
            return Comparison(image, reference, score - pristine)
        return Comparison(reference, image, pristine - score)


class VoteDraws(Draws):
    """Compared pairs, in either order; label = 2 p - 1, p the share of people who prefer the first image.

    Args:
        labels: training scenes.
        seed: of the draws.
        per_epoch: draws per epoch; None for one per vote.
    """

    def __init__(self, labels: LabelSet, *, seed: int, per_epoch: int | None = None) -> None:
        self.seed, self.votes = seed, labels.votes
        self._shuffle = _Shuffle(len(self.votes), seed)
        self._length = per_epoch or len(self.votes)

    def __len__(self) -> int:
        """Draws per epoch."""
        return self._length

    def draw(self, epoch: int, index: int) -> Comparison:
        """A vote in a random order; all votes come once before any comes again."""
        random = generator_for(self.seed, epoch, index, 0)
        vote = self.votes[self._shuffle.at(epoch, index)]
        label = 2 * vote.probability - 1
        return Comparison(vote.a, vote.b, label) if random.random() < 0.5 else Comparison(vote.b, vote.a, -label)


class OpinionDraws(Draws):
    """Each rated image once per epoch, against its reference; label = its opinion score.

    Args:
        labels: training scenes.
        scale: from scores to labels.
        seed: of the shuffle.
    """

    def __init__(self, labels: LabelSet, scale: ScoreScale | None, *, seed: int) -> None:
        if not labels.rated:
            raise InputError(f"{labels.name}: has no opinion scores (only votes); use scheme: rqi.")
        self._shuffle = _Shuffle(len(labels.rated), seed)
        self._items: Sequence[Comparison] = [
            Comparison(r.dist, r.ref, scale.to_unit(r.score) if scale else r.score) for r in labels.rated
        ]

    def __len__(self) -> int:
        """Number of rated images."""
        return len(self._items)

    def draw(self, epoch: int, index: int) -> Comparison:
        """Image ``index`` of the epoch's shuffle."""
        return self._items[self._shuffle.at(epoch, index)]


class _Shuffle:
    """Item after item in a random order, all before any comes again; a function of (seed, epoch, index)."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._round: tuple[int, int] = (-1, -1)
        self._order: np.ndarray = np.empty(0, dtype=np.int64)

    def at(self, epoch: int, index: int) -> int:
        """Where ``index`` lands in the epoch's permutation; beyond ``count`` a further permutation begins."""
        current = (epoch, index // self.count)
        if current != self._round:
            self._round = current
            self._order = np.random.default_rng([self.seed, *current, 1]).permutation(self.count)
        return int(self._order[index % self.count])
