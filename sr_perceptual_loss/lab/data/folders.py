"""Which files of a folder count, and how their names are compared: one rule for images and for label files.

A file counts if its suffix is a known one, in upper or lower case, and its name does not begin with a dot (macOS puts a
companion ``._x.png`` beside ``x.png``). Links to files count, links to folders are not followed. The order is that of
the characters of the paths (``img_10`` comes before ``img_2``). Names are compared in the composed Unicode form (NFC),
since macOS writes ``é`` as two characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sr_perceptual_loss.errors import InputError

__all__ = ["Listing", "list_folder"]


class Listing(NamedTuple):
    """Content of a folder."""

    files: list[Path]
    others: list[Path]  # files of another kind, without hidden ones
    folders: list[Path]  # sub-folders, without hidden ones


def list_folder(folder: Path, suffixes: Sequence[str], *, deep: bool = False) -> Listing:
    """The files of a folder that count, sorted; with ``deep`` those of sub-folders too.

    ``suffixes`` are in lower case, with their dots.

    Raises:
        InputError: a folder that cannot be read.
    """
    listing = Listing([], [], [])
    try:
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            # A broken link counts as a file: reading it names it.
            is_file = path.suffix.lower() in suffixes and (path.is_file() or path.is_symlink()) and not path.is_dir()
            (listing.folders if path.is_dir() else listing.files if is_file else listing.others).append(path)
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be read ({error.strerror}).") from None
    for sub_folder in listing.folders if deep else ():
        if not sub_folder.is_symlink():
            files, others, _ = list_folder(sub_folder, suffixes, deep=True)
            listing.files.extend(files)
            listing.others.extend(others)
    return Listing(*(sorted(paths) for paths in listing))
