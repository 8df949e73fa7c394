"""What a run will do, found out before it starts: data, split, sizes, numbers of steps; and its description."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.labels import LabelSet, split_scenes
from sr_perceptual_loss.lab.data.registry import read_labels
from sr_perceptual_loss.lab.data.scale import ScoreScale
from sr_perceptual_loss.lab.training.config import TrainingConfig
from sr_perceptual_loss.lab.training.network import trainable
from sr_perceptual_loss.lab.training.pairs import Draws, OpinionDraws, ScenePairDraws, VoteDraws
from sr_perceptual_loss.lab.training.validation import ValidationItem, validation_items

__all__ = ["Plan", "check_same_run", "describe", "make_plan", "write_config"]

#: Keys that may differ between a run and its continuation.
_FREE = ("workers", "device", "log_every", "checkpoint")


@dataclass(frozen=True)
class Plan:
    """What follows from a configuration and its data.

    Attributes:
        draws: comparisons to train on.
        validation: pairs to judge.
        train_scenes: names.
        val_scenes: names.
        notes: what the data set's reader says.
        scale_note: how labels follow from scores.
        side: side of the training crops; None for whole images.
        validation_side: side of the validation crops; None for the critic's own choice.
        steps_per_epoch: optimizer steps per epoch.
        steps: in all.
        trained: parameters that are trained.
    """

    draws: Draws
    validation: list[ValidationItem]
    train_scenes: list[str]
    val_scenes: list[str]
    notes: tuple[str, ...]
    scale_note: dict[str, Any]
    side: int | None
    validation_side: int | None
    steps_per_epoch: int
    steps: int
    trained: list[torch.nn.Parameter]


def make_plan(config: TrainingConfig, critic: Critic) -> Plan:
    """Read the labels, split them, decide sizes.

    Args:
        config: the run.
        critic: the network that is trained.

    Raises:
        InputError: the data set has problems, too few scenes, or fewer pairs than a batch.
    """
    labels = read_labels(config.data.dataset, config.data.root, labels=config.data.labels)
    train, val, notes = _split(config, labels)
    scale, scale_note = _scale(config, train)
    draws = _draws(config, train, scale)
    validation = validation_items(val, config.validation.limit)
    per_epoch = len(draws) // config.batch
    if not per_epoch:
        raise InputError(f"batch: {config.batch} is more than the {len(draws)} pairs of an epoch.")
    fixed = critic.input_size.fixed
    side = fixed if config.input.crop == "input" else config.input.crop
    if fixed is not None and side != fixed:
        raise InputError(f"input.crop: {critic.card.name} takes {critic.input_size.describe()}; got {side}.")
    return Plan(
        draws=draws,
        validation=validation,
        train_scenes=train.scenes,
        val_scenes=val.scenes,
        notes=(*labels.notes, *notes),
        scale_note=scale_note,
        side=side if isinstance(side, int) else None,
        validation_side=None if fixed is not None or not isinstance(side, int) else side,
        steps_per_epoch=per_epoch,
        steps=per_epoch * config.epochs,
        trained=trainable(critic),
    )


def _split(config: TrainingConfig, labels: LabelSet) -> tuple[LabelSet, LabelSet, tuple[str, ...]]:
    data = config.data
    notes: tuple[str, ...] = ()
    if data.split == "official":
        train, val = labels.part(data.train_part), labels.part(data.val_part)
        shared = set(train.scenes) & set(val.scenes)
        if shared:
            notes = (
                f"The official split shares {len(shared)} of {len(val.scenes)} validation scenes with training: its "
                "validation values are too good. data.split: scenes gives honest ones.",
            )
    else:
        first, second = split_scenes(labels.scenes, train=data.train_share, seed=data.split_seed)
        train, val = labels.subset(first), labels.subset(second)
    if data.limit_scenes is not None:
        train = train.subset(train.scenes[: data.limit_scenes])
    return train, val, notes


def _scale(config: TrainingConfig, train: LabelSet) -> tuple[ScoreScale | None, dict[str, Any]]:
    kind = config.data.scale
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


def _draws(config: TrainingConfig, train: LabelSet, scale: ScoreScale | None) -> Draws:
    if config.scheme == "mos":
        return OpinionDraws(train, scale, seed=config.seed)
    if scale is None:
        return VoteDraws(train, seed=config.seed, per_epoch=config.pairs.per_epoch)
    pairs = config.pairs
    return ScenePairDraws(
        train,
        scale,
        seed=config.seed,
        same_distortion=pairs.same_distortion,
        pristine=pairs.pristine,
        pristine_share=pairs.pristine_share,
        per_epoch=pairs.per_epoch,
    )


def describe(config: TrainingConfig, plan: Plan, critic: Critic, processes: int) -> str:
    """The whole configuration and what follows from it, for the person who starts the run."""
    trained = sum(p.numel() for p in plan.trained)
    total = sum(p.numel() for p in critic.parameters())
    lines = [
        yaml.safe_dump(config.as_dict(), sort_keys=False, default_flow_style=None).rstrip(),
        "---",
        f"{critic.card.name}: {trained:,} of {total:,} parameters are trained; input {critic.input_size.describe()}",
        f"{config.data.dataset}: {len(plan.train_scenes)} scenes to train on, {len(plan.val_scenes)} to validate on "
        f"({len(plan.validation)} pairs); labels: {plan.scale_note}",
        f"{plan.steps} steps of {config.batch} pairs ({plan.steps_per_epoch} per epoch), {processes} process(es)",
        *(f"note: {note}" for note in plan.notes),
    ]
    return "\n".join(lines)


def write_config(config: TrainingConfig) -> None:
    """Keep the resolved configuration beside the results."""
    path = config.out / "config.yml"
    temporary = config.out / ".config.yml.tmp"
    temporary.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False), encoding="utf-8")
    temporary.replace(path)


def check_same_run(config: TrainingConfig) -> None:
    """Refuse to go on in the folder of another run.

    Raises:
        InputError: naming the first key that differs.
    """
    path: Path = config.out / "config.yml"
    if not path.exists():
        return
    before, now = yaml.safe_load(path.read_text(encoding="utf-8")), config.as_dict()
    for key in now:
        if key not in _FREE and isinstance(before, dict) and before.get(key) != now[key]:
            raise InputError(
                f"{config.out}: holds a run with another '{key}': {before.get(key)}, now {now[key]}. Choose another "
                "out, or the same values."
            )
