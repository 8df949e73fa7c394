"""Which SR image belongs to which HR image, by file names only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sr_perceptual_loss.cli.terminal import log
from sr_perceptual_loss.errors import InputError

__all__ = ["Matches", "by_reference", "match_images"]

Pair = tuple[Path, Path]  # (sr, hr)

#: What may follow the name of the content in an SR name: x4, _x4, _SRNet, x4_SRNet, -5000. It cannot begin with another
#: letter or a digit, so that img_10 is never matched with img_1.
_ENDING = re.compile(r"(x\d+)?([^0-9A-Za-z].*)?")
#: What test sets write around the name of the content: baby_HR, baby_GT, babyx4, img_001_SRF_4_HR, SR_baby.
_ROLE = r"(?:HR|GT|LR|LQ|SR)"
_ROLE_AFTER = re.compile(rf"(?:[_\-. ](?:{_ROLE}|SRF_\d+)|[_\-. ]?x\d+)$", re.IGNORECASE)
#: What a reference is not called: test sets keep img_001_SRF_4_LR beside img_001_SRF_4_HR.
_INPUT = re.compile(r"[_\-. ](?:LR|LQ|SR)$", re.IGNORECASE)
_ROLE_BEFORE = re.compile(rf"^{_ROLE}[_\-. ]", re.IGNORECASE)


class Matches(NamedTuple):
    """Files that belong together, and those without a partner."""

    pairs: list[Pair]  # in the order of the SR names
    unmatched_sr: list[Path]
    unmatched_hr: list[Path]


def match_images(sr: Path, hr: Path, role: str = "SR") -> Matches:
    """Match two files, or the images of two folders; which files count is said in lab/data/folders.py.

    Folders: by file name, else by stem, else by the longest name of a content that both stems have, at last without
    regard to case: BasicSR writes ``baby_x4.png`` for ``baby.png``, and test sets ``img_001_SRF_4_LR.png`` and
    ``img_001_SRF_4_HR.png``. Several SR images may belong to one reference, such as those of several methods.

    Args:
        sr: SR image, or a folder of them.
        hr: reference image, or a folder of them.
        role: of the first argument, for messages.

    Raises:
        InputError: a path is missing, a file against a folder, a folder against itself, no pair at all, or an image
            that fits two references.
    """
    sr, hr = _existing(sr, role), _existing(hr, "HR")
    if sr.is_dir() != hr.is_dir():
        file, folder = (hr, sr) if sr.is_dir() else (sr, hr)
        raise InputError(f"got a file ({file}) and a folder ({folder}), expected two files or two folders.")
    if not sr.is_dir():
        return Matches([(sr, hr)], [], [])
    if sr.samefile(hr):
        raise InputError(f"{role} and HR are the same folder ({sr}); every image would be compared with itself.")
    images, references = _images(sr, role), _images(hr, "HR")
    pairs = _pairs(images, references)
    if not pairs:
        raise InputError(
            f"no image of {sr} ({_names(images)}) belongs to one of {hr} ({_names(references)}); expected equal file "
            f"names, equal stems, or {role} names that start with the HR name, such as baby_x4.png for baby.png."
        )
    matched = {path for pair in pairs for path in pair}
    unmatched_sr, unmatched_hr = ([path for path in paths if path not in matched] for paths in (images, references))
    for name, rest in ((role, unmatched_sr), ("HR", unmatched_hr)):
        if rest:
            log(f"{len(rest)} {name} image(s) without a partner: {', '.join(path.name for path in rest)}")
    several = [reference for reference, versions in by_reference(pairs).items() if len(versions) > 1]
    if several:
        log(f"{len(several)} reference(s) with several {role} images, each is used: {_names(several)}")
    return Matches(pairs, unmatched_sr, unmatched_hr)


def by_reference(pairs: Sequence[Pair]) -> dict[Path, list[Path]]:
    """Reference -> its images."""
    versions: dict[Path, list[Path]] = defaultdict(list)
    for image, reference in pairs:
        versions[reference].append(image)
    return versions


def _existing(path: Path, role: str) -> Path:
    from sr_perceptual_loss.checks import as_path, on_disk

    path = on_disk(as_path(path))
    try:
        exists = path.exists()
    except OSError:  # a name that no file can have, or a folder that may not be searched
        exists = False
    if not exists:
        raise InputError(f"{role}: no such file or folder: {path}")
    return path


def _pairs(images: Sequence[Path], references: Sequence[Path]) -> list[Pair]:
    table: dict[tuple[int, str], list[Path]] = defaultdict(list)
    for reference in references:
        for key in set(_keys(reference, _contents)):
            table[key].append(reference)
    pairs = []
    for image in images:
        matches = next((table[key] for key in _keys(image, _starts) if key in table), [])
        if len(matches) > 1:
            matches = [path for path in matches if not _INPUT.search(path.stem)] or matches
        if len(matches) > 1:
            raise InputError(f"{image.name} may belong to {_names(matches)}; leave only one of them in the folder.")
        pairs += [(image, reference) for reference in matches]
    return pairs


def _keys(path: Path, parts: Callable[[str], Iterator[str]]) -> Iterator[tuple[int, str]]:
    """What is compared, one after the other; accents as they are composed, at last without regard to case."""
    from sr_perceptual_loss.checks import composed

    stem = composed(path.stem)
    yield from ((0, path.name), (1, composed(path.name)), (2, stem))
    yield from ((3, part) for part in parts(stem))
    yield from ((4, part) for part in parts(stem.casefold()))


def _starts(stem: str) -> Iterator[str]:
    """What the name of the content may be in an SR name, the longest first."""
    for end in range(len(stem), 0, -1):
        for name in (stem, _ROLE_BEFORE.sub("", stem)):
            if _ENDING.fullmatch(name[end:]):
                yield name[:end]


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
        log(f"{role}: ignored {len(folders)} sub-folder(s), give each one separately: {_names(folders)}")
    return files


def _names(paths: list[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:5]) or "no images"
    return shown + (f", ... {len(paths)} in all" if len(paths) > 5 else "")
