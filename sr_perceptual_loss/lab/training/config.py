"""What one critic training is: typed sections, every value checked when the file is read, before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sr_perceptual_loss.checks import as_float, as_int, check_choice
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.training.typed_yaml import read_typed

__all__ = [
    "CheckpointConfig",
    "CriticConfig",
    "DataConfig",
    "InputConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PairsConfig",
    "ScheduleConfig",
    "TrainingConfig",
    "ValidationConfig",
    "read_config",
]


@dataclass(frozen=True)
class CriticConfig:
    """Which network, and what it starts from.

    Attributes:
        name: one of ``srpl list``.
        weights: ``.safetensors`` file, or tag of the card, to go on from; None for random weights.
        config: constructor arguments, for a network of another size; only without ``weights``.
        backbone: "random", or "imagenet": backbones from timm's published weights (downloads once).
        freeze: "published" (what the reference training keeps fixed), "none", or a list of name prefixes.
        freeze_statistics: batch norms of frozen parts stay in eval mode (the published Efficient-PBAN code moves them).
    """

    name: str
    weights: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    backbone: str = "random"
    freeze: str | tuple[str, ...] = "published"
    freeze_statistics: bool = True

    def __post_init__(self) -> None:
        check_choice("critic.backbone", self.backbone, ("random", "imagenet"))
        if isinstance(self.freeze, str):
            check_choice("critic.freeze", self.freeze, ("published", "none"))
        if self.weights is not None and (self.config or self.backbone != "random"):
            raise InputError(
                "critic.weights: the file brings its own constructor arguments and backbone; leave critic.config and "
                "critic.backbone out."
            )


@dataclass(frozen=True)
class DataConfig:
    """Which label set, and which of its scenes are for validation.

    Attributes:
        dataset: registry name of a reader.
        root: folder of the data set.
        labels: label file instead of the set's own one.
        split: "scenes" (disjoint scenes by seed) or "official" (the set's own parts).
        train_share: share of scenes for training.
        split_seed: of the shuffle.
        train_part: official part to train on.
        val_part: official part to validate on.
        scale: "minmax" (training scores to [0, 1]), "documented" (the scale's ends to [0, 1]), "raw", or "auto":
            minmax for the RQI scheme, raw for opinion scores.
        limit_scenes: use only this many training scenes (a quick try); None for all.
    """

    dataset: str
    root: Path
    labels: Path | None = None
    split: str = "scenes"
    train_share: float = 0.8
    split_seed: int = 0
    train_part: str = "train"
    val_part: str = "val"
    scale: str = "auto"
    limit_scenes: int | None = None

    def __post_init__(self) -> None:
        check_choice("data.split", self.split, ("scenes", "official"))
        check_choice("data.scale", self.scale, ("auto", "minmax", "documented", "raw"))
        as_float("data.train_share", self.train_share, minimum=0.0, maximum=1.0)
        if self.limit_scenes is not None:
            as_int("data.limit_scenes", self.limit_scenes, minimum=1)


@dataclass(frozen=True)
class PairsConfig:
    """Ordered pairs of one scene (RQI scheme only).

    Attributes:
        same_distortion: only pairs of one distortion type (the ablation of the RQI supplement; worse).
        pristine: score of the pristine picture as a member of its scene, on the scaled [0, 1] axis; None leaves it out.
        pristine_share: share of pairs of which one is the pristine picture; None for what membership gives. Ours:
            a critic is used with a pristine second image, which the pairs of the paper never show.
        per_epoch: draws per epoch; None for one per rated image.
    """

    same_distortion: bool = False
    pristine: float | None = None
    pristine_share: float | None = None
    per_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.pristine_share is not None:
            as_float("pairs.pristine_share", self.pristine_share, minimum=0.0, maximum=1.0)
        if self.per_epoch is not None:
            as_int("pairs.per_epoch", self.per_epoch, minimum=1)


@dataclass(frozen=True)
class InputConfig:
    """From image files to what the network sees; both images alike.

    Attributes:
        resize: side to which whole images are resized (bilinear, antialiased, aspect ratio not kept) before the crop.
        crop: side of the aligned random crop; "input" for the critic's own size, None for whole images.
        flip: "horizontal", "both" or "none".
        cache: megabytes of decoded images that each loader process keeps; worth it for sets that fit into memory.
    """

    resize: int | None = None
    crop: int | str | None = "input"
    flip: str = "horizontal"
    cache: float = 0.0

    def __post_init__(self) -> None:
        check_choice("input.flip", self.flip, ("none", "horizontal", "both"))
        as_float("input.cache", self.cache, minimum=0.0)
        if self.resize is not None:
            as_int("input.resize", self.resize, minimum=8)
        if isinstance(self.crop, str):
            check_choice("input.crop", self.crop, ("input",))
        elif self.crop is not None:
            as_int("input.crop", self.crop, minimum=8)


@dataclass(frozen=True)
class ObjectiveConfig:
    """Distance of prediction and label.

    Attributes:
        loss: "huber", "l1" or "l2".
        delta: of the Huber loss. With labels of PIPAL nearly all differences are below 0.5, so that 1.0 is half of L2
            on every pair; 0.1 to 0.2 is where Huber differs.
    """

    loss: str = "huber"
    delta: float = 1.0

    def __post_init__(self) -> None:
        check_choice("objective.loss", self.loss, ("huber", "l1", "l2"))
        as_float("objective.delta", self.delta, minimum=1e-6)


@dataclass(frozen=True)
class OptimizerConfig:
    """What moves the weights.

    Attributes:
        type: "adam" (weight decay as L2 in the gradient, as published) or "adamw".
        lr: learning rate.
        weight_decay: weight decay.
        max_norm: gradients are scaled down to this norm; None leaves them.
    """

    type: str = "adam"
    lr: float = 1e-4
    weight_decay: float = 1e-5
    max_norm: float | None = None

    def __post_init__(self) -> None:
        check_choice("optimizer.type", self.type, ("adam", "adamw"))
        as_float("optimizer.lr", self.lr, minimum=0.0)
        as_float("optimizer.weight_decay", self.weight_decay, minimum=0.0)


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over time.

    Attributes:
        type: "constant"; "step": times ``gamma`` every ``step`` epochs; "cosine": per iteration, to 0 after ``t_max``
            iterations and up again (upstream's AHIQ and MANIQA use 50).
        step: epochs.
        gamma: factor.
        t_max: iterations of half a cosine; None for the whole training.
    """

    type: str = "constant"
    step: int = 5
    gamma: float = 0.5
    t_max: int | None = None

    def __post_init__(self) -> None:
        check_choice("schedule.type", self.type, ("constant", "step", "cosine"))
        as_int("schedule.step", self.step, minimum=1)


@dataclass(frozen=True)
class ValidationConfig:
    """How a checkpoint is judged.

    Attributes:
        protocol: name of an evaluation protocol; "centre" scores one crop per image.
        every: epochs between two validations.
        select: "srcc" (all images) or "srcc_mean" (mean over scenes); the best one is kept. "auto": srcc_mean for the
            RQI scheme, whose scores compare images of one scene only, srcc for opinion scores.
        limit: number of validation images, evenly spaced; None for all.
    """

    protocol: str = "centre"
    every: int = 1
    select: str = "auto"
    limit: int | None = None

    def __post_init__(self) -> None:
        check_choice("validation.select", self.select, ("auto", "srcc", "srcc_mean"))
        as_int("validation.every", self.every, minimum=1)


@dataclass(frozen=True)
class CheckpointConfig:
    """How often the full state is written.

    Attributes:
        every: steps between two states, besides one at each epoch's end; None for epochs only.
    """

    every: int | None = 500

    def __post_init__(self) -> None:
        if self.every is not None:
            as_int("checkpoint.every", self.every, minimum=1)


@dataclass(frozen=True)
class TrainingConfig:
    """One critic training.

    Attributes:
        out: folder of everything that the run writes.
        scheme: "rqi" (differences of ordered pairs of one scene) or "mos" (opinion scores against the reference).
        critic: network and start.
        data: label set and split.
        pairs: pair building (scheme rqi).
        input: crops, resizing, flips.
        objective: loss.
        optimizer: optimizer.
        schedule: learning rate.
        validation: judging and selection.
        checkpoint: how often the full state is written.
        epochs: passes; one draw per image and epoch.
        batch: pairs per step, over all processes together.
        precision: "fp32" or "bf16" (matrix products and convolutions).
        device: "auto" or "cpu".
        workers: loader processes (per process of training).
        seed: of weights, pairs, crops and dropout.
        log_every: steps between two log entries.
    """

    out: Path
    critic: CriticConfig
    data: DataConfig
    scheme: str = "rqi"
    pairs: PairsConfig = field(default_factory=PairsConfig)
    input: InputConfig = field(default_factory=InputConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    epochs: int = 10
    batch: int = 8
    precision: str = "fp32"
    device: str = "auto"
    workers: int = 2
    seed: int = 0
    log_every: int = 20

    def __post_init__(self) -> None:
        check_choice("scheme", self.scheme, ("rqi", "mos"))
        check_choice("precision", self.precision, ("fp32", "bf16"))
        check_choice("device", self.device, ("auto", "cpu"))
        for name in ("epochs", "batch", "log_every"):
            as_int(name, getattr(self, name), minimum=1)
        if self.scheme == "mos" and self.pairs != PairsConfig():
            raise InputError("pairs: belongs to scheme 'rqi'; scheme 'mos' learns each image's own score.")

    @property
    def select(self) -> str:
        """The validation value that decides which weights are kept."""
        automatic = "srcc_mean" if self.scheme == "rqi" else "srcc"
        return automatic if self.validation.select == "auto" else self.validation.select

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in YAML."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a training file; every key must be known.

    Args:
        path: a YAML file.
        overrides: ``section.key=value``, the value as in YAML.

    Returns:
        The checked configuration.

    Raises:
        InputError: not there, no YAML, an unknown key (with the nearest known one), or a value that cannot be.
    """
    return read_typed(TrainingConfig, path, overrides)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
