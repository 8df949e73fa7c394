"""What one training of rqi_lite is: typed sections, every value checked when the file is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sr_perceptual_loss._checks import InputError, as_float, as_int, as_path, check_choice
from sr_perceptual_loss.training.distortions import DISTORTIONS, SR_DISTORTIONS
from sr_perceptual_loss.training.typed_yaml import read_typed

__all__ = [
    "SCHEME",
    "AttackConfig",
    "GroupsConfig",
    "LiteConfig",
    "LiteDataConfig",
    "LiteObjectiveConfig",
    "LiteOptimizerConfig",
    "LitePairsConfig",
    "LiteValidationConfig",
    "is_lite",
    "read_lite_config",
]

#: Value of ``scheme`` that says that a training file belongs here.
SCHEME = "synthetic"
#: Crops are turned into x4 low-resolution pictures and into cells of 8 pixels.
MULTIPLE = 8


def _numbers(config: object, name: str, where: str, minimum: int) -> None:
    """Lists come from YAML as texts; make them whole numbers in place."""
    values = tuple(as_int(f"{where}.{name}", value, minimum=minimum) for value in getattr(config, name))
    object.__setattr__(config, name, values)


@dataclass(frozen=True)
class LiteDataConfig:
    """Photographs and the list of published scores.

    Attributes:
        photos: folders of pristine photographs.
        labels: KADID-10k's dmos.csv or its list in the form of IQA-Dataset; no images of the set are needed.
        leave_out: scenes of the list that do not count, because they are used for evaluation.
        held_out_photos: share of the photographs kept for validation.
        held_out_types: numbers of types and families that are never shown in training.
        calibration_crops: crops per type and level that the fused measure is fitted on.
    """

    photos: tuple[str, ...]
    labels: Path
    leave_out: tuple[str, ...] = ("I01",)
    held_out_photos: float = 0.1
    held_out_types: tuple[str, ...] = ()
    calibration_crops: int = 4

    def __post_init__(self) -> None:
        if not self.photos:
            raise InputError("data.photos: got an empty list, expected one or more folders of photographs.")
        as_float("data.held_out_photos", self.held_out_photos, minimum=0.0, maximum=0.9)
        as_int("data.calibration_crops", self.calibration_crops, minimum=1)
        _numbers(self, "held_out_types", "data", 1)
        unknown = sorted(set(self.types_out) - set(DISTORTIONS) - set(SR_DISTORTIONS))
        if unknown:
            raise InputError(f"data.held_out_types: got {unknown[0]}, expected numbers from 1..25 or 101..119.")

    @property
    def types_out(self) -> tuple[int, ...]:
        """``held_out_types`` as numbers."""
        return tuple(int(number) for number in self.held_out_types)


@dataclass(frozen=True)
class GroupsConfig:
    """One group: a crop of a photograph and distorted versions of it.

    Attributes:
        count: groups per step.
        versions: images per group, the crop itself included.
        sides: of the crops; one is drawn per step.
        shrink: smallest factor by which photographs are reduced before the crop; 1 takes them as they are.
        networks: share of versions that are outputs of small SR networks, finished and half-trained.
        mixtures: share of versions with two distortions.
        sr: share of SR families among the others; the rest are KADID-10k's types.
    """

    count: int = 4
    versions: int = 8
    sides: tuple[str, ...] = ("96", "128", "160")
    shrink: float = 0.5
    networks: float = 0.1
    mixtures: float = 0.1
    sr: float = 0.45

    def __post_init__(self) -> None:
        as_int("groups.count", self.count, minimum=1)
        as_int("groups.versions", self.versions, minimum=4)
        as_float("groups.shrink", self.shrink, minimum=0.25, maximum=1.0)
        for name in ("networks", "mixtures", "sr"):
            as_float(f"groups.{name}", getattr(self, name), minimum=0.0, maximum=1.0)
        _numbers(self, "sides", "groups", 64)
        wrong = [side for side in self.crop_sides if side % MULTIPLE]
        if wrong or not self.sides:
            raise InputError(f"groups.sides: got {list(self.sides)}, expected multiples of {MULTIPLE} from 64 on.")

    @property
    def crop_sides(self) -> tuple[int, ...]:
        """``sides`` as numbers."""
        return tuple(int(side) for side in self.sides)


@dataclass(frozen=True)
class LitePairsConfig:
    """Pairs inside a group.

    Attributes:
        per_group: pairs per group and step.
        against_gt: share of pairs with the pristine crop.
        degraded: share of pairs whose second image is only slightly degraded, as an imperfect reference is.
            The rest are two distorted versions.
    """

    per_group: int = 16
    against_gt: float = 0.4
    degraded: float = 0.2

    def __post_init__(self) -> None:
        as_int("pairs.per_group", self.per_group, minimum=1)
        as_float("pairs.against_gt", self.against_gt, minimum=0.0, maximum=1.0)
        as_float("pairs.degraded", self.degraded, minimum=0.0, maximum=1.0 - self.against_gt)


@dataclass(frozen=True)
class LiteObjectiveConfig:
    """Distance of prediction and label.

    Attributes:
        delta: of the Huber loss on label differences.
        ranking: weight of the logistic ranking loss.
        levels: weight of the order of levels of one type.
        temperature: label difference at which the logistic losses begin to be satisfied.
    """

    delta: float = 0.15
    ranking: float = 0.1
    levels: float = 0.1
    temperature: float = 0.1

    def __post_init__(self) -> None:
        for name, low in (("delta", 1e-6), ("ranking", 0.0), ("levels", 0.0), ("temperature", 1e-6)):
            as_float(f"objective.{name}", getattr(self, name), minimum=low)


@dataclass(frozen=True)
class LiteOptimizerConfig:
    """AdamW with a linear start and a cosine; a running average of the weights is what is kept.

    Attributes:
        lr: highest learning rate.
        weight_decay: weight decay.
        warmup: steps of the linear start.
        max_norm: gradients are scaled down to this norm.
        average: factor of the running average per step, below 1.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 50
    max_norm: float = 1.0
    average: float = 0.999

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "max_norm"):
            as_float(f"optimizer.{name}", getattr(self, name), minimum=0.0)
        as_int("optimizer.warmup", self.warmup, minimum=0)
        as_float("optimizer.average", self.average, minimum=0.0, maximum=0.99999)


