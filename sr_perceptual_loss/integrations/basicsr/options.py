"""What an option file says, whoever the model is: checked before anything is written or trained."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from basicsr.utils.registry import LOSS_REGISTRY, METRIC_REGISTRY

from sr_perceptual_loss.checks import as_int, check_choice, check_known_keys, nearest
from sr_perceptual_loss.errors import InputError, UnknownNameError, WeightsError
from sr_perceptual_loss.integrations.basicsr.entries import check_arguments, registered
from sr_perceptual_loss.integrations.basicsr.read_keys import CLOSE, OWN_KEYS, ReadKeys, is_loss

__all__ = ["check_options", "check_paths"]

#: Optional keys that BasicSR reads, by section; "" is the root. Other keys may be a project's own.
KNOWN = {
    "": ("scale", "val", "dist_params", "find_unused_parameters"),
    "val": ("val_freq", "save_img", "metrics", "pbar", "suffix"),
    "logger": ("print_freq", "save_checkpoint_freq", "use_tb_logger", "wandb"),
    "train": (*OWN_KEYS, "total_iter", "warmup_iter", "optim_g", "optim_d", "scheduler", "ema_decay"),
}
SLOTS = {"pixel_opt", "perceptual_opt", "gan_opt", "ldl_opt"}
#: Names of older versions.
OLD_NAMES = {"pretrain_model_g": "pretrain_network_g", "pretrain_model_d": "pretrain_network_d"}
OLD_NAMES |= {"resume": "resume_state"}


def check_options(opt: Mapping[str, Any]) -> None:
    """Refuse what any model would ignore or fail on: keys in a wrong section, keys of losses, metrics, missing files.

    Raises:
        InputError, UnknownNameError, WeightsError: naming the key.
    """
    train = opt["train"].plain() if isinstance(opt["train"], ReadKeys) else opt["train"]
    _check_names({**opt, "train": train})
    for key in SLOTS & train.keys():
        if train[key] and not (isinstance(train[key], Mapping) and isinstance(train[key].get("type"), str)):
            raise InputError(f"train.{key}: got {train[key]!r}, expected a mapping such as {{type: L1Loss}}.")
    for key, value in train.items():
        kind = value.get("type") if isinstance(value, Mapping) and str(key).endswith("_opt") else None
        if isinstance(kind, str) and registered(LOSS_REGISTRY, kind):
            check_arguments(f"train.{key}", kind, value, ["name", "schedule"] if key == "perceptual_opt" else [])
            one_tensor = LOSS_REGISTRY.get(kind).__module__.startswith("basicsr.") and kind != "PerceptualLoss"
            if key == "perceptual_opt" and one_tensor and not _is_perceptual(opt):
                raise InputError(
                    f"train.{key}: {kind} gives one tensor, this slot takes a pair. Move it to `pixel_opt`."
                )
    val, phases = opt.get("val") or {}, opt.get("datasets")
    if val and phases is not None and not any(str(phase).startswith("val") for phase in phases):
        raise InputError("val: there is nothing to validate on; add `datasets.val`, or remove the section `val`.")
    metrics = val.get("metrics") or {}
    if not isinstance(metrics, Mapping):
        raise InputError(f"val.metrics: got {metrics!r}, expected a mapping {{<name>: {{type: calculate_psnr, ...}}}}.")
    for name, options in metrics.items():
        _check_metric(f"val.metrics.{name}", options, build=opt.get("rank", 0) == 0)


def _check_names(opt: Mapping[str, Any]) -> None:
    """Refuse losses outside of ``train``, and a key that BasicSR reads in another section or under a similar name."""
    networks = [key.removeprefix("network") for key in opt if str(key).startswith("network_")]
    path = [f"{key}{n}" for key in ("pretrain_network", "param_key", "strict_load") for n in networks]
    known = {**KNOWN, "path": ("resume_state", *path)}
    home = {key: section for section, keys in known.items() for key in keys if section}
    for section, options in _sections(opt):
        for key, value in options.items():
            name = f"{section}.{key}" if section else str(key)
            is_stray_loss = not section and str(key).endswith("_opt") and is_loss(key, value)
            there = "train" if is_stray_loss else home.get(key, section)
            if value and there != section and (key in OWN_KEYS or not section.startswith(f"{there}.")):
                raise InputError(f"{name}: it is not read here. Move it into the section `{there}`.")
            # What else may be in `train` is known when a model has read it.
            own = OWN_KEYS if section == "train" else known.get(section, ())
            own = own if section or not _is_perceptual(opt) else (*own, *OWN_KEYS)
            unused = () if key in own else {*own} - options.keys()
            likely = difflib.get_close_matches(str(key), unused, 1, CLOSE)
            if likely or (section == "path" and key in OLD_NAMES):
                raise InputError(f"{name}: it is not read. Did you mean '{OLD_NAMES.get(key, *likely)}'?")


def _is_perceptual(opt: Mapping[str, Any]) -> bool:
    return str(opt.get("model_type")).startswith("Perceptual")


def _sections(opt: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The root and its sections by name, with those in them; without networks, which refuse a wrong key themselves."""
    yield "", opt
    for key, value in opt.items():
        if isinstance(value, Mapping) and not str(key).startswith("network"):
            yield str(key), value
            for inner, options in value.items():
                if isinstance(options, Mapping) and options.get("type") != "LossList" and inner not in OWN_KEYS:
                    yield f"{key}.{inner}", options


