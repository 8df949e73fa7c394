"""What an option file says: checked before the training, and again when the model has read its section ``train``."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils import get_root_logger
from basicsr.utils.options import ordered_yaml
from basicsr.utils.registry import LOSS_REGISTRY, METRIC_REGISTRY
from torch import nn

from sr_perceptual_loss.checks import check_known_keys, nearest
from sr_perceptual_loss.errors import InputError, UnknownNameError, WeightsError
from sr_perceptual_loss.integrations.basicsr.losses import check_arguments, registered

__all__ = ["OWN_KEYS", "ReadKeys", "check_file", "check_model", "check_options", "record_reads"]

#: Keys of ``train:`` that our models read, and those that BasicSR's loop reads instead of the model.
OWN_KEYS, LOOP_KEYS = ("losses", "balance", "guard"), ("total_iter", "warmup_iter")
#: What BasicSR's pipeline indexes; a section where the name ends with a dot.
REQUIRED = ["name", "model_type", "num_gpu", "datasets.train.", "path.", "network_g.type", "train.total_iter"]
REQUIRED += ["logger.print_freq", "logger.save_checkpoint_freq"]
CLOSE = 0.8  # of difflib, for what is surely a spelling mistake


def _noting(method: Callable[..., Any], whole: bool = False) -> Callable[..., Any]:
    def call(self: ReadKeys, *arguments: Any) -> Any:
        self.asked.update(dict.keys(self) if whole else arguments[:1])
        return method(self, *arguments)

    return call


class ReadKeys(dict):
    """A section that notes which keys are asked for; who takes all of it at once may read any.

    Copies share the note. A pickle and a YAML dump are those of a dict.
    """

    def __init__(self, items: Mapping[str, Any], asked: set[Any] | None = None) -> None:
        super().__init__(items)
        self.asked: set[Any] = set() if asked is None else asked

    __getitem__, __contains__, get = _noting(dict.__getitem__), _noting(dict.__contains__), _noting(dict.get)
    pop, setdefault = _noting(dict.pop), _noting(dict.setdefault)
    __iter__, __or__ = _noting(dict.__iter__, whole=True), _noting(dict.__or__, whole=True)
    keys, values, items = (_noting(method, whole=True) for method in (dict.keys, dict.values, dict.items))

    def plain(self) -> dict[Any, Any]:
        """The same items, without a note."""
        return dict(zip(dict.keys(self), dict.values(self), strict=True))

    def copy(self) -> ReadKeys:
        """A copy with the same note."""
        return ReadKeys(self.plain(), self.asked)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> ReadKeys:
        return ReadKeys(deepcopy(self.plain(), memo), self.asked)

    def __reduce__(self) -> Any:
        return dict, (self.plain(),)


for _dumper in {yaml.SafeDumper, yaml.Dumper, getattr(yaml, "CSafeDumper", yaml.Dumper), ordered_yaml()[1]}:
    _dumper.add_representer(ReadKeys, lambda dumper, data: dumper.represent_dict(data.plain()))


def record_reads(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The option tree with a ``train`` that notes what is read, where something is trained."""
    train = opt.get("train")
    start = opt.get("is_train") and isinstance(train, Mapping) and not isinstance(train, ReadKeys)
    return {**opt, "train": ReadKeys(train)} if start and train is not None else dict(opt)


def _is_loss(key: object, value: Any) -> bool:
    """Whether who wrote this key and value meant a loss."""
    if value in (None, False) or str(key).startswith(("optim", "scheduler")):
        return False
    entries = [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, Mapping)]
    return key in OWN_KEYS or str(key).endswith("_opt") or any({"type", "loss_weight"} & e.keys() for e in entries)


