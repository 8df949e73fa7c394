"""Where the critic contradicts people most: pairs of versions of one scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.evaluation.optional import need
from sr_perceptual_loss.lab.evaluation.scoring import Pair

__all__ = ["Disagreement", "worst_disagreements"]


@dataclass(frozen=True)
class Disagreement:
    """Two versions of a scene that people and the critic order in opposite ways.

    Attributes:
        scene: the pristine picture.
        ref: its file.
        better: what people prefer.
        worse: what the critic prefers.
        opinions: of ``better`` and ``worse``: opinion scores, or shares of votes.
        predictions: critic scores of the same two.
        ranks: of the same two inside the scene by the critic, 1 is best; None for votes.
        size: how grave, in (0, 1]. Scores: the smaller of the two distances in rank, by people and by the critic,
            over the largest distance that the scene allows. Votes: |2p - 1|.
    """

    scene: str
    ref: Path
    better: Path
    worse: Path
    opinions: tuple[float, float]
    predictions: tuple[float, float]
    ranks: tuple[float, float] | None
    size: float


def worst_disagreements(labels: LabelSet, predictions: Mapping[Pair, float], count: int = 8) -> list[Disagreement]:
    """The gravest contradictions, each image in at most one of them and each scene in at most two.

    Args:
        labels: rated images; votes are used where there are none.
        predictions: score of each (judged image, reference).
        count: how many to return at most.

    Returns:
        Gravest first.
    """
    found = _rated(labels, predictions, count) if labels.rated else _voted(labels, predictions)
    chosen: list[Disagreement] = []
    seen: set[Path] = set()
    scenes: dict[str, int] = {}
    for case in sorted(found, key=lambda c: (-c.size, c.scene, str(c.better), str(c.worse))):
        if len(chosen) == count:
            break
        if seen & {case.better, case.worse} or scenes.get(case.scene, 0) == 2:
            continue
        chosen.append(case)
        seen |= {case.better, case.worse}
        scenes[case.scene] = scenes.get(case.scene, 0) + 1
    return chosen


def _rated(labels: LabelSet, predictions: Mapping[Pair, float], count: int) -> Iterator[Disagreement]:
    """The gravest pairs of each scene."""
    rank = need("scipy.stats").rankdata
    groups: dict[str, list[int]] = {}
    for index, image in enumerate(labels.rated):
        groups.setdefault(image.scene, []).append(index)
    for scene, members in groups.items():
        images = [labels.rated[i] for i in members]
        x = np.array([predictions[image.dist, image.ref] for image in images])
        people, critic = rank([image.score for image in images]), rank(x)
        first, second = np.triu_indices(len(images), 1)
        a, b = people[first] - people[second], critic[first] - critic[second]
        size = np.where(a * b < 0, np.minimum(abs(a), abs(b)), 0.0) / max(1, len(images) - 1)
        # More than `count` of one scene are never shown, but a shown image rules out its other pairs.
        for k in np.argsort(-size, kind="stable")[: 50 * count]:
            if size[k] == 0:
                break
            i, j = (first[k], second[k]) if a[k] > 0 else (second[k], first[k])
            yield Disagreement(
                scene=scene,
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
        a, b = predictions[vote.a, vote.ref], predictions[vote.b, vote.ref]
        if (vote.probability - 0.5) * (a - b) >= 0:
            continue
        for_a = vote.probability > 0.5
        yield Disagreement(
            scene=vote.scene,
            ref=vote.ref,
            better=vote.a if for_a else vote.b,
            worse=vote.b if for_a else vote.a,
            opinions=(max(vote.probability, 1 - vote.probability), min(vote.probability, 1 - vote.probability)),
            predictions=(a, b) if for_a else (b, a),
            ranks=None,
            size=abs(2 * vote.probability - 1),
        )
