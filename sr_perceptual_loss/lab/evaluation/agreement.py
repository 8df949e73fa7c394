"""All numbers of a critic on a label set: correlations over all images and per reference, choices, votes.

The scores of a full-reference critic compare versions of one reference; the SRCC that the RQI paper reports is a mean
over references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, Vote
from sr_perceptual_loss.lab.evaluation.bootstrap import Indices, Interval, cluster_interval, resampling_unit
from sr_perceptual_loss.lab.evaluation.correlation import (
    NAN,
    Floats,
    LogisticFit,
    checked_pair,
    krcc,
    logistic_fit,
    plcc,
    rmse,
    srcc,
    varies,
)
from sr_perceptual_loss.lab.evaluation.scoring import Pair
from sr_perceptual_loss.lab.evaluation.votes import Share, pairwise_accuracy, two_afc_ceiling, two_afc_each, win_rate

__all__ = ["Agreement", "Evaluation", "Row", "correlate", "evaluate_scores"]

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
_PER_REFERENCE = {"srcc_mean": srcc, "plcc_mean": plcc, "krcc_mean": krcc}

Statistic = Callable[[Indices], float]


@dataclass(frozen=True)
class Row:
    """One number of the table.

    Attributes:
        name: short name.
        value: the number; NaN where it is not defined.
        low: lower end of its 95 % interval; NaN without one.
        high: upper end.
        count: number of images, references, pairs or votes behind it, as ``meaning`` says.
        meaning: what it is.
    """

    name: str
    value: float
    low: float
    high: float
    count: int
    meaning: str


@dataclass(frozen=True)
class Agreement:
    """How well predictions correlate with opinion scores.

    Attributes:
        rows: numbers by name, see ``MEANINGS``; those over all images are missing where references cannot be compared.
        skipped: references without a correlation, counted by reason.
        fit: the curve behind ``plcc_fitted`` and ``rmse``; None where references cannot be compared.
        content_srcc: reference content -> Spearman over its images.
        notes: what a reader must know, one sentence each.
    """

    rows: Mapping[str, Row]
    skipped: Mapping[str, int] = field(default_factory=dict)
    fit: LogisticFit | None = None
    content_srcc: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """A critic compared with people.

    Attributes:
        labels: what people said.
        predictions: score of each (distorted image, reference).
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

        def plain(number: float) -> float | None:
            return number if math.isfinite(number) else None

        numbers = {
            r.name: {
                "value": plain(r.value),
                "low": plain(r.low),
                "high": plain(r.high),
                "count": r.count,
                "meaning": r.meaning,
            }
            for r in self.rows
        }
        return {
            "data": self.labels.name,
            "images": len(self.labels.rated),
            "votes": len(self.labels.votes),
            "references": len(self.labels.contents),
            "numbers": numbers,
            "srcc_per_reference": dict(self.agreement.content_srcc) if self.agreement else {},
            "notes": list(self.notes),
        }


def evaluate_scores(
    labels: LabelSet, predictions: Mapping[Pair, float], *, bootstrap: int = 1000, seed: int = 0
) -> Evaluation:
    """Compare a critic's scores with what people said.

    Args:
        labels: rated images, votes, or both.
        predictions: score of each (distorted image, reference).
        bootstrap: resamples for the intervals; 0 for none.
        seed: of the bootstrap.

    Returns:
        The table with its notes.

    Raises:
        InputError: an image without a score, a score that is not finite, or an empty label set.
        InstallError: scipy is missing.
    """
    if not labels.rated and not labels.votes:
        raise InputError(f"{labels.name}: no rated images and no votes; nothing to evaluate.")
    rows: list[Row] = []
    notes = list(labels.notes)
    agreement = None
    if labels.rated:
        x = [_score(predictions, (r.dist, r.ref)) for r in labels.rated]
        y, contents = [r.score for r in labels.rated], [r.content for r in labels.rated]
        comparable = labels.comparable_across_contents
        agreement = correlate(x, y, contents, comparable=comparable, bootstrap=bootstrap, seed=seed)
        notes += agreement.notes
        rows += agreement.rows.values()
        for name, share in (
            ("win_rate", win_rate(x, y, contents)),
            ("pairwise_accuracy", pairwise_accuracy(x, y, contents)),
        ):
            rows.append(_share_row(name, share, bootstrap, seed))
    if labels.votes:
        rows += _vote_rows(labels.votes, "", predictions, bootstrap, seed)
        for part in labels.official_split:
            votes = labels.part(part).votes
            if votes and len(votes) < len(labels.votes):
                rows += _vote_rows(votes, f"_{part}", predictions, bootstrap, seed)
    return Evaluation(labels, predictions, agreement, tuple(rows), tuple(dict.fromkeys(notes)))


def _score(predictions: Mapping[Pair, float], pair: Pair) -> float:
    if pair not in predictions:
        raise InputError(f"{pair[0]} (reference {pair[1]}): no score; score every image of the label set first.")
    return predictions[pair]


def _share_row(name: str, share: Share, bootstrap: int, seed: int) -> Row:
    sums = np.array([total for total, _ in share.per_content.values()])
    counts = np.array([count for _, count in share.per_content.values()])

    def statistic(index: Indices) -> float:
        return float(sums[index].sum() / counts[index].sum())

    low, high = cluster_interval(statistic, list(share.per_content), bootstrap, seed)
    skipped = f"; {share.skipped} left out (equal opinions)" if share.skipped else ""
    return Row(name, share.value, low, high, share.count, f"{share.definition} ({share.ties} ties{skipped})")


