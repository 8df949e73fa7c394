"""Which two images a training step compares, and the label of the comparison.

Every pair is a function of (seed, epoch, index) alone: the same after an interruption, for any number of loader workers
and processes.

Source: RQI, arXiv 2503.13074, training scheme (ordered pairs of one content, any distortions, label q_i - q_j).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.scale import ScoreScale
from sr_perceptual_loss.lab.training.config import PairsConfig

__all__ = ["ContentPairs", "ShuffledPairs", "TrainingPair", "opinion_pairs", "pair_generator", "vote_pairs"]


@dataclass(frozen=True)
class TrainingPair:
    """One comparison."""

    image: Path  # the image that is scored
    reference: Path
    label: float  # score that the critic should give


def pair_generator(seed: int, epoch: int, index: int, purpose: int) -> np.random.Generator:
    """Random numbers of one pair; ``purpose`` keeps pairs and crops independent."""
    return np.random.default_rng([seed, epoch, index, purpose])


class _Version(NamedTuple):
    """One version of a content; the score is scaled."""

    path: Path
    score: float
    distortion: str


class ContentPairs:
    """Ordered pairs of two versions of one content; label = difference of their scaled scores.

    A content is drawn, then an ordered pair of it, each uniformly; both orders are equally likely.

    Args:
        labels: training contents.
        scale: from scores to [0, 1].
        seed: of the draws.
        options: see :class:`~sr_perceptual_loss.lab.training.config.PairsConfig`.

    Raises:
        InputError: no content has a pair, or options that do not fit together or to the labels.
    """

    def __init__(self, labels: LabelSet, scale: ScoreScale, *, seed: int, options: PairsConfig) -> None:
        if options.pristine_share is not None and options.pristine is None:
            raise InputError(
                "pairs.pristine_share: needs pairs.pristine, the score of the reference image (such as 1.0)."
            )
        if not labels.comparable_across_contents and options.pristine is not None:
            raise InputError(f"pairs.pristine: {labels.name} scales its scores per content; leave it null.")
        self.seed, self.options = seed, options
        contents: dict[str, list[_Version]] = defaultdict(list)
        references: dict[str, Path] = {}
        for image in labels.rated:
            contents[image.content].append(_Version(image.dist, scale.to_unit(image.score), image.distortion))
            references[image.content] = image.ref
        self._contents = [(references[name], tuple(contents[name])) for name in sorted(contents)]
        if options.pristine is not None and options.pristine_share is None:
            for name, reference in references.items():
                contents[name].append(_Version(reference, options.pristine, "(pristine)"))
        self._groups = [groups for name in sorted(contents) if (groups := self._grouped(contents[name]))]
        if not self._groups:
            kind = " of one distortion type" if options.same_distortion else ""
            raise InputError(f"{labels.name}: no content has two images{kind}; scheme rqi needs pairs of one content.")
        self._length = options.per_epoch or len(labels.rated)

    def _grouped(self, versions: Sequence[_Version]) -> list[list[_Version]]:
        """Groups of a content inside which pairs are drawn."""
        groups: dict[str, list[_Version]] = defaultdict(list)
        for version in versions:
            groups[version.distortion if self.options.same_distortion else ""].append(version)
        return [groups[key] for key in sorted(groups) if len(groups[key]) > 1]

    def __len__(self) -> int:
        """Pairs per epoch."""
        return self._length

    def pair(self, epoch: int, index: int) -> TrainingPair:
        """A pair; a function of (seed, epoch, index)."""
        random = pair_generator(self.seed, epoch, index, 0)
        share, pristine = self.options.pristine_share, self.options.pristine
        if share is not None and pristine is not None and random.random() < share:
            return self._with_pristine(random, pristine)
        groups = self._groups[random.integers(len(self._groups))]
        # Weighted by their number of pairs, so that every ordered pair of the content is equally likely.
        sizes = np.array([len(group) * (len(group) - 1) for group in groups], dtype=np.float64)
        group = groups[random.choice(len(groups), p=sizes / sizes.sum())]
        first, second = (group[i] for i in random.choice(len(group), size=2, replace=False))
        return TrainingPair(first.path, second.path, first.score - second.score)

    def _with_pristine(self, random: np.random.Generator, pristine: float) -> TrainingPair:
        """A version and its reference image, in either order."""
        reference, versions = self._contents[random.integers(len(self._contents))]
        version = versions[random.integers(len(versions))]
        if random.random() < 0.5:
            return TrainingPair(version.path, reference, version.score - pristine)
        return TrainingPair(reference, version.path, pristine - version.score)


class ShuffledPairs:
    """Given pairs in a random order; each is used once before any is used again.

    Args:
        pairs: at least one.
        seed: of the order.
        per_epoch: pairs per epoch; None for each once.
        both_orders: half of the pairs are swapped, with the label negated.
    """

    def __init__(
        self, pairs: Sequence[TrainingPair], *, seed: int, per_epoch: int | None = None, both_orders: bool = False
    ) -> None:
        self.pairs, self.seed, self.both_orders = pairs, seed, both_orders
        self._length = per_epoch or len(pairs)
        self._round: tuple[int, int] = (-1, -1)
        self._order: np.ndarray = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Pairs per epoch."""
        return self._length

    def pair(self, epoch: int, index: int) -> TrainingPair:
        """A pair; a function of (seed, epoch, index)."""
        current = (epoch, index // len(self.pairs))
        if current != self._round:
            self._round = current
            self._order = np.random.default_rng([self.seed, *current, 1]).permutation(len(self.pairs))
        pair = self.pairs[int(self._order[index % len(self.pairs)])]
        if self.both_orders and pair_generator(self.seed, epoch, index, 0).random() >= 0.5:
            return TrainingPair(pair.reference, pair.image, -pair.label)
        return pair


def vote_pairs(labels: LabelSet, *, seed: int, per_epoch: int | None = None) -> ShuffledPairs:
    """Compared pairs; label = 2 p - 1, p the share of people who prefer the first image."""
    pairs = [TrainingPair(vote.a, vote.b, 2 * vote.probability - 1) for vote in labels.votes]
    return ShuffledPairs(pairs, seed=seed, per_epoch=per_epoch, both_orders=True)


def opinion_pairs(labels: LabelSet, scale: ScoreScale | None, *, seed: int) -> ShuffledPairs:
    """Rated images against their references; label = the score, scaled unless ``scale`` is None.

    Raises:
        InputError: the label set contains votes only.
    """
    if not labels.rated:
        raise InputError(f"{labels.name}: has no opinion scores (only votes); use scheme: rqi.")
    pairs = [TrainingPair(r.dist, r.ref, scale.to_unit(r.score) if scale else r.score) for r in labels.rated]
    return ShuffledPairs(pairs, seed=seed)