def check_model(model: Any, train: ReadKeys) -> None:
    """Refuse keys of ``train`` that a finished model has not read, and a loss that its step never calls.

    What is no loss may be read in the first step; if it was not by then, the log says so.

    Raises:
        InputError: an unread loss, a misspelt key, a loss without a call.
    """
    name, given = type(model).__name__, train.plain()
    asked = {*train.asked, *LOOP_KEYS}
    for key in (key for key in given if key not in asked):
        where, close = f"train.{key}: {name} does not read this key", asked - given.keys()
        if key in OWN_KEYS:
            raise InputError(f"{where}, so it would be ignored. Set `model_type: Perceptual{name}`, which does.")
        if _is_loss(key, given[key]):
            slots = nearest(str(key), [k for k in map(str, asked) if k.endswith("_opt")])
            raise InputError(
                f"{where}, so the loss would be ignored.{slots} Further losses belong into the list `losses` of our "
                "models (model_type: Perceptual<Name>)."
            )
        if likely := difflib.get_close_matches(str(key), map(str, close), 1, CLOSE):
            raise InputError(f"{where}. Did you mean '{likely[0]}'?")
    if isinstance(model, SRGANModel) and not hasattr(model, "cri_gan"):
        raise InputError(f"train.gan_opt is missing; {name} trains against a discriminator.")
    for attribute in _uncalled(model):
        raise InputError(
            f"train.{attribute[4:]}_opt: {name} builds this loss and never calls it. Remove the key, or take a model "
            "that calls it (ldl_opt: RealESRGANModel)."
        )
    handles: list[Any] = []

    def report(*_: object) -> None:
        while handles:
            handles.pop().remove()
        if unread := [str(key) for key in train.plain() if key not in {*train.asked, *LOOP_KEYS}]:
            get_root_logger().warning(f"train: {name} has not read {', '.join(unread)}.")

    handles += [optimizer.register_step_post_hook(report) for optimizer in getattr(model, "optimizers", ())]


def _uncalled(model: Any) -> list[str]:
    """Losses ``cri_*`` that BasicSR's classes build and no other method names; [] where names are made at run time."""
    built: set[str] = set()
    named: set[str] = set()
    for cls in (cls for cls in type(model).__mro__ if not cls.__module__.startswith(__package__)):
        codes: list[Any] = [getattr(inspect.unwrap(f), "__code__", None) for f in vars(cls).values() if callable(f)]
        for code in codes:  # which grows by the functions inside
            if code is not None:
                constructor = code.co_name in ("__init__", "init_training_settings")
                names = built if constructor and cls.__module__.startswith("basicsr.") else named
                names.update(() if constructor and names is named else code.co_names)
                codes += [inner for inner in code.co_consts if inspect.iscode(inner)]
    losses = [a for a, loss in vars(model).items() if a.startswith("cri_") and isinstance(loss, nn.Module)]
    return [] if named & {"getattr", "vars", "__dict__"} else [a for a in losses if a in built - named]


def check_options(opt: Mapping[str, Any]) -> None:
    """Refuse what any model would ignore or fail on: losses in a wrong section, their keys, unknown metrics.

    Raises:
        InputError, UnknownNameError, WeightsError: naming the key.
    """
    train = opt["train"].plain() if isinstance(opt["train"], ReadKeys) else opt["train"]
    for section, options in _sections({**opt, "train": train}):
        for key, value in options.items():
            if (key in OWN_KEYS and value) or (not section and str(key).endswith("_opt") and _is_loss(key, value)):
                raise InputError(f"{section}{key}: nobody reads it here. Move it under `train:`, one level in.")
    for key, value in train.items():
        kind = value.get("type") if isinstance(value, Mapping) and str(key).endswith("_opt") else None
        if isinstance(kind, str) and registered(LOSS_REGISTRY, kind):
            check_arguments(f"train.{key}", kind, value, ["name", "schedule"] if key == "perceptual_opt" else [])
    _check_paths(opt)
    val, phases = opt.get("val") or {}, opt.get("datasets")
    if val and phases is not None and not any(str(phase).startswith("val") for phase in phases):
        raise InputError("val: there is nothing to validate on; add `datasets.val`, or remove the section `val`.")
    _check_metrics(val.get("metrics") or {}, build=opt.get("rank", 0) == 0)


