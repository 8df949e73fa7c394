"""All numbers of one critic on one label set, as rows of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, Vote
from sr_perceptual_loss.lab.evaluation.bootstrap import Bootstrap, cluster_interval
from sr_perceptual_loss.lab.evaluation.coefficients import NAN
from sr_perceptual_loss.lab.evaluation.correlation import Agreement, correlate
from sr_perceptual_loss.lab.evaluation.scoring import Pair
from sr_perceptual_loss.lab.evaluation.votes import Share, pairwise_accuracy, two_afc_ceiling, two_afc_each, win_rate

__all__ = ["Evaluation", "Row", "judge"]

#: What each number of Agreement is, for tables.
MEANINGS = {
    "srcc_mean": "Spearman inside each scene, mean over scenes",
    "plcc_mean": "Pearson inside each scene, no fit, mean over scenes",
    "krcc_mean": "Kendall tau-b inside each scene, mean over scenes",
    "srcc": "Spearman over all images",
    "plcc_raw": "Pearson over all images, no fit",
    "plcc_fitted": "Pearson over all images after a rising 4-parameter logistic fit",
    "krcc": "Kendall tau-b over all images",
    "rmse": "root mean square error after that fit, in units of the opinions",
}


@dataclass(frozen=True)
class Row:
    """One number of the table.

    Attributes:
        name: short name.
        value: the number; NaN where it is not defined.
        low: lower end of its interval; NaN without one.
        high: upper end.
        count: of what it is made (images, scenes, pairs or votes, as ``meaning`` says).
        meaning: what it is.
    """

    name: str
    value: float
    low: float
    high: float
    count: int
    meaning: str


@dataclass(frozen=True)
class Evaluation:
    """A critic judged against people.

    Attributes:
        labels: what it was judged on.
        predictions: score of each (judged image, reference).
        agreement: correlations; None for a set of votes only.
        rows: the table.
        notes: what a reader must know, one sentence each.
    """

    labels: LabelSet
    predictions: Mapping[Pair, float]
    agreement: Agreement | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; None where a number is not defined."""
        return {
            "data": self.labels.name,
            "images": len(self.labels.rated),
            "votes": len(self.labels.votes),
            "scenes": len(self.labels.scenes),
            "numbers": {
                row.name: {
                    "value": _plain(row.value),
                    "low": _plain(row.low),
                    "high": _plain(row.high),
                    "count": row.count,
                    "meaning": row.meaning,
                }
                for row in self.rows
            },
            "scene_srcc": dict(self.agreement.scene_srcc) if self.agreement else {},
            "notes": list(self.notes),
        }


def _plain(number: float) -> float | None:
    return number if math.isfinite(number) else None


def judge(
    labels: LabelSet,
    predictions: Mapping[Pair, float],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Evaluation:
    """Compare scores with what people said.

    Args:
        labels: rated images, votes, or both.
        predictions: score of each (judged image, reference).
        bootstrap: resamples for the intervals; 0 for none.
        seed: of the bootstrap.
        confidence: of the intervals.

    Returns:
        The table with its notes.

    Raises:
        InputError: an image without a score, or nothing to judge.
        InstallError: scipy is missing.
    """
    options = Bootstrap(bootstrap, seed, confidence)
    rows: list[Row] = []
    notes = list(labels.notes)
    agreement = None
    if not labels.rated and not labels.votes:
        raise InputError(f"{labels.name}: no rated images and no votes; nothing to judge.")
    if labels.rated:
        x = [_score(predictions, (r.dist, r.ref)) for r in labels.rated]
        y, scenes = [r.score for r in labels.rated], [r.scene for r in labels.rated]
        agreement = correlate(
            x,
            y,
            scenes,
            comparable_across_scenes=labels.comparable_across_scenes,
            bootstrap=bootstrap,
            seed=seed,
            confidence=confidence,
        )
        notes += agreement.notes
        rows += _correlation_rows(agreement)
        rows.append(_share_row("win_rate", win_rate(x, y, scenes), options))
        rows.append(_share_row("pairwise_accuracy", pairwise_accuracy(x, y, scenes), options))
    if labels.votes:
        rows += _vote_rows(labels.votes, "", predictions, options)
        for part in labels.official_split:
            votes = labels.part(part).votes
            if votes and len(votes) < len(labels.votes):
                rows += _vote_rows(votes, f"_{part}", predictions, options)
    return Evaluation(labels, predictions, agreement, tuple(rows), tuple(dict.fromkeys(notes)))


def _score(predictions: Mapping[Pair, float], pair: Pair) -> float:
    if pair not in predictions:
        raise InputError(f"{pair[0]} (reference {pair[1]}): no score; score every image of the label set first.")
    return predictions[pair]


def _correlation_rows(agreement: Agreement) -> list[Row]:
    rows = []
    for name, meaning in MEANINGS.items():
        value = getattr(agreement, name)
        if value is None:
            continue
        low, high = agreement.intervals[name]
        count = agreement.scenes_used if name.endswith("_mean") else agreement.n
        rows.append(Row(name, value, low, high, count, meaning))
    return rows


def _share_row(name: str, share: Share, options: Bootstrap) -> Row:
    sums = np.array([total for total, _ in share.per_scene.values()])
    counts = np.array([count for _, count in share.per_scene.values()])

    def of_scenes(index: NDArray[np.intp]) -> float:
        return float(sums[index].sum() / counts[index].sum())

    low, high = cluster_interval(of_scenes, list(share.per_scene), options)
    left_out = f"; {share.skipped} left out (equal opinions)" if share.skipped else ""
    return Row(name, share.value, low, high, share.of, f"{share.definition} ({share.ties} ties{left_out})")


def _vote_rows(
    votes: tuple[Vote, ...], suffix: str, predictions: Mapping[Pair, float], options: Bootstrap
) -> list[Row]:
    p = np.array([vote.probability for vote in votes])
    margins = np.array([_score(predictions, (v.a, v.ref)) - _score(predictions, (v.b, v.ref)) for v in votes])
    terms = two_afc_each(p, margins)
    low, high = cluster_interval(lambda i: float(terms[i].mean()), [vote.scene for vote in votes], options)
    meaning = f"mean share of people who choose as the critic does ({int((margins == 0).sum())} ties count a half)"
    ceiling = two_afc_ceiling(p)
    return [
        Row(f"two_afc{suffix}", float(terms.mean()), low, high, len(votes), meaning),
        Row(
            f"two_afc_ceiling{suffix}", ceiling, NAN, NAN, len(votes), "the most that two_afc can reach on these votes"
        ),
    ]
