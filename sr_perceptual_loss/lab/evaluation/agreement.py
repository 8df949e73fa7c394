"""All numbers of a critic on a label set: correlations over all images and per reference, choices, votes.

The scores of a full-reference critic compare versions of one reference; the SRCC that the RQI paper reports is a mean
over references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, Vote
from sr_perceptual_loss.lab.evaluation.correlation import (
    NAN,
    Floats,
    Indices,
    LogisticFit,
    checked_pair,
    cluster_draws,
    indices_by_content,
    interval,
    krcc,
    logistic_fit,
    plcc,
    resampling_unit,
    rmse,
    srcc,
    varies,
)
from sr_perceptual_loss.lab.evaluation.scoring import Pair
from sr_perceptual_loss.lab.evaluation.votes import Share, pairwise_accuracy, two_afc_terms, win_rate

__all__ = ["Evaluation", "Row", "evaluate_scores"]

#: What each correlation is, for tables.
MEANINGS = {
    "srcc_mean": "Spearman per reference, mean over references",
    "plcc_mean": "Pearson per reference, no fit, mean over references",
    "krcc_mean": "Kendall tau-b per reference, mean over references",
    "srcc": "Spearman over all images",
    "plcc_raw": "Pearson over all images, no fit",
    "plcc_fitted": "Pearson over all images after a rising 4-parameter logistic fit",
    "krcc": "Kendall tau-b over all images",
    "rmse": "root mean square error after that fit, in units of the opinions",
}

Correlation = Callable[[Floats, Floats], float]
#: Indices of entries -> value of the statistic for these entries.
Statistic = Callable[[Indices], float]
#: (statistic, content of each entry) -> its bootstrap values.
DrawsOf = Callable[[Statistic, Sequence[str]], Floats]


@dataclass(frozen=True)
class Row:
    """One number of the table."""

    name: str  # short name
    value: float  # the number; NaN where it is not defined
    draws: Floats = field(repr=False, compare=False)  # its bootstrap values, (resamples,) or empty
    count: int  # number of images, references, pairs or votes behind it, as ``meaning`` says
    meaning: str  # what it is

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval; NaN without one."""
        return interval(self.draws)[0]

    @property
    def high(self) -> float:
        """Upper end."""
        return interval(self.draws)[1]


