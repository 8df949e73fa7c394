"""ISRGen-QA: 720 images made by SR networks from 19 pictures of DIV2K, opinion scores from 1 to 5.

Source: the VQualA 2025 challenge on image super-resolution generated content quality assessment, arXiv 2509.06413.
"""

from __future__ import annotations

import re
from pathlib import Path

from sr_perceptual_loss.lab.data.cards import DatasetCard
from sr_perceptual_loss.lab.data.folders import ImageFolder
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import Collection
from sr_perceptual_loss.lab.data.rows import split_rows

__all__ = ["CARD", "read"]

CARD = DatasetCard(
    name="isrgen_qa",
    citation="VQualA 2025 Challenge on Image Super-Resolution Generated Content Quality Assessment. arXiv 2509.06413",
    scale_found="1 to 5, higher is better",
    scale_returned="1 to 5, as found",
    score_range=(1.0, 5.0),
    licence="none stated",
    where="https://github.com/Lighting-YXLI/ISRGen-QA (references: DIV2K validation pictures 0801.png to 0900.png)",
    layout="train.txt, val.txt, test.txt; the SR images in SR/ and the references in HR/ (or DIV2K_valid_HR/)",
)

#: Part -> (form of its lines, columns of SR name, score, LR name). The test file has another order.
_FORMS = {
    "train": ("SR#MOS#LR", (0, 1, 2)),
    "val": ("SR#MOS#LR", (0, 1, 2)),
    "test": ("SR#LR#MOS", (0, 2, 1)),
}
_LR = re.compile(r"(\d{4})\D.*")
_METHOD = re.compile(r"(.+?)(?:_x\d+)?_\d{3,4}(?:x\d+)?\.\w+")


def read(root: Path, labels: Path | None = None, *, check_images: bool = True) -> LabelSet:
    """Read the set; the reference comes from the LR name, since LINF's SR names number the pictures otherwise.

    Args:
        root: folder with the images. ``SR/`` and ``SR_results/`` are searched with their sub-folders.
        labels: the folder of the label files, or one of them; the root by default.
        check_images: whether missing images are faults.

    Returns:
        Judged images with scores from 1 to 5, higher is better, and the official split (see its note). The distortion
        is the SR method.

    Raises:
        InputError: one report of all faults.
    """
    found = Collection(CARD, root, check_images=check_images)
    judged = found.folder("SR", "SR_results", deep=True)
    references = found.folder("HR", "DIV2K_valid_HR")
    place = labels or root
    split: dict[str, list[Path]] = {}
    scenes: dict[str, set[str]] = {}
    for part, file in _files(place, found).items():
        before = len(found.rated)
        _read_part(part, file, found, judged, references)
        new = found.rated[before:]
        split[part] = [image.dist for image in new]
        scenes[part] = {image.scene for image in new}
    return found.finish(official_split=split, notes=_split_note(scenes))


def _files(place: Path, found: Collection) -> dict[str, Path]:
    """Part -> its label file."""
    if not place.is_file():
        return {part: place / f"{part}.txt" for part in _FORMS}
    if place.stem in _FORMS:
        return {place.stem: place}
    found.problems.add(
        place, None, "expected a file called train.txt, val.txt or test.txt: the name tells the order of columns."
    )
    return {}


def _read_part(part: str, file: Path, found: Collection, judged: ImageFolder, references: ImageFolder) -> None:
    form, (sr_at, score_at, lr_at) = _FORMS[part]
    rows = split_rows(file, found.problems, separator="#", form=form)
    swapped = [row for row in rows if not _is_number(row.cells[score_at]) and _is_number(row.cells[lr_at])]
    if swapped:
        found.note(
            swapped[0],
            f"column {lr_at + 1} holds the score in {len(swapped)} of {len(rows)} lines; {part}.txt has the columns "
            f"{form}. Files of ISRGen-QA differ in this (train and val SR#MOS#LR, test SR#LR#MOS): check that this is "
            "the published file under its own name.",
        )
        return
    for row in rows:
        sr, text, lr = row.cells[sr_at], row.cells[score_at], row.cells[lr_at]
        reference, method = _LR.fullmatch(lr), _METHOD.fullmatch(sr)
        if reference is None:
            found.note(row, f"got the LR name '{lr}', expected four digits first, as in 0813x4.png.")
            continue
        found.rate(
            row,
            text,
            scene=reference[1],
            dist=judged.find(sr, row),
            ref=references.find(f"{reference[1]}.png", row),
            distortion=method[1] if method else "",
            key=sr,
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split_note(scenes: dict[str, set[str]]) -> tuple[str, ...]:
    """A warning with the counts of the files, if parts share references."""
    everything = set().union(*scenes.values())
    if sum(len(part) for part in scenes.values()) == len(everything):
        return ()
    counts = ", ".join(f"{len(names)} in {part}" for part, names in scenes.items())
    return (
        f"The official split is not content-disjoint: of {len(everything)} references, {counts}. "
        "Split by scene (split_scenes) for figures on unseen pictures.",
    )
