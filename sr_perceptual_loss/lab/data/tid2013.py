"""TID2013: 25 pictures, 24 distortions at 5 levels, 3,000 opinion scores.

Source: Ponomarenko et al., "Image database TID2013: Peculiarities, results and perspectives", Signal Processing: Image
Communication 30, 2015.
"""

from __future__ import annotations

import re
from pathlib import Path

from sr_perceptual_loss.lab.data.cards import DatasetCard
from sr_perceptual_loss.lab.data.iqa_list import is_iqa_list, read_iqa_list
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import Collection
from sr_perceptual_loss.lab.data.rows import Row, split_rows

__all__ = ["CARD", "DISTORTIONS", "read"]

CARD = DatasetCard(
    name="tid2013",
    citation="Ponomarenko et al.: Image database TID2013: Peculiarities, results and perspectives. Signal Processing: "
    "Image Communication 30, 2015",
    scale_found="0 to 9, higher is better",
    scale_returned="0 to 9, as found",
    score_range=(0.0, 9.0),
    licence="not verified",
    where="https://www.ponomarenko.info/tid2013.htm",
    layout="reference_images/, distorted_images/ and mos_with_names.txt (lines 'MOS name')",
)

#: Types of distortion by the number in the file name, from 1.
DISTORTIONS = (
    "gaussian noise", "colour noise", "spatially correlated noise", "masked noise", "high frequency noise",
    "impulse noise", "quantisation noise", "gaussian blur", "denoising", "jpeg", "jpeg2000",
    "jpeg transmission errors", "jpeg2000 transmission errors", "non-eccentricity pattern noise",
    "local block-wise distortion", "mean shift", "contrast change", "colour saturation",
    "multiplicative gaussian noise", "comfort noise", "lossy compression of noisy images",
    "colour quantisation with dither", "chromatic aberrations", "sparse sampling and reconstruction",
)  # fmt: skip

_NAME = re.compile(r"(i\d\d)_(\d\d)_\d\.\w+", re.IGNORECASE)


def read(root: Path, labels: Path | None = None, *, check_images: bool = True) -> LabelSet:
    """Read the set; names are compared without regard to case (``I01.BMP``, ``i25.bmp``).

    Args:
        root: folder with ``reference_images/`` and ``distorted_images/``.
        labels: ``mos_with_names.txt`` or a list in the form of IQA-Dataset; ``root/mos_with_names.txt`` by default.
        check_images: whether missing images are faults.

    Returns:
        Judged images with scores from 0 to 9, higher is better. Scenes are lower case, ``i01`` to ``i25``.

    Raises:
        InputError: one report of all faults.
    """
    found = Collection(CARD, root, check_images=check_images)
    judged, references = found.folder("distorted_images"), found.folder("reference_images")
    for row in _rows(labels or root / "mos_with_names.txt", found):
        text, dist = row.cells
        name = _NAME.fullmatch(dist)
        if name is None:
            found.note(row, f"got the image name '{dist}', expected one like i01_01_1.bmp (picture, type, level).")
            continue
        scene, kind = name[1].lower(), int(name[2])
        found.rate(
            row,
            text,
            scene=scene,
            dist=judged.find(dist, row),
            ref=references.find(f"{scene}.bmp", row),
            distortion=DISTORTIONS[kind - 1] if 1 <= kind <= len(DISTORTIONS) else f"type {kind}",
            key=dist.lower(),
        )
    return found.finish()


def _rows(file: Path, found: Collection) -> list[Row]:
    """Rows of (score, judged image)."""
    if is_iqa_list(file):
        return [Row(r.file, r.line, (r.cells[2], r.cells[0])) for r in read_iqa_list(file, found.problems)]
    return split_rows(file, found.problems, separator=None, form="MOS name")
