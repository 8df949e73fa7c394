"""The training file: typed sections with their defaults, checked when the file is read and before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec import Meta

from sr_perceptual_loss.checks import as_path, nearest
from sr_perceptual_loss.errors import InputError

__all__ = ["CriticConfig", "TrainingConfig", "parse_yaml", "read_config"]

Count = Annotated[int, Meta(ge=1)]
Side = Annotated[int, Meta(ge=8)]
Share = Annotated[float, Meta(ge=0, le=1)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
# The limits refuse infinity and NaN.
Finite = Annotated[float, Meta(ge=-1e9, le=1e9)]
NonNegative = Annotated[float, Meta(ge=0, le=1e9)]
Positive = Annotated[float, Meta(ge=1e-6, le=1e9)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of one subject."""


class CriticConfig(_Section, frozen=True):
    """Which network, and what it starts from."""

    name: str  # one of `srpl list`
    weights: str | None = None  # .safetensors file, or tag of the card, to start from; None for random weights
    config: dict[str, Any] = {}  # constructor arguments, for a network of another size; only without `weights`
    backbone: Literal["random", "imagenet"] = "random"  # imagenet: timm's published weights, downloaded once
    # "published" (what the reference training keeps fixed), "none", or a list of name prefixes. Batch norms of frozen
    # parts stay in eval mode.
    freeze: Literal["published", "none"] | tuple[str, ...] = "published"

    def __post_init__(self) -> None:
        if self.weights is not None and (self.config or self.backbone != "random"):
            raise InputError(
                "critic.weights: the file contains its own constructor arguments and backbone; remove critic.config "
                "and critic.backbone."
            )


class DataConfig(_Section, frozen=True):
    """Which label set, and which of its reference contents are for validation."""

    dataset: str  # name of a data set reader
    root: Path  # folder of the data set
    labels: Path | None = None  # another label file than that of the data set
    split: Literal["contents", "official"] = "contents"  # by seed, or the published train and val
    train_share: Share = 0.8  # of the contents
    split_seed: NonNegativeInt = 0
    # "minmax" (training scores to [0, 1]), "documented" (the documented range to [0, 1]), "raw", or "auto": minmax for
    # scheme rqi, raw for opinion scores.
    scale: Literal["auto", "minmax", "documented", "raw"] = "auto"


class PairsConfig(_Section, frozen=True):
    """Ordered pairs of one reference content (scheme rqi only)."""

    same_distortion: bool = False  # only pairs of one distortion type (the ablation of the RQI supplement; worse)
    pristine: Finite | None = None  # scaled score of the reference image as a version of its content; None: no version
    # Share of pairs that contain the reference image; None for what membership gives. Not in the paper: as a loss a
    # critic always sees a reference as second image, which the pairs of the paper never contain.
    pristine_share: Share | None = None
    per_epoch: Count | None = None  # pairs per epoch; None for one per rated image


class InputConfig(_Section, frozen=True):
    """From image files to what the network sees; both images of a pair alike."""

    resize: Side | None = None  # whole images to this side first (bilinear, antialiased, aspect ratio not kept)
    crop: Side | Literal["input"] | None = (
        "input"  # aligned random crop; "input": the critic's size; None: whole images
    )
    flip: Literal["none", "horizontal", "both"] = "horizontal"
    cache: NonNegative = 0.0  # megabytes of decoded images that each loader process keeps


class ObjectiveConfig(_Section, frozen=True):
    """Distance of prediction and label."""

    loss: Literal["huber", "l1", "l2"] = "huber"
    # Of the Huber loss. With labels of PIPAL nearly all differences are below 0.5, where 1.0 gives half of L2; 0.1 to
    # 0.2 makes a difference.
    delta: Positive = 1.0


class OptimizerConfig(_Section, frozen=True):
    """The optimizer."""

    type: Literal["adam", "adamw"] = "adam"  # adam: weight decay as L2 in the gradient, as published
    lr: NonNegative = 1e-4
    weight_decay: NonNegative = 1e-5
    max_norm: Positive | None = None  # gradients are scaled down to this norm


class ScheduleConfig(_Section, frozen=True):
    """Learning rate over time."""

    # "step": times `gamma` every `step` epochs. "cosine": per iteration, to 0 after `t_max` iterations and up again.
    type: Literal["constant", "step", "cosine"] = "constant"
    step: Count = 5
    gamma: NonNegative = 0.5
    t_max: Count | None = None  # the published AHIQ and MANIQA code uses 50; None for the whole training


class ValidationConfig(_Section, frozen=True):
    """How weights are compared."""

    protocol: str = "centre"  # of lab/evaluation/protocol.py; "centre" scores one crop per image
    every: Count = 1  # epochs
    # The best weights by this value are kept: "srcc" (all images), "srcc_mean" (mean over contents), or "auto":
    # srcc_mean for scheme rqi, whose scores compare images of one content only, srcc for opinion scores.
    select: Literal["auto", "srcc", "srcc_mean"] = "auto"
    limit: Count | None = None  # number of validation images, evenly spaced; None for all