@dataclass(frozen=True)
class Evaluation:
    """A critic compared with people."""

    labels: LabelSet  # what people said
    predictions: Mapping[Pair, float]  # score of each (distorted image, reference)
    rows: tuple[Row, ...]  # the table; numbers over all images are missing where references cannot be compared
    notes: tuple[str, ...]  # what a reader must know, one sentence each
    # The curve behind ``plcc_fitted`` and ``rmse``, where there are opinion scores that can be compared. It is not
    # fitted again in each resample: the intervals of these numbers hold for the curve as it is.
    fit: LogisticFit | None = None
    content_srcc: Mapping[str, float] = field(default_factory=dict)  # reference content -> Spearman over its images

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; None where a number is not defined."""
        numbers: dict[str, dict[str, object]] = {}
        for row in self.rows:
            ends = {"value": row.value, "low": row.low, "high": row.high}
            finite = {name: number if math.isfinite(number) else None for name, number in ends.items()}
            numbers[row.name] = {**finite, "count": row.count, "meaning": row.meaning}
        return {
            "data": self.labels.name,
            "images": len(self.labels.rated),
            "votes": len(self.labels.votes),
            "references": len(self.labels.contents),
            "numbers": numbers,
            "srcc_per_reference": dict(self.content_srcc),
            "notes": list(self.notes),
        }


def evaluate_scores(
    labels: LabelSet, predictions: Mapping[Pair, float], *, bootstrap: int = 1000, seed: int = 0
) -> Evaluation:
    """Compare a critic's scores of each (distorted image, reference) with what people said.

    ``bootstrap`` is the number of resamples for the intervals, 0 for none, and ``seed`` their seed.

    Raises:
        InputError: an image without a score, a score that is not finite, or an empty label set.
    """
    if not labels.rated and not labels.votes:
        raise InputError(f"{labels.name}: no rated images and no votes; nothing to evaluate.")
    draws = partial(cluster_draws, resamples=bootstrap, seed=seed)
    rows: list[Row] = []
    notes = list(labels.notes)
    fit, content_srcc = None, {}
    if labels.rated:
        x, y = checked_pair(
            [_score(predictions, (r.dist, r.ref)) for r in labels.rated], [r.score for r in labels.rated]
        )
        contents = [r.content for r in labels.rated]
        fit = logistic_fit(x, y) if labels.comparable_across_contents else None
        groups, skipped = _groups(x, y, contents)
        content_srcc = {name: srcc(x[index], y[index]) for name, index in groups.items()}
        notes += _notes(fit, skipped, contents, bootstrap)
        rows += _per_reference(x, y, contents, groups, draws)
        rows += _overall(x, y, contents, fit, draws)
        rows.append(_share_row("win_rate", win_rate(x, y, contents), draws))
        rows.append(_share_row("pairwise_accuracy", pairwise_accuracy(x, y, contents), draws))
    if labels.votes:
        rows += _vote_rows(labels.votes, "", predictions, draws)
        for part in labels.official_split:
            votes = labels.part(part).votes
            if votes and len(votes) < len(labels.votes):
                rows += _vote_rows(votes, f"_{part}", predictions, draws)
    return Evaluation(labels, predictions, tuple(rows), tuple(dict.fromkeys(notes)), fit, content_srcc)


def _score(predictions: Mapping[Pair, float], pair: Pair) -> float:
    if pair not in predictions:
        raise InputError(f"{pair[0]} (reference {pair[1]}): no score; score every image of the label set first.")
    return predictions[pair]


def _share_row(name: str, share: Share, draws: DrawsOf) -> Row:
    sums, counts = np.array(list(share.per_content.values())).reshape(-1, 2).T
    drawn = draws(lambda i: float(sums[i].sum() / counts[i].sum()), list(share.per_content))
    skipped = f"; {share.skipped} left out (equal opinions)" if share.skipped else ""
    return Row(name, share.value, drawn, share.count, f"{share.definition} ({share.ties} ties{skipped})")


def _vote_rows(votes: Sequence[Vote], suffix: str, predictions: Mapping[Pair, float], draws: DrawsOf) -> list[Row]:
    p = np.array([vote.probability for vote in votes])
    margins = np.array([_score(predictions, (v.a, v.ref)) - _score(predictions, (v.b, v.ref)) for v in votes])
    terms = two_afc_terms(p, margins)
    drawn = draws(lambda i: float(terms[i].mean()), [vote.content for vote in votes])
    ties = int((margins == 0).sum())
    meaning = f"mean share of people who choose as the critic does ({ties} ties count a half)"
    highest = "the highest value that two_afc can reach on these votes"
    return [
        Row(f"two_afc{suffix}", float(terms.mean()), drawn, len(votes), meaning),
        Row(f"two_afc_ceiling{suffix}", float(two_afc_terms(p, p - 0.5).mean()), np.empty(0), len(votes), highest),
    ]


def _notes(
    fit: LogisticFit | None, skipped: Mapping[str, int], contents: Sequence[str], bootstrap: int
) -> Iterator[str]:
    if fit is None:
        yield "Opinion scores of different references cannot be compared in this set: no numbers over all images."
    elif fit.reason:
        yield f"No PLCC after a fit and no RMSE: {fit.reason}."
    if skipped:
        yield "References without a correlation: " + ", ".join(f"{n} ({why})" for why, n in skipped.items()) + "."
    if bootstrap and resampling_unit(contents) == "images":
        count = len(set(contents))
        yield f"Only {count} reference(s): the intervals resample images and do not extend to other references."


def _overall(x: Floats, y: Floats, contents: Sequence[str], fit: LogisticFit | None, draws: DrawsOf) -> Iterator[Row]:
    """Numbers over all images; none where references cannot be compared."""
    if fit is None:
        return
    fitted = fit(x)
    statistics: dict[str, Statistic] = {
        "srcc": lambda i: srcc(x[i], y[i]),
        "plcc_raw": lambda i: plcc(x[i], y[i]),
        "plcc_fitted": lambda i: NAN if fit.reason else plcc(fitted[i], y[i]),
        "krcc": lambda i: krcc(x[i], y[i]),
        "rmse": lambda i: NAN if fit.reason else rmse(fitted[i], y[i]),
    }
    for name, statistic in statistics.items():
        yield Row(name, statistic(np.arange(len(x))), draws(statistic, contents), len(x), MEANINGS[name])


def _groups(x: Floats, y: Floats, contents: Sequence[str]) -> tuple[dict[str, Indices], Mapping[str, int]]:
    """Indices of each content that has a correlation, and how many have none, by reason."""
    used: dict[str, Indices] = {}
    skipped: Counter[str] = Counter()
    for name, index in indices_by_content(contents).items():
        if varies(x[index], y[index]):
            used[name] = index
        elif len(index) < 2:
            skipped["one image only"] += 1
        else:
            skipped["equal predictions" if varies(y[index]) else "equal opinions"] += 1
    return used, skipped


def _per_reference(
    x: Floats, y: Floats, contents: Sequence[str], groups: Mapping[str, Indices], draws: DrawsOf
) -> Iterator[Row]:
    """Means over the references that have a correlation."""
    names = np.asarray(contents, dtype=object)
    for name, function in {"srcc_mean": srcc, "plcc_mean": plcc, "krcc_mean": krcc}.items():
        if not groups:
            yield Row(name, NAN, np.empty(0), 0, MEANINGS[name])
            continue
        values = np.array([function(x[index], y[index]) for index in groups.values()])

        def of_contents(drawn: Indices, values: Floats = values) -> float:
            return float(values[drawn].mean())

        def of_images(drawn: Indices, function: Correlation = function) -> float:
            drawn_values = np.array([function(x[i], y[i]) for i in (drawn[names[drawn] == group] for group in groups)])
            return float(np.nanmean(drawn_values)) if np.isfinite(drawn_values).any() else NAN

        by_content = resampling_unit(contents) == "references"
        resampled = draws(of_contents, list(groups)) if by_content else draws(of_images, contents)
        yield Row(name, float(values.mean()), resampled, len(groups), MEANINGS[name])
