"""The weights on this machine: find them, and fetch them only when asked by name.

``weights="local"`` never touches the network; a tag such as ``"official"`` downloads once. What is read at run time is
our own safetensors file. This is the door of the package: critics and commands use the names below.
"""

from __future__ import annotations

import os
from pathlib import Path

from sr_perceptual_loss.checks import as_path
from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights.container import WeightsFile, load_weights, read, save
from sr_perceptual_loss.weights.fetching import Build, Remap, fetch, install
from sr_perceptual_loss.weights.licences import check_entry, check_file
from sr_perceptual_loss.weights.matching import load_state
from sr_perceptual_loss.weights.places import (
    Entries,
    entry_of,
    home,
    none_published,
    not_here,
    on_this_machine,
    place,
    verified,
)

__all__ = [
    "WeightsFile",
    "entry_of",
    "fetch",
    "home",
    "install",
    "load_state",
    "load_weights",
    "locate",
    "on_this_machine",
    "place",
    "read",
    "save",
]


def locate(name: str, entries: Entries, weights: str | Path, *, remap: Remap, build: Build) -> Path:
    """Path of the weights that a user asked for.

    Args:
        name: the critic.
        entries: its published or bundled weights by tag.
        weights: ``"local"`` (the first tag, from this machine only), a tag (downloads once), or a path.
        remap: published key layout -> ours, for a conversion after a download.
        build: makes the network, for a conversion after a download.

    Returns:
        An existing file.

    Raises:
        WeightsError: not here, unknown, not downloadable, not the file that was pinned, or without the licence that
            ``SRPL_REQUIRE_LICENCE`` asks for; with the cure.
    """
    if not isinstance(weights, str | os.PathLike):
        raise WeightsError(f"{name}: weights: got {weights!r}, expected 'local', a tag, a path, or None.")
    if weights == "local":
        if not entries:
            raise WeightsError(none_published(name))
        entry = next(iter(entries.values()))
        check_entry(name, entry)
        if not on_this_machine(name, entry):
            raise WeightsError(not_here(name, entry))
        return verified(name, entry)
    if isinstance(weights, str) and weights in entries:
        entry = entries[weights]
        check_entry(name, entry)
        return verified(name, entry) if on_this_machine(name, entry) else fetch(name, entry, remap=remap, build=build)
    path = as_path(weights)
    if _there(path):
        check_file(path)
        return path
    if isinstance(weights, str) and path.name == weights and not path.suffix:
        entry_of(name, entries, weights)
    raise WeightsError(
        f"{name}: no file {path} (looked in {Path.cwd()}). Give the path of an existing .safetensors file, "
        f"'local', or a tag ({', '.join(entries) or 'this critic has none'})."
    )


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no name that a file can have
        return False
