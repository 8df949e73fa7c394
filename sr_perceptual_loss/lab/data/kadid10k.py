"""KADID-10k: 81 photographs, 25 distortions at 5 levels, 10,125 opinion scores.

Source: Lin, Hosu, Saupe, "KADID-10k: A large-scale artificially distorted IQA database", QoMEX 2019.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from sr_perceptual_loss.lab.data.cards import DatasetCard
from sr_perceptual_loss.lab.data.iqa_list import is_iqa_list, read_iqa_list
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import Collection
from sr_perceptual_loss.lab.data.rows import Row, read_csv

__all__ = ["CARD", "DISTORTIONS", "read"]

CARD = DatasetCard(
    name="kadid10k",
    citation="Lin, Hosu, Saupe: KADID-10k: A large-scale artificially distorted IQA database. QoMEX 2019",
    scale_found="1 to 5; the column is called dmos, and higher is better all the same",
    scale_returned="1 to 5, as found",
    score_range=(1.0, 5.0),
    licence="not stated with the labels; photographs under the Pixabay licence",
    where="http://database.mmsp-kn.de/kadid-10k-database.html",
    layout="images/ and dmos.csv (header dist_img,ref_img,dmos,var)",
)

#: Types of distortion by the number in the file name, from 1.
DISTORTIONS = (
    "gaussian blur", "lens blur", "motion blur", "colour diffusion", "colour shift", "colour quantisation",
    "saturation hsv", "saturation lab", "jpeg2000", "jpeg", "white noise", "white noise in ycbcr", "impulse noise",
    "multiplicative noise", "denoising", "brighten", "darken", "mean shift", "jitter", "non-eccentricity patch",
    "pixelate", "quantisation", "colour block", "high sharpen", "contrast change",
)  # fmt: skip

_NAME = re.compile(r"(I\d+)_(\d\d)_(\d\d)\.\w+")


def read(root: Path, labels: Path | None = None, *, check_images: bool = True) -> LabelSet:
    """Read the set; a scene is the reference in the name of the judged image.

    Args:
        root: folder with ``images/``.
        labels: ``dmos.csv`` or a list in the form of IQA-Dataset; ``root/dmos.csv`` by default.
        check_images: whether missing images are faults.

    Returns:
        Judged images with scores from 1 to 5, higher is better. No official split.

    Raises:
        InputError: one report of all faults.
    """
    found = Collection(CARD, root, check_images=check_images)
    images = found.folder("images")
    for row in _rows(labels or root / "dmos.csv", found):
        dist, ref, text = row.cells
        name = _NAME.fullmatch(dist)
        if name is None:
            found.note(row, f"got the image name '{dist}', expected one like I01_01_01.png (picture, type, level).")
            continue
        if PurePath(ref).stem != name[1]:
            found.note(row, f"{dist} belongs to {name[1]} by its name, to {ref} by its row; expected one picture.")
            continue
        kind = int(name[2])
        found.rate(
            row,
            text,
            scene=name[1],
            dist=images.find(dist, row),
            ref=images.find(ref, row),
            distortion=DISTORTIONS[kind - 1] if 1 <= kind <= len(DISTORTIONS) else f"type {kind}",
        )
    return found.finish()


def _rows(file: Path, found: Collection) -> list[Row]:
    """Rows of (judged image, reference, score)."""
    if is_iqa_list(file):
        return read_iqa_list(file, found.problems)
    header, rows = read_csv(file, found.problems)
    wanted = ("dist_img", "ref_img", "dmos")
    if header and not set(wanted) <= set(header):
        found.problems.add(file, 1, f"got the header {','.join(header)}, expected dist_img,ref_img,dmos,var.")
        return []
    places = [header.index(name) for name in wanted] if header else []
    return [Row(row.file, row.line, tuple(row.cells[i] for i in places)) for row in rows]
