"""Choices instead of scores: agreement with votes, best images, ordered pairs, and scores from votes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sr_perceptual_loss.checks import as_float
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.evaluation.coefficients import NAN, Floats, checked_pair
from sr_perceptual_loss.lab.evaluation.optional import need

__all__ = [
    "Share",
    "ThurstoneScores",
    "pairwise_accuracy",
    "thurstone",
    "two_afc",
    "two_afc_ceiling",
    "win_rate",
    "wins_matrix",
]


@dataclass(frozen=True)
class Share:
    """A share with what it is a share of.

    Attributes:
        value: in [0, 1]; NaN where nothing could be counted.
        of: how many cases.
        ties: cases among them in which the critic or the people could not decide.
        skipped: cases left out.
        definition: what was counted, in one sentence.
        per_scene: scene -> (sum over its cases, number of its cases), for intervals over scenes.
    """

    value: float
    of: int
    ties: int
    skipped: int
    definition: str
    per_scene: dict[str, tuple[float, int]]


def two_afc(probabilities: ArrayLike, preferred_by_critic: ArrayLike) -> float:
    """Mean share of people who choose as the critic does (two-alternative forced choice).

    Args:
        probabilities: share of people who prefer A, (n,) in [0, 1].
        preferred_by_critic: positive where the critic prefers A (such as score(A) - score(B)), negative for B, 0 for a
            tie, (n,).

    Returns:
        mean of p where the critic chooses A, 1 - p where it chooses B, 0.5 for a tie; NaN for n = 0.

    Raises:
        InputError: lengths that differ, or a probability outside [0, 1].
    """
    p, margin = _probabilities(probabilities, preferred_by_critic)
    return float(two_afc_each(p, margin).mean()) if len(p) else NAN


def two_afc_each(probabilities: Floats, margins: Floats) -> Floats:
    """The terms of :func:`two_afc`, (n,)."""
    return np.where(margins > 0, probabilities, np.where(margins < 0, 1 - probabilities, 0.5))


def two_afc_ceiling(probabilities: ArrayLike) -> float:
    """The most that :func:`two_afc` can reach: mean of max(p, 1 - p); people do not agree among themselves."""
    p, _ = _probabilities(probabilities, np.zeros(np.shape(probabilities)))
    return float(np.maximum(p, 1 - p).mean()) if len(p) else NAN


def _probabilities(probabilities: ArrayLike, margins: ArrayLike) -> tuple[Floats, Floats]:
    p, margin = checked_pair(probabilities, margins)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise InputError(f"probabilities: got values in [{p.min():g}, {p.max():g}], expected shares in [0, 1].")
    return p, margin


def win_rate(predictions: Sequence[float], scores: Sequence[float], scenes: Sequence[str]) -> Share:
    """Share of references at which the metric's best image is the people's best.

    RQI's supplement reports a win rate without defining it; this is the reading that its values suggest.

    Args:
        predictions: critic scores, (n,).
        scores: opinion scores, (n,).
        scenes: scene of each image, (n,).

    Returns:
        The share. Several images that people like best: choosing any of them wins. Several images that the metric likes
        best: the share of them that wins. Scenes with one image or with equal opinions are skipped.

    Raises:
        InputError: lengths that differ, or values that are not finite.
    """
    total, ties, skipped = 0.0, 0, 0
    per_scene: dict[str, tuple[float, int]] = {}
    for name, x, y in _by_scene(predictions, scores, scenes):
        if len(x) < 2 or np.ptp(y) == 0:
            skipped += 1
            continue
        chosen, best = x == x.max(), y == y.max()
        won = float((chosen & best).sum() / chosen.sum())
        ties += int(chosen.sum() > 1 or best.sum() > 1)
        total += won
        per_scene[name] = (won, 1)
    return Share(
        value=total / len(per_scene) if per_scene else NAN,
        of=len(per_scene),
        ties=ties,
        skipped=skipped,
        definition="share of references at which the metric's best image is the people's best",
        per_scene=per_scene,
    )


def pairwise_accuracy(predictions: Sequence[float], scores: Sequence[float], scenes: Sequence[str]) -> Share:
    """Share of the pairs inside a scene that the metric orders as people do.

    Args:
        predictions: critic scores, (n,).
        scores: opinion scores, (n,).
        scenes: scene of each image, (n,).

    Returns:
        The share over all pairs of all scenes; a pair that the metric ties counts a half, pairs with equal opinions are
        skipped.

    Raises:
        InputError: lengths that differ, or values that are not finite.
    """
    ties, skipped = 0, 0
    per_scene: dict[str, tuple[float, int]] = {}
    for name, x, y in _by_scene(predictions, scores, scenes):
        first, second = np.triu_indices(len(x), 1)
        people, critic = np.sign(y[first] - y[second]), np.sign(x[first] - x[second])
        judged = people != 0
        skipped += int((~judged).sum())
        if not judged.any():
            continue
        tied = int((critic[judged] == 0).sum())
        ties += tied
        per_scene[name] = (float((critic == people)[judged].sum()) + 0.5 * tied, int(judged.sum()))
    count = sum(n for _, n in per_scene.values())
    return Share(
        value=sum(right for right, _ in per_scene.values()) / count if count else NAN,
        of=count,
        ties=ties,
        skipped=skipped,
        definition="share of image pairs inside a scene that the metric orders as people do; its ties count a half",
        per_scene=per_scene,
    )


def _by_scene(
    predictions: Sequence[float], scores: Sequence[float], scenes: Sequence[str]
) -> Iterator[tuple[str, Floats, Floats]]:
    x, y = checked_pair(predictions, scores)
    if len(scenes) != len(x):
        raise InputError(f"scenes: got {len(scenes)}, expected one for each of the {len(x)} images.")
    names = np.asarray(scenes, dtype=object)
    for name in sorted(set(scenes)):
        index = np.flatnonzero(names == name)
        yield name, x[index], y[index]


@dataclass(frozen=True)
class ThurstoneScores:
    """Scores from votes; only differences mean anything, so their mean is 0.

    Attributes:
        scores: (n,), in units of the standard deviation of a difference: P(i preferred to j) = Phi(s_i - s_j).
        low: lower ends of the intervals, (n,).
        high: upper ends, (n,).
        covariance: (n, n).
        confidence: of the intervals.
    """

    scores: Floats
    low: Floats
    high: Floats
    covariance: Floats
    confidence: float


def wins_matrix(n: int, choices: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Count single choices.

    Args:
        n: number of items.
        choices: (winner, loser) of each vote.

    Returns:
        (n, n); entry [i, j]: how often i was preferred to j.
    """
    wins = np.zeros((n, n), dtype=np.int64)
    for winner, loser in choices:
        wins[winner, loser] += 1
    return wins


