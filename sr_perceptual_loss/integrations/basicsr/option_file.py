"""The option file as text: what BasicSR would misread, or fail on later, is named with its line."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from basicsr.utils.options import ordered_yaml

from sr_perceptual_loss.checks import as_int
from sr_perceptual_loss.errors import InputError

__all__ = ["check_file", "read_exponents", "read_nodes", "yaml_error"]

#: What BasicSR's ``train_pipeline`` indexes: sections, and keys that may not be empty.
SECTIONS = ("datasets.train", "path")
KEYS = (
    *("name", "model_type", "num_gpu", "network_g.type"),
    *("train.total_iter", "logger.print_freq", "logger.save_checkpoint_freq"),
)


def check_file(path: Path) -> None:
    """Check the file before BasicSR reads it.

    Raises:
        InputError: see :func:`read_nodes`; or a key that BasicSR needs is missing, empty, or no positive number.
    """
    root = read_nodes(path)
    val = next((value for key, value in root.value if key.value == "val"), None)
    with_val = val is not None and not _is_null(val)
    for name in (*SECTIONS, *KEYS, *(("val", "val.val_freq", "val.save_img") if with_val else ())):
        node: Any = root
        for part in name.split("."):
            children = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
            node = children.get(part)
            if node is None or _is_null(node):
                likely = difflib.get_close_matches(part, children, 1, 0.6)
                hint = f" Did you mean it by '{likely[0]}'?" if likely and likely[0] != part else ""
                raise InputError(f"{path}: `{name}` is missing or empty.{hint}")
        if name in (*SECTIONS, "val") and not isinstance(node, yaml.MappingNode):
            raise InputError(f"{path}: `{name}`: got {node.value!r}, expected a section with lines `key: value`.")
        if name.endswith(("_freq", "_iter")):
            as_int(f"{path}: `{name}`", node.value, minimum=1)


def read_nodes(path: Path) -> yaml.MappingNode:
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
    nodes: list[yaml.Node] = [root]
    seen: set[int] = set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))  # an alias is the same node, and may be inside of itself
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
            continue
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            nodes += (key, value)
            if isinstance(key, yaml.ScalarNode):
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise InputError(
                        f"{path}: `{key.value}` stands twice in one section, in lines {lines[name]} and {line}; "
                        "BasicSR would take the last one. Remove one."
                    )
                lines[name] = line
    return root


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and (node.tag.endswith(":null") or node.value == "")


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
