"""How well a critic agrees with the validation scenes, shared out over all processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

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
    """One judged pair.

    Attributes:
        scene: its scene.
        first: image judged.
        second: image it is judged against.
        target: what people say: the opinion score, or 2 p - 1 of a vote.
    """

    scene: str
    first: Path
    second: Path
    target: float


def validation_items(labels: LabelSet, limit: int | None) -> list[ValidationItem]:
    """Rated images against their references; compared pairs where a set has votes only.

    Args:
        labels: validation scenes.
        limit: at most so many, evenly spaced; None for all.
    """
    if labels.rated:
        items = [ValidationItem(r.scene, r.dist, r.ref, r.score) for r in labels.rated]
    else:
        items = [ValidationItem(v.scene, v.a, v.b, 2 * v.probability - 1) for v in labels.votes]
    if limit is not None and limit < len(items):
        items = [items[i * len(items) // limit] for i in range(limit)]
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
    """(number of the item, score) of this process's share; a score depends on the item alone.

    Args:
        critic: in eval mode.
        items: all items.
        protocol: crops and scales.
        seed: of the crops.
        crop: side of the crops; None for the critic's own size or the whole image.
        resize_to: side to which images are resized first.
        rank: this process.
        ranks: number of processes.
    """
    device = next(critic.parameters()).device
    scores = []
    for number in range(rank, len(items), ranks):
        item = items[number]
        first, second = (_read(path, resize_to).to(device) for path in (item.first, item.second))
        with torch.no_grad():
            scores.append((number, score_pair(critic, first, second, protocol, seed=seed, crop_size=crop)))
    return scores


def _read(path: Path, resize_to: int | None) -> Tensor:
    image = read_image(path)
    return image if resize_to is None else resize(image, resize_to)


def summarise(items: Sequence[ValidationItem], scores: Sequence[float]) -> dict[str, float]:
    """Rank correlation over all items and as the mean over scenes.

    Args:
        items: all items.
        scores: one each.

    Returns:
        ``srcc``, ``srcc_mean`` (scenes where either side is constant are left out; NaN if that leaves none).

    Raises:
        InputError: fewer than two items.
    """
    if len(items) < 2:
        raise InputError(f"validation needs at least two images, got {len(items)}.")
    by_scene: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        by_scene.setdefault(item.scene, []).append(number)
    means = []
    for numbers in by_scene.values():
        targets, given = [items[n].target for n in numbers], [scores[n] for n in numbers]
        if len(set(targets)) > 1 and len(set(given)) > 1:
            means.append(srcc(given, targets))
    constant = len(set(scores)) == 1
    return {
        # A network that says the same of every image agrees with nobody.
        "srcc": 0.0 if constant else srcc(scores, [item.target for item in items]),
        "srcc_mean": sum(means) / len(means) if means else (0.0 if constant else float("nan")),
    }
