"""Which SR image belongs to which HR image, by file names only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from sr_perceptual_loss.cli.terminal import log
from sr_perceptual_loss.errors import InputError

__all__ = ["Matches", "match_images"]

#: What may follow the HR name in an SR name: x4, _x4, _SRNet, x4_SRNet, -5000. It cannot begin with another letter or a
#: digit, so that img_10 is never matched with img_1.
_ENDING = re.compile(r"(x\d+)?([^0-9A-Za-z].*)?")


class Matches(NamedTuple):
    """Files that belong together, and those without a partner."""

    pairs: list[tuple[Path, Path]]  # (sr, hr), in the order of the SR names
    unmatched_sr: list[Path]
    unmatched_hr: list[Path]


def match_images(sr: Path, hr: Path, role: str = "SR") -> Matches:
    """Match two files, or the images of two folders.

    Folders: by file name, else by stem, else the longest HR stem that the SR stem starts with (BasicSR writes
    ``baby_x4.png`` for ``baby.png``).

    Args:
        sr: SR image, or a folder of them.
        hr: reference image, or a folder of them.
        role: of the first argument, for messages.

    Raises:
        InputError: a path is missing, a file against a folder, or no pair at all.
    """
    from sr_perceptual_loss.checks import as_path

    sr, hr = as_path(sr), as_path(hr)
    for name, path in ((role, sr), ("HR", hr)):
        if not path.exists():
            raise InputError(f"{name}: no such file or folder: {path}")
    if sr.is_dir() != hr.is_dir():
        file, folder = (hr, sr) if sr.is_dir() else (sr, hr)
        raise InputError(f"got a file ({file}) and a folder ({folder}), expected two files or two folders.")
    if not sr.is_dir():
        return Matches([(sr, hr)], [], [])
    images, references = _images(sr, role), _images(hr, "HR")
    partners = {image: _reference(image, references) for image in images}
    pairs = [(image, reference) for image, reference in partners.items() if reference]
    if not pairs:
        raise InputError(
            f"no image of {sr} ({_names(images)}) belongs to one of {hr} ({_names(references)}); expected equal file "
            f"names, equal stems, or {role} names that start with the HR name, such as baby_x4.png for baby.png."
        )
    unmatched_sr = [image for image, reference in partners.items() if not reference]
    unmatched_hr = [reference for reference in references if reference not in partners.values()]
    for name, rest in ((role, unmatched_sr), ("HR", unmatched_hr)):
        if rest:
            log(f"{len(rest)} {name} image(s) without a partner: {', '.join(path.name for path in rest)}")
    return Matches(pairs, unmatched_sr, unmatched_hr)


def _reference(sr: Path, references: list[Path]) -> Path | None:
    matches = [path for path in references if path.name == sr.name] or [p for p in references if p.stem == sr.stem]
    if not matches:
        prefixes = [p for p in references if sr.stem.startswith(p.stem) and _ENDING.fullmatch(sr.stem[len(p.stem) :])]
        longest = max((len(path.stem) for path in prefixes), default=0)
        matches = [path for path in prefixes if len(path.stem) == longest]
    if len(matches) > 1:
        raise InputError(f"{sr.name} may belong to {_names(matches)}; leave only one of them in the folder.")
    return matches[0] if matches else None


def _images(folder: Path, role: str) -> list[Path]:
    from sr_perceptual_loss.lab.data.images import SUFFIXES

    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    others = [path for path in files if path.suffix.lower() not in SUFFIXES]
    if others:
        log(f"{role}: ignored {len(others)} file(s) that are not PNG, JPEG, WebP or BMP: {_names(others)}")
    return [path for path in files if path not in others]


def _names(paths: list[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:5]) or "no images"
    return shown + (f", ... {len(paths)} in all" if len(paths) > 5 else "")