def thurstone(
    wins: ArrayLike, *, names: Sequence[str] | None = None, prior_sd: float = 3.0, confidence: float = 0.95
) -> ThurstoneScores:
    """Thurstone scores (case V) with intervals, by expectation propagation under a Gaussian prior.

    Args:
        wins: (n, n) whole numbers; entry [i, j]: how often i was preferred to j.
        names: of the items, for messages.
        prior_sd: standard deviation of the prior of each score; it keeps an item that always wins finite.
        confidence: of the intervals.

    Returns:
        See :class:`ThurstoneScores`; intervals are about the mean of the items.

    Raises:
        InputError: no square matrix of counts, or items that no chain of comparisons connects.
        InstallError: choix or scipy is missing.

    Source: Thurstone, A law of comparative judgment, 1927, case V; solver of choix.
    """
    counts = np.asarray(wins, dtype=np.float64)
    prior_sd = as_float("prior_sd", prior_sd, minimum=1e-3)
    confidence = as_float("confidence", confidence, minimum=0.5, maximum=0.9999)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or len(counts) < 2:
        raise InputError(f"wins: got shape {counts.shape}, expected (n, n) with n >= 2.")
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts % 1).any() or counts.trace():
        raise InputError("wins: expected whole numbers of votes >= 0, and none of an item against itself.")
    _check_connected(counts, names)
    data = [(int(i), int(j)) for i, j in np.argwhere(counts) for _ in range(int(counts[i, j]))]
    mean, covariance = need("choix").ep_pairwise(len(counts), data, prior_sd**-2, model="probit")
    # The level of all scores together is not in the data; taking it out leaves what the votes say.
    centring = np.eye(len(counts)) - 1 / len(counts)
    scores, covariance = centring @ mean, centring @ covariance @ centring
    reach = need("scipy.stats").norm.ppf((1 + confidence) / 2) * np.sqrt(np.diag(covariance))
    return ThurstoneScores(scores, scores - reach, scores + reach, covariance, confidence)


def _check_connected(counts: Floats, names: Sequence[str] | None) -> None:
    groups, label = need("scipy.sparse.csgraph").connected_components(counts + counts.T, directed=False)
    if groups == 1:
        return
    called = [str(i) for i in range(len(counts))] if names is None else list(names)
    parts = [
        "{" + ", ".join(c for c, of in zip(called, label, strict=True) if of == group) + "}" for group in range(groups)
    ]
    raise InputError(
        f"votes: nobody compared items of {' with items of '.join(parts[:5])}"
        f"{f' (and {groups - 5} more groups)' if groups > 5 else ''}, so their scores do not compare; collect votes "
        "between the groups, or fit each group alone."
    )
