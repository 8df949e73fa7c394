"""The largest disagreements of a critic with people: pairs of versions of one reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.evaluation.correlation import indices_by_content
from sr_perceptual_loss.lab.evaluation.scoring import Pair

__all__ = ["Disagreement", "largest_disagreements"]


@dataclass(frozen=True)
class Disagreement:
    """Two versions of a reference that people and the critic order in opposite ways."""

    content: str  # the reference content
    ref: Path  # its reference image
    better: Path  # what people prefer
    worse: Path  # what the critic prefers
    opinions: tuple[float, float]  # of ``better`` and ``worse``: opinion scores, or shares of votes
    predictions: tuple[float, float]  # critic scores of the same two
    # Of the same two among the versions of the reference by the critic, 1 is best; None for votes.
    ranks: tuple[float, float] | None
    # In (0, 1]. Scores: the smaller of the two distances in rank, by people and by the critic, over the largest
    # possible distance. Votes: |2p - 1|.
    size: float


def largest_disagreements(labels: LabelSet, predictions: Mapping[Pair, float], count: int = 8) -> list[Disagreement]:
    """The largest disagreements first, each image in at most one of them and each reference content in at most two.

    Votes are used where there are no rated images.
    """
    cases = _rated(labels, predictions, count) if labels.rated else _voted(labels, predictions)
    chosen: list[Disagreement] = []
    shown: set[Path] = set()
    per_content: Counter[str] = Counter()
    for case in sorted(cases, key=lambda c: (-c.size, c.content, str(c.better), str(c.worse))):
        if len(chosen) == count:
            break
        if shown & {case.better, case.worse} or per_content[case.content] == 2:
            continue
        chosen.append(case)
        shown |= {case.better, case.worse}
        per_content[case.content] += 1
    return chosen


def _rated(labels: LabelSet, predictions: Mapping[Pair, float], count: int) -> Iterator[Disagreement]:
    """The largest of each reference content."""
    for content, index in indices_by_content([image.content for image in labels.rated]).items():
        images = [labels.rated[i] for i in index]
        x = np.array([predictions[image.dist, image.ref] for image in images])
        people, critic = rankdata([image.score for image in images]), rankdata(x)
        first, second = np.triu_indices(len(images), 1)
        a, b = people[first] - people[second], critic[first] - critic[second]
        size = np.where(a * b < 0, np.minimum(abs(a), abs(b)), 0.0) / max(1, len(images) - 1)
        # At most two of one content are shown, but a shown image rules out its other pairs.
        for k in np.argsort(-size, kind="stable")[: 50 * count]:
            if size[k] == 0:
                break
            i, j = (first[k], second[k]) if a[k] > 0 else (second[k], first[k])
            yield Disagreement(
                content=content,
                ref=images[i].ref,
                better=images[i].dist,
                worse=images[j].dist,
                opinions=(images[i].score, images[j].score),
                predictions=(float(x[i]), float(x[j])),
                ranks=(float(len(x) + 1 - critic[i]), float(len(x) + 1 - critic[j])),
                size=float(size[k]),
            )


def _voted(labels: LabelSet, predictions: Mapping[Pair, float]) -> Iterator[Disagreement]:
    for vote in labels.votes:
        better, worse = (vote.a, vote.b) if vote.probability > 0.5 else (vote.b, vote.a)
        scores = predictions[better, vote.ref], predictions[worse, vote.ref]
        share = max(vote.probability, 1 - vote.probability)
        if share > 0.5 and scores[0] < scores[1]:
            size = abs(2 * vote.probability - 1)
            yield Disagreement(vote.content, vote.ref, better, worse, (share, 1 - share), scores, None, size)