@dataclass(frozen=True)
class AttackConfig:
    """Attacks in the loop; each part can be switched off alone.

    Attributes:
        start: step of the first attack.
        pool: attacked images that are kept; 0 switches all attacks with a pool off.
        pairs: pairs of the pool per step.
        weight: of their loss.
        pixels: attack pixels every so many steps; 0 is off.
        pixel_images: images per pixel attack.
        pixel_steps: largest number of its steps.
        networks: train the small SR networks to raise the critic every so many steps; 0 is off.
        restart: their steps after which one starts again from its honest twin.
        patterns: put periodic patterns, drawn and attacking ones, into the pool every so many steps; 0 is off.
        noise: largest standard deviation of noise in all versions of a group alike; 0 is off.
        shift: crops of all versions alike lose 0..shift pixels at their borders; 0 is off.
        rescale: smallest factor of a resize of all versions alike; 1 is off.
        penalty: weight of the l1 norm of the gradient to the pixels; 0 is off.
        penalty_every: steps between two penalties.
    """

    start: int = 500
    pool: int = 256
    pairs: int = 16
    weight: float = 1.0
    pixels: int = 8
    pixel_images: int = 8
    pixel_steps: int = 20
    networks: int = 2
    restart: int = 150
    patterns: int = 8
    noise: float = 0.02
    shift: int = 8
    rescale: float = 0.7
    penalty: float = 0.0
    penalty_every: int = 4

    def __post_init__(self) -> None:
        for name in ("start", "pool", "pixels", "networks", "patterns", "shift"):
            as_int(f"attack.{name}", getattr(self, name), minimum=0)
        for name in ("pairs", "pixel_images", "pixel_steps", "restart", "penalty_every"):
            as_int(f"attack.{name}", getattr(self, name), minimum=1)
        for name in ("weight", "noise", "penalty"):
            as_float(f"attack.{name}", getattr(self, name), minimum=0.0)
        as_float("attack.rescale", self.rescale, minimum=0.5, maximum=1.0)


