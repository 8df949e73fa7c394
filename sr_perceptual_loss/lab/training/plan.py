"""What is decided before a run starts: data, split, sizes, number of steps; and its description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, split_contents
from sr_perceptual_loss.lab.data.registry import read_labels
from sr_perceptual_loss.lab.data.scale import ScoreScale
from sr_perceptual_loss.lab.training.config import DataConfig, TrainingConfig
from sr_perceptual_loss.lab.training.network import trainable
from sr_perceptual_loss.lab.training.pairs import ContentPairs, ShuffledPairs, opinion_pairs, vote_pairs
from sr_perceptual_loss.lab.training.validation import ValidationItem, validation_items

__all__ = ["Plan", "describe", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """What follows from a configuration and its data."""

    pairs: ContentPairs | ShuffledPairs
    validation: list[ValidationItem]
    train_contents: int
    val_contents: int
    notes: tuple[str, ...]  # what a user must know about the data set and the split
    scale: dict[str, Any]  # how labels follow from scores
    side: int | None  # of the training crops; None for whole images
    validation_side: int | None  # of the validation crops; None where the critic's input size or the image decides
    steps_per_epoch: int


def make_plan(config: TrainingConfig, critic: Critic) -> Plan:
    """Read the labels, split them, decide sizes.

    Raises:
        InputError: the data set has problems, too few contents, or fewer pairs than a batch.
    """
    labels = read_labels(config.data.dataset, config.data.root, labels=config.data.labels)
    train, val, notes = _split(config.data, labels)
    scale, scale_note = _scale(config, train)
    pairs = _pairs(config, train, scale)
    if len(pairs) < config.batch:
        raise InputError(f"batch: {config.batch} is more than the {len(pairs)} pairs of an epoch.")
    fixed = critic.input_size.fixed
    side = fixed if config.input.crop == "input" else config.input.crop
    if fixed is not None and side != fixed:
        raise InputError(f"input.crop: {critic.card.name} takes {critic.input_size.describe()}; got {side}.")
    return Plan(
        pairs=pairs,
        validation=validation_items(val, config.validation.limit),
        train_contents=len(train.contents),
        val_contents=len(val.contents),
        notes=(*labels.notes, *notes),
        scale=scale_note,
        side=side,
        validation_side=None if fixed is not None else side,
        steps_per_epoch=len(pairs) // config.batch,
    )


def _split(data: DataConfig, labels: LabelSet) -> tuple[LabelSet, LabelSet, tuple[str, ...]]:
    """Training part, validation part, and a note if they share contents."""
    if data.split == "contents":
        first, second = split_contents(labels.contents, train=data.train_share, seed=data.split_seed)
        return labels.subset(first), labels.subset(second), ()
    train, val = labels.part("train"), labels.part("val")
    shared = len(set(train.contents) & set(val.contents))
    if not shared:
        return train, val, ()
    note = (
        f"The official split shares {shared} of {len(val.contents)} validation contents with training: its validation "
        "values are too good. Use data.split: contents."
    )
    return train, val, (note,)


def _scale(config: TrainingConfig, train: LabelSet) -> tuple[ScoreScale | None, dict[str, Any]]:
    """From scores to labels (None: unchanged), and its description for the weights file."""
    kind: str = config.data.scale
    if kind == "auto":
        kind = "minmax" if config.scheme == "rqi" else "raw"
    if not train.rated:
        return None, {"scale": "votes", "label": "2 p - 1"}
    if kind == "raw" and config.scheme == "mos":
        return None, {"scale": "raw"}
    if kind == "raw":
        scale = ScoreScale(0.0, 1.0)
    elif kind == "documented":
        scale = ScoreScale(*train.score_range)
    else:
        scale = ScoreScale.from_scores([r.score for r in train.rated])
    return scale, {"scale": kind, "low": scale.low, "high": scale.high}


def _pairs(config: TrainingConfig, train: LabelSet, scale: ScoreScale | None) -> ContentPairs | ShuffledPairs:
    if config.scheme == "mos":
        return opinion_pairs(train, scale, seed=config.seed)
    if scale is None:
        return vote_pairs(train, seed=config.seed, per_epoch=config.pairs.per_epoch)
    return ContentPairs(train, scale, seed=config.seed, options=config.pairs)


def describe(config: TrainingConfig, plan: Plan, critic: Critic, processes: int) -> str:
    """The whole configuration and what follows from it, for the person who starts the run."""
    trained = sum(p.numel() for p in trainable(critic))
    total = sum(p.numel() for p in critic.parameters())
    lines = [
        yaml.safe_dump(config.as_dict(), sort_keys=False, default_flow_style=None).rstrip(),
        "---",
        f"{critic.card.name}: {trained:,} of {total:,} parameters are trained; input {critic.input_size.describe()}",
        f"{config.data.dataset}: {plan.train_contents} contents to train on, {plan.val_contents} to validate on "
        f"({len(plan.validation)} pairs); labels: {plan.scale}",
        f"{plan.steps_per_epoch * config.epochs} steps of {config.batch} pairs ({plan.steps_per_epoch} per epoch), "
        f"{processes} process(es)",
        *(f"note: {note}" for note in plan.notes),
    ]
    return "\n".join(lines)