def _sections(opt: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The root and all sections in which nobody reads losses."""
    yield "", opt
    for key, value in opt.items():
        if isinstance(value, Mapping) and not str(key).startswith(
            "network"
        ):  # whose constructors refuse what they miss
            if key != "train":
                yield f"{key}.", value
            for inner, options in value.items():
                if isinstance(options, Mapping) and options.get("type") != "LossList" and inner not in OWN_KEYS:
                    yield f"{key}.{inner}.", options


def _check_paths(opt: Mapping[str, Any]) -> None:
    """Networks to start from, and folders of images, exist."""
    files = {
        f"path.{key}": value for key, value in (opt.get("path") or {}).items() if key.startswith("pretrain_network")
    }
    for phase, dataset in (opt.get("datasets") or {}).items():
        if isinstance(dataset, Mapping) and (dataset.get("io_backend") or {}).get("type") == "disk":
            files |= {f"datasets.{phase}.{key}": value for key, value in dataset.items() if key.startswith("dataroot")}
    for name, file in files.items():
        if isinstance(file, str) and not Path(file).exists():
            raise InputError(f"{name}: there is no {file} in {Path.cwd()}.")


def _check_metrics(metrics: Any, build: bool) -> None:
    """Every metric exists and takes its options; ours are built, with their weights."""
    if not isinstance(metrics, Mapping):
        raise InputError(
            f"val.metrics: got {metrics!r}, expected a mapping from names to {{type: calculate_psnr, ...}}."
        )
    for name, options in metrics.items():
        where = f"val.metrics.{name}"
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
        odd = [k for k in given if not free or difflib.get_close_matches(k, {*known} - {*given}, 1, CLOSE)]
        check_known_keys(where, odd, [*known, "better"])
        for p in taken:
            if p.name in known and p.default is p.empty and p.name not in given:
                raise InputError(f"{where}: `{p.name}` is missing; {kind} needs it.")
        if build and hasattr(metric, "prepare"):
            try:
                metric.prepare(**given)
            except (InputError, UnknownNameError, WeightsError) as error:
                raise type(error)(f"{where} ({kind}): {error}") from None


def check_file(path: Path) -> yaml.MappingNode:
    """The file as nodes: BasicSR takes tags such as !!python/tuple, so nothing is built here.

    Raises:
        InputError: not text, not YAML, not a mapping, or a key that stands twice in one section.
    """
    try:
        # In the encoding of the system, as BasicSR opens it.
        root = yaml.compose(path.read_text(), Loader=ordered_yaml()[0])
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not {error.encoding}. Save the file as UTF-8 text.") from None
    except yaml.YAMLError as error:
        raise yaml_error(path, error) from None
    if not isinstance(root, yaml.MappingNode):
        what = "the file is empty" if root is None else f"got a {type(root).__name__} at the root"
        raise InputError(f"{path}: {what}, expected lines `key: value`.")
    nodes: list[Any] = [root]
    known = {id(root)}
    for node in nodes:  # which grows; an alias is the same node, and may be inside of itself
        lines: dict[str, int] = {}
        for child in node.value if isinstance(node, yaml.CollectionNode) else ():
            key = child[0] if isinstance(child, tuple) else None
            nodes += (new := [part for part in (child if key else [child]) if id(part) not in known])
            known.update(map(id, new))
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise InputError(
                        f"{path}: `{key.value}` stands twice in one section, in lines {lines[key.value]} and {line}; "
                        "BasicSR would take the last one. Remove one."
                    )
                lines[key.value] = line
    return root


def check_required(path: Path, root: yaml.MappingNode) -> None:
    """Refuse a file without what BasicSR's ``train_pipeline`` indexes, at once or after the first iterations.

    Raises:
        InputError: naming the key.
    """
    has_val = any(key.value == "val" and isinstance(value, yaml.MappingNode) for key, value in root.value)
    for name in [*REQUIRED, *(["val.val_freq", "val.save_img"] if has_val else [])]:
        node: yaml.Node = root
        for part in name.split("."):
            children = {k.value: v for k, v in node.value} if isinstance(node, yaml.MappingNode) else {}
            if not isinstance(node, yaml.MappingNode) or (part and part not in children):
                likely = difflib.get_close_matches(part, children, 1, 0.6)
                hint = f" Did you mean it by '{likely[0]}'?" if likely else ""
                raise InputError(f"{path}: `{name.rstrip('.')}` is missing or empty.{hint}")
            node = children.get(part, node)
        if name.endswith(("_freq", "_iter")) and not re.fullmatch(r"\+?[\d_]*[1-9][\d_.eE+-]*", str(node.value)):
            raise InputError(f"{path}: `{name}`: got {node.value!r}, expected a whole number above 0.")


def yaml_error(path: Path | str, error: yaml.YAMLError) -> InputError:
    """One sentence for an error of PyYAML, with the line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    line = "" if mark is None else f", line {mark.line + 1}"
    problem = problem or getattr(error, "reason", None) or str(error).splitlines()[0]
    cure = " Indent with spaces." if "\\t" in problem else " Write the keys out." if ":merge" in problem else ""
    return InputError(f"{path}{line}: {problem}.{cure}")


def read_exponents() -> None:
    """Let BasicSR's loader read 1e-4 as a number, as YAML 1.2 does; YAML 1.1 makes text of it, which torch refuses."""
    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
    ordered_yaml()[0].add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
