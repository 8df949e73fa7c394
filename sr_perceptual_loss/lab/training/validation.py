"""How well a critic agrees with people on the validation contents; the images are divided among all processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.images import read_image
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.evaluation.correlation import srcc
from sr_perceptual_loss.lab.evaluation.protocol import Protocol, score_pair
from sr_perceptual_loss.lab.training.samples import resize

__all__ = ["ValidationItem", "summarise", "validation_items", "validation_scores"]


@dataclass(frozen=True)
class ValidationItem:
    """One pair to score."""

    content: str
    image: Path
    reference: Path
    target: float  # the opinion score, or 2 p - 1 of a vote


def validation_items(labels: LabelSet, limit: int | None) -> list[ValidationItem]:
    """Rated images against their references, or the pairs of a set with votes only; ``limit`` of them, evenly spaced.

    Raises:
        InputError: fewer than two.
    """
    if labels.rated:
        items = [ValidationItem(r.content, r.dist, r.ref, r.score) for r in labels.rated]
    else:
        items = [ValidationItem(v.content, v.a, v.b, 2 * v.probability - 1) for v in labels.votes]
    if limit is not None and limit < len(items):
        items = [items[i * len(items) // limit] for i in range(limit)]
    if len(items) < 2:
        raise InputError(f"validation needs at least two images, got {len(items)}.")
    return items


def validation_scores(
    critic: Critic,
    items: Sequence[ValidationItem],
    protocol: Protocol,
    *,
    seed: int,
    crop: int | None,
    resize_to: int | None,
    rank: int = 0,
    ranks: int = 1,
) -> list[tuple[int, float]]:
    """(index of the item, score) of every ``ranks``-th item from ``rank`` on; a score depends on the item alone.

    The critic is in eval mode. ``seed`` is that of the crops; ``crop`` is their side, None for the critic's own size or
    the whole image. Images are resized to ``resize_to`` first.
    """
    device = next(critic.parameters()).device
    scores = []
    for index in range(rank, len(items), ranks):
        images = [read_image(path) for path in (items[index].image, items[index].reference)]
        if resize_to is not None:
            images = [resize(image, resize_to) for image in images]
        image, reference = (i.to(device) for i in images)
        with torch.no_grad():
            scores.append((index, score_pair(critic, image, reference, protocol, seed=seed, crop_size=crop)))
    return scores


def summarise(items: Sequence[ValidationItem], scores: Sequence[float]) -> dict[str, float]:
    """Rank correlation over all items (two or more, with one score each), and as the mean over contents.

    Returns:
        ``srcc``, ``srcc_mean`` (without contents where either side is constant; NaN if that leaves none). Both are 0 if
        all scores are equal.
    """
    contents: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        contents[item.content].append(index)
    means = []
    for indices in contents.values():
        targets, predicted = [items[i].target for i in indices], [scores[i] for i in indices]
        if len(set(targets)) > 1 and len(set(predicted)) > 1:
            means.append(srcc(predicted, targets))
    if len(set(scores)) == 1:
        return {"srcc": 0.0, "srcc_mean": 0.0}
    return {
        "srcc": srcc(scores, [item.target for item in items]),
        "srcc_mean": sum(means) / len(means) if means else float("nan"),
    }