class CheckpointConfig(_Section, frozen=True):
    """When the full state is written, besides at the end of each epoch."""

    every: Count | None = 500  # steps


class TrainingConfig(_Section, frozen=True):
    """One critic training."""

    out: Path  # folder of everything that the run writes
    critic: CriticConfig
    data: DataConfig
    scheme: Literal["rqi", "mos"] = "rqi"  # differences of pairs of one content, or opinion scores
    pairs: PairsConfig = PairsConfig()
    input: InputConfig = InputConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    epochs: Count = 10
    batch: Count = 8  # pairs per step, over all processes together
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: matrix products and convolutions
    device: Literal["auto", "cpu"] = "auto"
    workers: NonNegativeInt = 2  # loader processes, per process of training
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0  # of weights, pairs, crops and dropout
    log_every: Count = 20  # steps

    def __post_init__(self) -> None:
        if self.scheme == "mos" and self.pairs != PairsConfig():
            raise InputError("pairs: belongs to scheme rqi; scheme mos learns the score of each image.")

    @property
    def select(self) -> str:
        """The validation value that decides which weights are kept."""
        automatic = "srcc_mean" if self.scheme == "rqi" else "srcc"
        return automatic if self.validation.select == "auto" else self.validation.select

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in YAML."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self, enc_hook=str))
        return plain


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read and check a training file; every key must be known. ``overrides`` are ``section.key=value``, as in YAML.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown (with the nearest known one) or missing, or a
            value is not allowed.
    """
    content = parse_yaml(as_path(path))
    for override in overrides:
        _set(content, override)
    try:
        # strict=False: YAML leaves numbers such as 1e-4 as text.
        return msgspec.convert(content, TrainingConfig, strict=False, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        cause = error.__cause__ if isinstance(error.__cause__, InputError) else None
        raise InputError(str(cause) if cause else _explained(str(error), content)) from None


def parse_yaml(path: Path) -> dict[str, Any]:
    """The sections of a file.

    Raises:
        InputError: it cannot be read, is not YAML, or has no sections.
    """
    try:
        content = _parsed(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: got {type(content).__name__}, expected sections such as 'critic:' and 'data:'.")
    return content


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one section; PyYAML would take the last one without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A section with its keys and values."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and first.setdefault((key.tag, key.value), key) is not key:
                line = first[key.tag, key.value].start_mark.line + 1
                what = f"the key '{key.value}' stands twice in one section (first in line {line}); keep one"
                raise yaml.MarkedYAMLError(problem=what, problem_mark=key.start_mark)
        return node


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # ValueError: a date such as 2001-99-99
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _set(content: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise InputError(f"--set: got {override!r}, expected section.key=value, such as objective.loss=l1.")
    *sections, key = name.split(".")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise InputError(f"--set {override}: '{section}' is a value, not a section.")
    place[key] = _parsed(value, f"--set {override}")


def _decoded(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return as_path(value)
    raise TypeError("Expected a path")


def _explained(error: str, content: Mapping[str, Any]) -> str:
    """Message of msgspec (``what - at `$.place` ``) with the dotted key first, the value and the nearest name."""
    what, _, place = error.partition(" - at ")
    of_key = place.startswith("`key` in ")
    place = re.sub(r"^(`key` in )?`\$\.?|`$", "", place)
    field = re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", what)
    if field and field[1].startswith("missing"):
        return f"{f'{place}.' if place else ''}{field[2]}: is missing; it has no default."
    if field:
        return f"{place or 'the training file'}: unknown key '{field[2]}'.{nearest(field[2], _known_names(place))}"
    value: Any = content
    for key in filter(None, re.sub(r"\[.*", "", place).split(".")):
        value = value.get(key) if isinstance(value, Mapping) else value
    if of_key:  # the message of msgspec leaves the key out
        value = [key for key in value if not isinstance(key, str)]
    if what.startswith("Invalid enum value"):
        return f"{place}: got {value!r}.{nearest(str(value), _known_names(place))}"
    expected = what.partition(", got `")[0]
    return f"{place or 'the training file'}: {expected[0].lower()}{expected[1:]}; got {repr(value)[:80]}."


def _known_names(place: str) -> Sequence[str]:
    """Keys of a section, or the names that a value may have."""
    hint: Any = TrainingConfig
    for name in filter(None, place.split(".")):
        hint = get_type_hints(hint)[name]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint.__struct_fields__
    return [name for option in (hint, *get_args(hint)) if get_origin(option) is Literal for name in get_args(option)]
