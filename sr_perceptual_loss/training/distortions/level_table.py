"""Mean score of each KADID-10k type and level, out of a published label list."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

from sr_perceptual_loss._checks import InputError
from sr_perceptual_loss.data import kadid10k

__all__ = ["LevelMean", "level_means"]

# The reader has checked the names before.
_TYPE_AND_LEVEL = re.compile(r"_(\d\d)_(\d\d)\.")


@dataclass(frozen=True)
class LevelMean:
    """Score of one type at one level.

    Attributes:
        mean: over the pictures, in KADID-10k's units: 1..5, higher is better.
        std: population standard deviation over the pictures.
        n: number of pictures.
    """

    mean: float
    std: float
    n: int


def level_means(label_list: Path, *, leave_out: Collection[str] = ()) -> dict[tuple[int, int], LevelMean]:
    """Average a KADID-10k label list by (type, level).

    Args:
        label_list: KADID-10k's own ``dmos.csv``, or the list of its scores in the form of IQA-Dataset. Type and level
            are read from the file name, never from a column. No images are needed.
        leave_out: scenes such as "I01" that do not count, for instance because they are used for evaluation.

    Returns:
        (type, level) -> mean, standard deviation and number of pictures.

    Raises:
        InputError: no such list, a scene to leave out that is not in it, or nothing left.
    """
    labels = kadid10k.read(label_list.parent, label_list, check_images=False)
    unknown = sorted(set(leave_out) - set(labels.scenes))
    if unknown:
        raise InputError(
            f"leave_out: got {', '.join(unknown)}, expected scenes of the list: {', '.join(labels.scenes)}."
        )
    scores: dict[tuple[int, int], list[float]] = {}
    for image in labels.rated:
        found = _TYPE_AND_LEVEL.search(image.dist.name)
        if found and image.scene not in leave_out:
            scores.setdefault((int(found[1]), int(found[2])), []).append(image.score)
    if not scores:
        raise InputError(f"{label_list}: no scores are left without {', '.join(leave_out)}; leave fewer scenes out.")
    return {key: LevelMean(fmean(s), pstdev(s), len(s)) for key, s in sorted(scores.items())}
