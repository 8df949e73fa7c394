"""Which SR image belongs to which HR image, by file names only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sr_perceptual_loss.cli.terminal import log
from sr_perceptual_loss.errors import InputError

__all__ = ["Matches", "match_images"]

#: What may follow the name of the content in an SR name: x4, _x4, _SRNet, x4_SRNet, -5000. It cannot begin with another
#: letter or a digit, so that img_10 is never matched with img_1.
_ENDING = re.compile(r"(x\d+)?([^0-9A-Za-z].*)?")
#: What test sets write around the name of the content: baby_HR, baby_GT, babyx4, img_001_SRF_4_HR, SR_baby.
_ROLE = r"(?:HR|GT|LR|LQ|SR)"
_ROLE_AFTER = re.compile(rf"(?:[_\-. ](?:{_ROLE}|SRF_\d+)|[_\-. ]?x\d+)$", re.IGNORECASE)
_ROLE_BEFORE = re.compile(rf"^{_ROLE}[_\-. ]", re.IGNORECASE)


class Matches(NamedTuple):
    """Files that belong together, and those without a partner."""

    pairs: list[tuple[Path, Path]]  # (sr, hr), in the order of the SR names
    unmatched_sr: list[Path]
    unmatched_hr: list[Path]


def match_images(sr: Path, hr: Path, role: str = "SR") -> Matches:
    """Match two files, or the images of two folders; which files count is said in lab/data/folders.py.

    Folders: by file name, else by stem, else without regard to case, else by the longest name of a content that both
    stems have: BasicSR writes ``baby_x4.png`` for ``baby.png``, and test sets ``img_001_SRF_4_LR.png`` and
    ``img_001_SRF_4_HR.png``.

    Args:
        sr: SR image, or a folder of them.
        hr: reference image, or a folder of them.
        role: of the first argument, for messages.

    Raises:
        InputError: a path is missing, a file against a folder, no pair at all, or an image with several partners.
    """
    sr, hr = _existing(sr, role), _existing(hr, "HR")
    if sr.is_dir() != hr.is_dir():
        file, folder = (hr, sr) if sr.is_dir() else (sr, hr)
        raise InputError(f"got a file ({file}) and a folder ({folder}), expected two files or two folders.")
    if not sr.is_dir():
        return Matches([(sr, hr)], [], [])
    images, references = _images(sr, role), _images(hr, "HR")
    pairs = _pairs(images, references, role)
    if not pairs:
        raise InputError(
            f"no image of {sr} ({_names(images)}) belongs to one of {hr} ({_names(references)}); expected equal file "
            f"names, equal stems, or {role} names that start with the HR name, such as baby_x4.png for baby.png."
        )
    matched = {path for pair in pairs for path in pair}
    unmatched_sr = [image for image in images if image not in matched]
    unmatched_hr = [reference for reference in references if reference not in matched]
    for name, rest in ((role, unmatched_sr), ("HR", unmatched_hr)):
        if rest:
            log(f"{len(rest)} {name} image(s) without a partner: {', '.join(path.name for path in rest)}")
    return Matches(pairs, unmatched_sr, unmatched_hr)


def _existing(path: Path, role: str) -> Path:
    from sr_perceptual_loss.checks import as_path
    from sr_perceptual_loss.lab.data.folders import on_disk

    path = on_disk(as_path(path))
    try:
        exists = path.exists()
    except OSError:  # a name that no file can have, or a folder that may not be searched
        exists = False
    if not exists:
        raise InputError(f"{role}: no such file or folder: {path}")
    return path


def _pairs(images: Sequence[Path], references: Sequence[Path], role: str) -> list[tuple[Path, Path]]:
    """(sr, hr) of all images with a partner; several partners are an error."""
    tables: list[dict[str, list[Path]]] = [defaultdict(list) for _ in range(5)]
    for reference in references:
        for table, form in zip(tables, _forms(reference), strict=False):
            table[form].append(reference)
        for content in set(_contents(_forms(reference)[-1])):
            tables[-1][content].append(reference)
    versions: dict[Path, list[Path]] = defaultdict(list)
    for image in images:
        forms = _forms(image)
        found = next((table[form] for table, form in zip(tables, forms, strict=False) if form in table), None)
        matches = found or _with_ending(forms[-1], tables[-1])
        if len(matches) > 1:
            raise InputError(f"{image.name} may belong to {_names(matches)}; leave only one of them in the folder.")
        for reference in matches:
            versions[reference].append(image)
    for reference, of_one in versions.items():
        if len(of_one) > 1:
            raise InputError(
                f"{len(of_one)} {role} images belong to {reference.name} by their names: {_names(of_one)}; put each "
                "version into a folder of its own, so that a mean counts every reference once."
            )
    return sorted((image, reference) for reference, (image,) in versions.items())


def _forms(path: Path) -> tuple[str, str, str, str]:
    """What is compared, one after the other."""
    from sr_perceptual_loss.lab.data.folders import composed

    stem = composed(path.stem)
    return path.name, composed(path.name), stem, stem.casefold()


def _with_ending(stem: str, contents: dict[str, list[Path]]) -> list[Path]:
    """The references of the longest content that the stem starts with."""
    for end in range(len(stem), 0, -1):
        for start in (stem, _ROLE_BEFORE.sub("", stem)):
            if start[:end] in contents and _ENDING.fullmatch(start[end:]):
                return contents[start[:end]]
    return []


def _contents(stem: str) -> Iterator[str]:
    """The stem, and what is left of it without the words that test sets add, one after the other."""
    for name in (stem, _ROLE_BEFORE.sub("", stem)):
        while name:
            yield name
            shorter = _ROLE_AFTER.sub("", name)
            name = "" if shorter == name else shorter


def _images(folder: Path, role: str) -> list[Path]:
    from sr_perceptual_loss.lab.data.folders import list_folder
    from sr_perceptual_loss.lab.data.images import SUFFIXES

    files, others, folders = list_folder(folder, SUFFIXES)
    if others:
        log(f"{role}: ignored {len(others)} file(s) that are not PNG, JPEG, WebP, BMP or TIFF: {_names(others)}")
    if folders:
        log(f"{role}: ignored {len(folders)} sub-folder(s), give each one by itself: {_names(folders)}")
    return files


def _names(paths: list[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:5]) or "no images"
    return shown + (f", ... {len(paths)} in all" if len(paths) > 5 else "")