def _vote_rows(
    votes: Sequence[Vote], suffix: str, predictions: Mapping[Pair, float], bootstrap: int, seed: int
) -> list[Row]:
    p = np.array([vote.probability for vote in votes])
    margins = np.array([_score(predictions, (v.a, v.ref)) - _score(predictions, (v.b, v.ref)) for v in votes])
    terms = two_afc_each(p, margins)
    low, high = cluster_interval(lambda i: float(terms[i].mean()), [v.content for v in votes], bootstrap, seed)
    ties = int((margins == 0).sum())
    meaning = f"mean share of people who choose as the critic does ({ties} ties count a half)"
    best = "the highest value that two_afc can reach on these votes"
    return [
        Row(f"two_afc{suffix}", float(terms.mean()), low, high, len(votes), meaning),
        Row(f"two_afc_ceiling{suffix}", two_afc_ceiling(p), NAN, NAN, len(votes), best),
    ]


def correlate(
    predictions: Sequence[float],
    scores: Sequence[float],
    contents: Sequence[str],
    *,
    comparable: bool = True,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Agreement:
    """All correlations of predictions with opinion scores, with bootstrap intervals.

    Args:
        predictions: critic scores, (n,).
        scores: opinion scores, (n,), higher is better.
        contents: reference content of each image, (n,).
        comparable: whether opinion scores of different references can be compared; False leaves out the numbers over
            all images.
        bootstrap: resamples; 0 for no intervals.
        seed: of the bootstrap.

    Returns:
        See :class:`Agreement`. The logistic curve is not fitted again in each resample: the intervals of
        ``plcc_fitted`` and ``rmse`` hold for the curve as it is.

    Raises:
        InputError: lengths that differ, no images, or values that are not finite.
        InstallError: scipy is missing.
    """
    x, y = checked_pair(predictions, scores)
    if len(x) == 0 or len(contents) != len(x):
        raise InputError(
            f"got {len(x)} predictions and {len(contents)} contents, expected at least one image and a content each."
        )
    groups, skipped = _per_content(x, y, contents)
    values: dict[str, tuple[float, Interval, int]] = {}
    for name, function in _PER_REFERENCE.items():
        values[name] = (*_mean_over_contents(function, x, y, contents, groups, bootstrap, seed), len(groups))
    fit = logistic_fit(x, y) if comparable else None
    for name, statistic in _overall(x, y, fit).items():
        interval = cluster_interval(statistic, contents, bootstrap, seed)
        values[name] = statistic(np.arange(len(x))), interval, len(x)
    return Agreement(
        rows={name: Row(name, value, *ends, n, MEANINGS[name]) for name, (value, ends, n) in values.items()},
        skipped=skipped,
        fit=fit,
        content_srcc={name: srcc(x[index], y[index]) for name, index in groups.items()},
        notes=tuple(_notes(fit, skipped, contents, bootstrap)),
    )


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


def _overall(x: Floats, y: Floats, fit: LogisticFit | None) -> dict[str, Statistic]:
    """Name -> the number over the images of these indices; none where references cannot be compared."""
    if fit is None:
        return {}
    fitted = fit(x)

    def of_fit(function: Callable[[Floats, Floats], float]) -> Statistic:
        return lambda i: NAN if fit.reason else function(fitted[i], y[i])

    return {
        "srcc": lambda i: srcc(x[i], y[i]),
        "plcc_raw": lambda i: plcc(x[i], y[i]),
        "plcc_fitted": of_fit(plcc),
        "krcc": lambda i: krcc(x[i], y[i]),
        "rmse": of_fit(rmse),
    }


def _per_content(x: Floats, y: Floats, contents: Sequence[str]) -> tuple[dict[str, Indices], dict[str, int]]:
    """Indices of each content that has a correlation, and how many have none, by reason."""
    names = np.asarray(contents, dtype=object)
    used: dict[str, Indices] = {}
    skipped: Counter[str] = Counter()
    for name in sorted(set(contents)):
        index = np.flatnonzero(names == name)
        if varies(x[index], y[index]):
            used[name] = index
        elif len(index) < 2:
            skipped["one image only"] += 1
        else:
            skipped["equal predictions" if varies(y[index]) else "equal opinions"] += 1
    return used, dict(skipped)


def _mean_over_contents(
    function: Callable[[Floats, Floats], float],
    x: Floats,
    y: Floats,
    contents: Sequence[str],
    groups: Mapping[str, Indices],
    bootstrap: int,
    seed: int,
) -> tuple[float, Interval]:
    """Mean of the values per content, and its interval."""
    if not groups:
        return NAN, (NAN, NAN)
    values = np.array([function(x[index], y[index]) for index in groups.values()])
    mean = float(values.mean())
    if resampling_unit(contents) == "references":
        return mean, cluster_interval(lambda i: float(values[i].mean()), list(groups), bootstrap, seed)
    names = np.asarray(contents, dtype=object)

    def of_images(drawn: Indices) -> float:
        drawn_values = [function(x[i], y[i]) for i in (drawn[names[drawn] == name] for name in groups)]
        drawn_values = [value for value in drawn_values if not math.isnan(value)]
        return float(np.mean(drawn_values)) if drawn_values else NAN

    return mean, cluster_interval(of_images, contents, bootstrap, seed)


judge = evaluate_scores  # old name
