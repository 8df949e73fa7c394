"""A switch for places where weights of unknown licence must not be used: ``SRPL_REQUIRE_LICENCE``."""

from __future__ import annotations

import os
from pathlib import Path

from sr_perceptual_loss.checks import nearest
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights.disk import safetensors_header
from sr_perceptual_loss.weights.manifest import WeightsEntry

__all__ = ["check_entry", "check_file", "required"]

VARIABLE = "SRPL_REQUIRE_LICENCE"
#: Value -> what weights must have.
LEVELS = {"stated": "a stated licence", "commercial": "a licence that allows commercial use"}


def required() -> str:
    """The level that the environment asks for, or an empty text; looked up at every call.

    Raises:
        InputError: another value: a misspelt switch must not let anything through.
    """
    level = os.environ.get(VARIABLE, "")
    if level and level not in LEVELS:
        raise InputError(f"{VARIABLE}: got {level!r}.{nearest(level, LEVELS)}")
    return level


def check_entry(name: str, entry: WeightsEntry) -> None:
    """Refuse a published or bundled file before it is downloaded or used.

    Args:
        name: the critic.
        entry: the file.

    Raises:
        WeightsError: it has not what the environment asks for.
    """
    commercial = {True: "yes", False: "no", None: "unknown"}[entry.commercial_use]
    _check(f"{name}: the weights '{entry.tag}'", entry.licence, commercial)


def check_file(path: Path) -> None:
    """Refuse a file of ours whose header does not say what the environment asks for.

    Args:
        path: the file; one that is damaged or not ours is left to the reader, which says so.

    Raises:
        WeightsError: it has not what the environment asks for.
    """
    if not required() or not path.is_file():
        return
    try:
        metadata = safetensors_header(path).get("__metadata__")
    except WeightsError:
        return
    if isinstance(metadata, dict):
        _check(str(path), metadata.get("srpl.licence", ""), metadata.get("srpl.commercial_use", "unknown"))


def _check(what: str, licence: str, commercial: str) -> None:
    level = required()
    if (level == "stated" and not licence) or (level == "commercial" and (not licence or commercial != "yes")):
        raise WeightsError(
            f"{what}: licence {licence or 'not stated'}, commercial use: {commercial}; {VARIABLE}={level} asks for "
            f"{LEVELS[level]}. Use other weights, or unset {VARIABLE} if you may use these."
        )
