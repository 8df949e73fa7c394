"""ISRGen-QA: 720 images made by SR networks from 19 images of DIV2K, opinion scores from 1 to 5.

Source: the VQualA 2025 challenge on image super-resolution generated content quality assessment, arXiv 2509.06413.
"""

from __future__ import annotations

import re
from pathlib import Path

from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import DatasetCard, Reader
from sr_perceptual_loss.lab.data.rows import read_rows

__all__ = ["CARD", "read"]

CARD = DatasetCard(
    name="isrgen_qa",
    score_range=(1.0, 5.0),
    url="https://github.com/Lighting-YXLI/ISRGen-QA (references: DIV2K validation images 0801.png to 0900.png)",
    layout="train.txt, val.txt, test.txt; the SR images in SR/ and the references in HR/ (or DIV2K_valid_HR/)",
)

#: Part -> columns of its file. The test file has another order.
_COLUMNS = {"train": ("SR", "MOS", "LR"), "val": ("SR", "MOS", "LR"), "test": ("SR", "LR", "MOS")}
_LR = re.compile(r"(\d{4})\D.*")
_METHOD = re.compile(r"(.+?)(?:_x\d+)?_\d{3,4}(?:x\d+)?\.\w+")


def read(reader: Reader, labels: Path | None) -> LabelSet:
    """Read the set; the reference comes from the LR name, since the SR names of LINF number the images differently.

    ``labels`` is the folder of the label files, or one of them; the root by default. The distortion is the SR method. A
    note tells where the parts of the official split share references.
    """
    place = labels or reader.root
    files = {part: place / f"{part}.txt" for part in _COLUMNS}
    if place.is_file():
        files = {part: place for part in _COLUMNS if place.stem == part}
        if not files:
            reader.problems.add(place, None, "expected train.txt, val.txt or test.txt: the name tells the columns.")
    split: dict[str, list[Path]] = {}
    contents: dict[str, set[str]] = {}
    for part, file in files.items():
        before = len(reader.rated)
        _read_part(part, file, reader)
        added = reader.rated[before:]
        split[part] = [image.dist for image in added]
        contents[part] = {image.content for image in added}
    return reader.label_set(official_split=split, notes=_split_note(contents))


def _read_part(part: str, file: Path, reader: Reader) -> None:
    columns = _COLUMNS[part]
    sr_images = reader.folder("SR", "SR_results", deep=True)
    references = reader.folder("HR", "DIV2K_valid_HR")
    _, rows = read_rows(file, reader.problems, columns, "#")
    sr_at, lr_at, score_at = (columns.index(name) for name in ("SR", "LR", "MOS"))
    for row in rows:
        sr, lr = row.cells[sr_at], row.cells[lr_at]
        reference, method = _LR.fullmatch(lr), _METHOD.fullmatch(sr)
        if reference is None:
            order = "#".join(columns)
            reader.problem(row, f"got the LR name '{lr}', expected one like 0813x4.png ({part}.txt has {order}).")
            continue
        reader.rate(
            row,
            row.cells[score_at],
            content=reference[1],
            dist=sr_images.find(sr, row),
            ref=references.find(f"{reference[1]}.png", row),
            distortion=method[1] if method else "",
        )


def _split_note(contents: dict[str, set[str]]) -> tuple[str, ...]:
    """A warning with the number of references of each part, if parts share references."""
    everything = set().union(*contents.values())
    if sum(len(part) for part in contents.values()) == len(everything):
        return ()
    counts = ", ".join(f"{len(names)} in {part}" for part, names in contents.items())
    return (
        f"The parts of the official split share references: of {len(everything)} references, {counts}. "
        "Split by reference content (split_contents) for numbers on unseen images.",
    )
