"""Choices instead of scores: agreement with votes, best images, and ordered pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.correlation import NAN, Floats, checked_pair, indices_by_content

__all__ = ["Share", "pairwise_accuracy", "two_afc_terms", "win_rate"]


@dataclass(frozen=True)
class Share:
    """A share with what it is a share of."""

    value: float  # in [0, 1]; NaN where nothing could be counted
    count: int  # number of cases
    ties: int  # cases among them in which the critic or the people have no preference
    skipped: int  # cases left out
    definition: str  # what was counted, in one sentence
    # Reference content -> (sum over its cases, number of its cases), for intervals.
    per_content: dict[str, tuple[float, int]]


def _share(definition: str, per_content: dict[str, tuple[float, int]], ties: int, skipped: int) -> Share:
    count = sum(n for _, n in per_content.values())
    value = sum(total for total, _ in per_content.values()) / count if count else NAN
    return Share(value, count, ties, skipped, definition, per_content)


def two_afc_terms(probabilities: ArrayLike, margins: ArrayLike) -> Floats:
    """Share of people who choose as the critic does, for each vote: p, 1 - p, or 0.5 for a tie; the mean is 2AFC.

    ``probabilities`` p are shares of people who prefer A, (n,) in [0, 1]. ``margins`` are score(A) - score(B), (n,).
    The highest possible mean has the margins p - 0.5, since people do not agree among themselves.

    Raises:
        InputError: lengths that differ, values that are not finite, or a probability outside [0, 1].
    """
    p, m = checked_pair(probabilities, margins)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise InputError(f"probabilities: got values in [{p.min():g}, {p.max():g}], expected shares in [0, 1].")
    return np.where(m > 0, p, np.where(m < 0, 1 - p, 0.5))


def win_rate(predictions: ArrayLike, scores: ArrayLike, contents: Sequence[str]) -> Share:
    """Share of references at which the critic's best image is the people's best.

    RQI's supplement reports a win rate without defining it; its values suggest this reading. ``predictions`` are critic
    scores (n,), ``scores`` opinion scores (n,), and ``contents`` has the reference content of each image.

    Returns:
        The share. Several images that people like best: choosing any of them wins. Several images that the critic likes
        best: the share of them that wins. References with one image or with equal opinions are skipped.

    Raises:
        InputError: lengths that differ, or values that are not finite.
    """
    ties, skipped = 0, 0
    per_content: dict[str, tuple[float, int]] = {}
    for name, x, y in _by_content(predictions, scores, contents):
        if len(x) < 2 or np.ptp(y) == 0:
            skipped += 1
            continue
        chosen, best = x == x.max(), y == y.max()
        ties += int(chosen.sum() > 1 or best.sum() > 1)
        per_content[name] = (float((chosen & best).sum() / chosen.sum()), 1)
    definition = "share of references at which the critic's best image is the people's best"
    return _share(definition, per_content, ties, skipped)


def pairwise_accuracy(predictions: ArrayLike, scores: ArrayLike, contents: Sequence[str]) -> Share:
    """Share of the pairs of versions of one reference that the critic orders as people do, over all references.

    Arguments and errors are those of :func:`win_rate`. A pair that the critic ties counts a half. Pairs with equal
    opinions are skipped.
    """
    ties, skipped = 0, 0
    per_content: dict[str, tuple[float, int]] = {}
    for name, x, y in _by_content(predictions, scores, contents):
        first, second = np.triu_indices(len(x), 1)
        people, critic = np.sign(y[first] - y[second]), np.sign(x[first] - x[second])
        decided = people != 0
        skipped += int((~decided).sum())
        if decided.any():
            tied = int((critic[decided] == 0).sum())
            ties += tied
            per_content[name] = (float((critic == people)[decided].sum()) + 0.5 * tied, int(decided.sum()))
    definition = "share of image pairs of one reference that the critic orders as people do; its ties count a half"
    return _share(definition, per_content, ties, skipped)


def _by_content(
    predictions: ArrayLike, scores: ArrayLike, contents: Sequence[str]
) -> Iterator[tuple[str, Floats, Floats]]:
    x, y = checked_pair(predictions, scores)
    if len(contents) != len(x):
        raise InputError(f"contents: got {len(contents)}, expected one for each of the {len(x)} images.")
    for name, index in indices_by_content(contents).items():
        yield name, x[index], y[index]