def check_paths(opt: Mapping[str, Any]) -> None:
    """Networks to start from, and folders of images, exist."""
    files = {f"path.{key}": file for key, file in (opt.get("path") or {}).items() if key.startswith("pretrain_network")}
    for phase, dataset in (opt.get("datasets") or {}).items():
        if isinstance(dataset, Mapping) and (dataset.get("io_backend") or {}).get("type") == "disk":
            files |= {f"datasets.{phase}.{key}": value for key, value in dataset.items() if key.startswith("dataroot")}
    for name, file in files.items():
        if isinstance(file, str) and not Path(file).exists():
            raise InputError(f"{name}: there is no {file} in {Path.cwd()}.")


def _check_metric(where: str, options: Any, build: bool) -> None:
    """A metric exists and takes its options; one of ours is built, with its weights."""
    if not isinstance(options, Mapping) or not isinstance(options.get("type"), str):
        raise InputError(f"{where}: got {options!r}, expected a mapping with `type: calculate_<name>`.")
    kind, given = options["type"], {key: value for key, value in options.items() if key != "type"}
    if not registered(METRIC_REGISTRY, kind):
        raise UnknownNameError(f"{where}: no metric '{kind}'.{nearest(kind, METRIC_REGISTRY.keys())}")
    metric = METRIC_REGISTRY.get(kind)
    taken = inspect.signature(getattr(metric, "prepare", metric)).parameters.values()
    free = any(p.kind is p.VAR_KEYWORD for p in taken)
    known = [p.name for p in taken if p.kind is not p.VAR_KEYWORD and p.name not in ("img", "img2")]
    # Where **kwargs takes all, only a near miss is surely a mistake.
    odd = [k for k in given if not free or difflib.get_close_matches(k, {*known, "better"} - {*given}, 1, CLOSE)]
    check_known_keys(where, odd, [*known, "better"])
    for p in taken:
        if p.name in known and p.default is p.empty and p.name not in given:
            raise InputError(f"{where}: `{p.name}` is missing; {kind} needs it.")
    try:
        check_choice("better", given.get("better", "higher"), ("higher", "lower"))
        if metric.__module__.startswith("basicsr."):
            if kind.endswith("_pt"):
                raise InputError(f"it takes tensors, and BasicSR validates with arrays: write {kind[:-3]}.")
            as_int("crop_border", given.get("crop_border", 0))
            check_choice("input_order", given.get("input_order", "HWC"), ("HWC", "CHW"))
        elif build and hasattr(metric, "prepare"):
            metric.prepare(**given)
    except (InputError, UnknownNameError, WeightsError) as error:
        raise type(error)(f"{where} ({kind}): {error}") from None
