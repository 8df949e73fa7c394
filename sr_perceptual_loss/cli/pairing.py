"""Which SR image belongs to which HR image, by file names alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from sr_perceptual_loss.cli.terminal import say

__all__ = ["Pairs", "pair_up"]

# What may follow the HR name in an SR name: x4, _x4, _SRNet, x4_SRNet, -5000. Not a bare letter or digit, so that
# img_10 is never taken for img_1.
_ENDING = re.compile(r"(x\d+)?([^0-9A-Za-z].*)?")


@dataclass
class Pairs:
    """Matched files.

    Attributes:
        pairs: (sr, hr) in the order of the SR names.
        unmatched_sr: SR files without an HR file.
        unmatched_hr: HR files that no SR file claims.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    unmatched_sr: list[Path] = field(default_factory=list)
    unmatched_hr: list[Path] = field(default_factory=list)


def pair_up(sr: Path, hr: Path) -> Pairs:
    """Match two files, or the images of two folders.

    Folders: by file name, else by stem, else the longest HR stem that the SR stem starts with (BasicSR writes
    ``baby_x4.png`` for ``baby.png``).

    Args:
        sr: judged image, or a folder of them.
        hr: reference image, or a folder of them.

    Returns:
        The pairs and the files that are left over.

    Raises:
        InputError: not there, a file against a folder, or no pair at all.
    """
    from sr_perceptual_loss.checks import as_path
    from sr_perceptual_loss.errors import InputError

    sr, hr = as_path(sr), as_path(hr)
    for role, path in (("SR", sr), ("HR", hr)):
        if not path.exists():
            raise InputError(f"{role}: no such file or folder: {path}")
    if sr.is_dir() != hr.is_dir():
        file, folder = (hr, sr) if sr.is_dir() else (sr, hr)
        raise InputError(f"got a file ({file}) and a folder ({folder}), expected two files or two folders.")
    if not sr.is_dir():
        return Pairs([(sr, hr)])
    references = _images(hr, "HR")
    found = Pairs()
    for path in _images(sr, "SR"):
        match = _reference(path, references)
        if match:
            found.pairs.append((path, match))
        else:
            found.unmatched_sr.append(path)
    claimed = {reference for _, reference in found.pairs}
    found.unmatched_hr = [path for path in references if path not in claimed]
    if not found.pairs:
        raise InputError(
            f"no image of {sr} ({_names(found.unmatched_sr)}) belongs to one of {hr} ({_names(references)}); expected "
            "equal file names, equal stems, or SR names that start with the HR name, such as baby_x4.png for baby.png."
        )
    return found


def _reference(sr: Path, references: list[Path]) -> Path | None:
    from sr_perceptual_loss.errors import InputError

    same = [path for path in references if path.name == sr.name] or [p for p in references if p.stem == sr.stem]
    if not same:
        starts = [p for p in references if sr.stem.startswith(p.stem) and _ENDING.fullmatch(sr.stem[len(p.stem) :])]
        longest = max((len(path.stem) for path in starts), default=0)
        same = [path for path in starts if len(path.stem) == longest]
    if len(same) > 1:
        raise InputError(f"{sr.name} may belong to {_names(same)}; leave only one of them in the folder.")
    return same[0] if same else None


def _images(folder: Path, role: str) -> list[Path]:
    from sr_perceptual_loss.lab.data.images import SUFFIXES

    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if len(images) < len(files):
        others = [path for path in files if path not in images]
        say(f"{role}: ignored {len(others)} file(s) that are no PNG, JPEG, WebP or BMP: {_names(others)}")
    return images


def _names(paths: list[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:5]) or "no images"
    return shown + (f", ... {len(paths)} in all" if len(paths) > 5 else "")
