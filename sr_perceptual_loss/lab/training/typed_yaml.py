"""A YAML file as typed sections: unknown keys, missing keys and values of another type are errors that name the key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sr_perceptual_loss.checks import as_float, as_int, as_path, check_known_keys
from sr_perceptual_loss.errors import InputError

__all__ = ["build", "read_typed"]

T = TypeVar("T")


def read_typed(cls: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Read a YAML file; every key must be known.

    Args:
        cls: a dataclass.
        path: the file.
        overrides: ``section.key=value``, the value as in YAML.

    Returns:
        The instance, checked by its own ``__post_init__``.

    Raises:
        InputError: not there, no YAML, an unknown key (with the nearest known one), or a value that cannot be.
    """
    path = as_path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text in UTF-8 ({error}).") from None
    content = _parsed(text, str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected sections such as 'critic:' and 'data:', got {type(content).__name__}.")
    for text in overrides:
        _override(content, text)
    return build(cls, content, "")


def _override(content: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--set: got {text!r}, expected section.key=value, such as objective.loss=l1.")
    *sections, key = name.split(".")
    place = content
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise InputError(f"--set {text}: '{section}' is a value, not a section.")
    place[key] = _parsed(value, f"--set {text}")


def _parsed(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # ValueError: a date such as 2001-99-99
        raise InputError(f"{where}: no valid YAML: {' '.join(str(error).split())}") from None


def build(cls: type[T], content: Mapping[str, Any], where: str) -> T:
    """A dataclass from a mapping, recursively; texts that YAML left as numbers' notation become numbers.

    Args:
        cls: a dataclass.
        content: values by field name.
        where: dotted name of the section, for messages.

    Returns:
        The instance, checked by its own ``__post_init__``.

    Raises:
        InputError: unknown or missing key, or a value of another type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: got {content!r}, expected a section with the keys {', '.join(fields)}.")
    check_known_keys(where or "the training file", content, fields)
    values = {}
    for name, info in fields.items():
        dotted = f"{where}.{name}" if where else name
        if name in content:
            values[name] = _value(hints[name], content[name], dotted)
        elif info.default is dataclasses.MISSING and info.default_factory is dataclasses.MISSING:
            raise InputError(f"{dotted}: is missing; it has no default.")
    return cls(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    """One value as its type hint asks."""
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, where)
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = [typing.get_origin(option) or option for option in (typing.get_args(hint) if union else (hint,))]
    if isinstance(value, bool) or value is None:
        if type(value) in kinds:
            return value
        raise InputError(f"{where}: got {value!r}, expected {_names(kinds)}.")
    converted = _converted(kinds, value, where)
    if converted is None:
        raise InputError(f"{where}: got {value!r}, expected {_names(kinds)}.")
    return converted


def _converted(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """The value as the first fitting kind; None if none fits."""
    if isinstance(value, str):
        if Path in kinds:
            return as_path(value)
        if str in kinds:
            return value
    if isinstance(value, Mapping):
        return dict(value) if dict in kinds else None
    if isinstance(value, list | tuple):
        return tuple(str(v) for v in value) if tuple in kinds else None
    if float in kinds:
        return as_float(where, value)
    return as_int(where, value) if int in kinds else None


def _names(kinds: Sequence[Any]) -> str:
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    words |= {type(None): "nothing (null)", dict: "a section", tuple: "a list"}
    return " or ".join(words[kind] for kind in kinds)
