"""QADS: 20 pictures with 49 super-resolved versions each, 980 opinion scores.

Source: Zhou, Wang, Chen, "Visual Quality Assessment for Super-Resolved Images: Database and Method", IEEE TIP 28, 2019.
"""

from __future__ import annotations

import re
from pathlib import Path

from sr_perceptual_loss.lab.data.cards import DatasetCard
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import Collection
from sr_perceptual_loss.lab.data.rows import split_rows

__all__ = ["CARD", "read"]

CARD = DatasetCard(
    name="qads",
    citation="Zhou, Wang, Chen: Visual Quality Assessment for Super-Resolved Images: Database and Method. IEEE TIP 28, "
    "2019",
    scale_found="about 0 to 1, higher is better (as third-party readers take it; the ends are not documented)",
    scale_returned="as found; the range is that of the label file",
    score_range=None,
    licence="not verified",
    where="http://www.vista.ac.cn/super-resolution/",
    layout="source_images/, super-resolved_images/ and mos_with_names.txt (lines 'MOS name')",
)

_NAME = re.compile(r"(img\d\d)_(.+)\.\w+")
_VERSION = re.compile(r"(\d+)_(\d+)")


def read(root: Path, labels: Path | None = None, *, check_images: bool = True) -> LabelSet:
    """Read the set; a scene is the first five characters of a name, and the reference is called like it.

    Args:
        root: folder with ``source_images/`` and ``super-resolved_images/`` (flat, or with sub-folders ``imgNN/``).
        labels: the label file; ``root/mos_with_names.txt`` by default.
        check_images: whether missing images are faults.

    Returns:
        Judged images, higher is better. The distortion is the number of the SR method at the end of a name such as
        ``img01_2_1.bmp`` (picture, scale, method); empty where a name has another form.

    Raises:
        InputError: one report of all faults.
    """
    found = Collection(CARD, root, check_images=check_images)
    judged, references = found.folder("super-resolved_images", deep=True), found.folder("source_images")
    file = labels or root / "mos_with_names.txt"
    for row in split_rows(file, found.problems, separator=None, form="MOS name"):
        text, dist = row.cells
        name = _NAME.fullmatch(dist)
        if name is None:
            found.note(row, f"got the image name '{dist}', expected one that starts with img01_ to img20_.")
            continue
        version = _VERSION.fullmatch(name[2])
        found.rate(
            row,
            text,
            scene=name[1],
            dist=judged.find(dist, row),
            ref=references.find(f"{name[1]}.bmp", row),
            distortion=f"method {int(version[2])}" if version else "",
            key=dist,
        )
    return found.finish(notes=("The ends of the scale are not documented: the score range is that of the labels.",))