@dataclass(frozen=True)
class LiteValidationConfig:
    """How the critic is judged on photographs that it has not seen.

    Attributes:
        groups: held-out groups.
        versions: images per group.
        side: of their crops.
        every: steps between two judgements; the last step is always judged.
        attacked: crops of the two pixel attacks of the final report.
    """

    groups: int = 60
    versions: int = 12
    side: int = 128
    every: int = 1000
    attacked: int = 8

    def __post_init__(self) -> None:
        for name, low in (("groups", 1), ("versions", 4), ("side", 64), ("every", 1), ("attacked", 1)):
            as_int(f"validation.{name}", getattr(self, name), minimum=low)


@dataclass(frozen=True)
class LiteConfig:
    """One training of rqi_lite.

    Attributes:
        out: folder of everything that the run writes.
        data: photographs and label list.
        scheme: "synthetic".
        critic: constructor arguments of the network; empty for its full size.
        groups: what is made of the photographs.
        pairs: which versions are compared.
        objective: loss.
        optimizer: what moves the weights.
        attack: what the critic is hardened against.
        validation: judging.
        steps: in all.
        minutes: one call stops in order after so many, with a state to go on from; None for no limit.
        checkpoint: steps between two states.
        precision: "fp32" or "bf16" (matrix products and convolutions).
        device: "auto" or "cpu".
        workers: processes that make groups.
        seed: of everything random.
        log_every: steps between two log entries.
    """

    out: Path
    data: LiteDataConfig
    scheme: str = SCHEME
    critic: dict[str, Any] = field(default_factory=dict)
    groups: GroupsConfig = field(default_factory=GroupsConfig)
    pairs: LitePairsConfig = field(default_factory=LitePairsConfig)
    objective: LiteObjectiveConfig = field(default_factory=LiteObjectiveConfig)
    optimizer: LiteOptimizerConfig = field(default_factory=LiteOptimizerConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    validation: LiteValidationConfig = field(default_factory=LiteValidationConfig)
    steps: int = 1000
    minutes: float | None = None
    checkpoint: int = 200
    precision: str = "fp32"
    device: str = "auto"
    workers: int = 0
    seed: int = 0
    log_every: int = 20

    def __post_init__(self) -> None:
        check_choice("scheme", self.scheme, (SCHEME,))
        check_choice("precision", self.precision, ("fp32", "bf16"))
        check_choice("device", self.device, ("auto", "cpu"))
        for name in ("steps", "checkpoint", "log_every"):
            as_int(name, getattr(self, name), minimum=1)
        as_int("workers", self.workers, minimum=0)
        if self.minutes is not None:
            as_float("minutes", self.minutes, minimum=0.0)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in YAML."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def is_lite(path: Path) -> bool:
    """Whether a training file asks for this training; False for what cannot be read (its own reader will say why)."""
    try:
        content = yaml.safe_load(as_path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and content.get("scheme") == SCHEME


def read_lite_config(path: str | Path, overrides: Sequence[str] = ()) -> LiteConfig:
    """Read a training file; every key must be known.

    Args:
        path: a YAML file with ``scheme: synthetic``.
        overrides: ``section.key=value``, the value as in YAML.

    Returns:
        The checked configuration.

    Raises:
        InputError: not there, no YAML, an unknown key (with the nearest known one), or a value that cannot be.
    """
    return read_typed(LiteConfig, path, overrides)
