"""PIPAL: 200 training pictures with 116 versions each, among them outputs of SR networks; Elo scores.

Source: Gu et al., "PIPAL: a Large-Scale Image Quality Assessment Dataset for Perceptual Image Restoration", ECCV 2020.
"""

from __future__ import annotations

import re
from pathlib import Path

from sr_perceptual_loss.lab.data.cards import DatasetCard
from sr_perceptual_loss.lab.data.iqa_list import is_iqa_list, read_iqa_list
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import Collection
from sr_perceptual_loss.lab.data.rows import Row, split_rows

__all__ = ["CARD", "read"]

CARD = DatasetCard(
    name="pipal",
    citation="Gu et al.: PIPAL: a Large-Scale Image Quality Assessment Dataset for Perceptual Image Restoration. "
    "ECCV 2020",
    scale_found="Elo, about 917 to 1836 in the training labels; higher is better",
    scale_returned="Elo, as found; the range is that of the label files",
    score_range=None,
    licence="none stated",
    where="https://github.com/HaomingCai/PIPAL-dataset",
    layout="Train_Ref/ (or Reference_train/), Distortion_1/ to Distortion_4/ and Train_Label/ (or MOS_Scores_train/)",
)

_NAME = re.compile(r"(A\d+)_(\d+)_\d+(\.\w+)")
_LABEL_FOLDERS = ("Train_Label", "MOS_Scores_train")


def read(root: Path, labels: Path | None = None, *, check_images: bool = True) -> LabelSet:
    """Read the set; a scene is the text before the first ``_`` of a name, the distortion the group after it.

    Args:
        root: folder with the references and ``Distortion_1`` to ``Distortion_4``.
        labels: a folder of label files, one file with lines ``name,score``, or a list in the form of IQA-Dataset;
            ``Train_Label`` or ``MOS_Scores_train`` under the root by default.
        check_images: whether missing images are faults. Without images the names do not tell the folder of a judged
            image, and ``Distortion_1`` is assumed.

    Returns:
        Judged images with Elo scores, higher is better; ``score_range`` is that of the labels.

    Raises:
        InputError: one report of all faults.
    """
    found = Collection(CARD, root, check_images=check_images)
    judged = found.folder(*(f"Distortion_{i}" for i in range(1, 5)), every=True)
    references = found.folder("Train_Ref", "Reference_train")
    for row in _rows(root, labels, found):
        name = _NAME.fullmatch(row.cells[0])
        if name is None:
            found.note(row, f"got the image name '{row.cells[0]}', expected one like A0001_00_00.bmp.")
            continue
        dist, ref = judged.find(row.cells[0], row), references.find(name[1] + name[3], row)
        found.rate(row, row.cells[1], scene=name[1], dist=dist, ref=ref, distortion=f"group {name[2]}", key=name[0])
    return found.finish(notes=("Elo is an open scale: the score range is that of the labels.",))


def _rows(root: Path, labels: Path | None, found: Collection) -> list[Row]:
    """Rows of (judged image, score)."""
    if labels is not None and is_iqa_list(labels):
        return [Row(r.file, r.line, (r.cells[0], r.cells[2])) for r in read_iqa_list(labels, found.problems)]
    if labels is None:
        places = [root / name for name in _LABEL_FOLDERS if (root / name).is_dir()]
        if not places:
            found.problems.add(root, None, f"no label folder {'/ or '.join(_LABEL_FOLDERS)}/; give it with labels=.")
            return []
        labels = places[0]
    files = sorted(labels.glob("*.txt")) if labels.is_dir() else [labels]
    if not files:
        found.problems.add(labels, None, "no label files (A0001.txt, ...) in the folder.")
    return [row for file in files for row in split_rows(file, found.problems, separator=",", form="name,score")]
