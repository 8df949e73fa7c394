"""Your own data: one CSV file ``ref,dist,score[,std][,distortion][,scene]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sr_perceptual_loss.lab.data.cards import DatasetCard
from sr_perceptual_loss.lab.data.iqa_list import HEADER
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import Collection
from sr_perceptual_loss.lab.data.rows import Row, read_csv

__all__ = ["CARD", "read"]

CARD = DatasetCard(
    name="table",
    citation="none: your own data",
    scale_found="yours; higher must be better",
    scale_returned="as found; the range is that of the file",
    score_range=None,
    licence="yours",
    where="made by you; meta files of pyiqa for full-reference sets have this form too",
    layout="one .csv file with the header ref,dist,score[,std][,distortion][,scene][,official_split] and the images, "
    "whose paths are relative to the folder",
)

#: What is read -> names that a column of it may have.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "ref": ("ref", "ref_name", "ref_img", "reference"),
    "dist": ("dist", "dist_name", "dist_img", "distorted"),
    "score": ("score", "mos"),
    "distortion": ("distortion",),
    "scene": ("scene",),
    "part": ("official_split", "split"),
    "std": ("std", "mos_std"),  # allowed, not used
}
_REQUIRED = ("ref", "dist", "score")


def read(root: Path, labels: Path | None = None, *, check_images: bool = True) -> LabelSet:
    """Read a table; a scene is its reference unless a column ``scene`` says otherwise.

    Args:
        root: folder that the paths in the table are relative to.
        labels: the table; the only ``.csv`` file under the root by default.
        check_images: whether missing images are faults.

    Returns:
        Judged images; higher is better as the table must have it. The column ``official_split`` (or ``split``) becomes
        the official split. Columns that are not used are named in a note.

    Raises:
        InputError: one report of all faults.
    """
    found = Collection(CARD, root, check_images=check_images)
    file = labels or _only_table(root, found)
    header, rows = read_csv(file, found.problems) if file is not None else ((), [])
    places = _places(file, header, found) if file is not None and header else {}
    parts: dict[str, list[Path]] = {}
    for row in rows if places else []:
        cells = {name: row.cells[place] for name, place in places.items()}
        blank = [name for name in (*_REQUIRED, "scene", "part") if cells.get(name) in ("", ".", "/")]
        if blank:
            found.note(row, f"blank: {', '.join(blank)}; expected a value.")
            continue
        image = found.rate(
            row,
            cells["score"],
            scene=cells.get("scene", PurePosixPath(cells["ref"].replace("\\", "/")).with_suffix("").as_posix()),
            dist=_image(found, cells["dist"], row),
            ref=_image(found, cells["ref"], row),
            distortion=cells.get("distortion", ""),
        )
        if image and "part" in cells:
            parts.setdefault(cells["part"], []).append(image.dist)
    return found.finish(official_split=parts, notes=_notes(header))


def _only_table(root: Path, found: Collection) -> Path | None:
    tables = sorted(root.glob("*.csv"))
    if len(tables) == 1:
        return tables[0]
    names = ", ".join(path.name for path in tables) or "none"
    found.problems.add(root, None, f"expected one .csv file, got {len(tables)}: {names}; give the table with labels=.")
    return None


def _places(file: Path, header: tuple[str, ...], found: Collection) -> dict[str, int]:
    """What is read -> number of its column; empty after a fault was noted."""
    if header == HEADER:
        found.problems.add(
            file,
            1,
            "this is a list of IQA-Dataset, whose scores have the direction of their set (CSIQ: higher is worse). Give "
            "it to the reader of the set, or name the columns ref,dist,score with higher = better.",
        )
        return {}
    places, faults = {}, []
    for what, names in _COLUMNS.items():
        at = [i for i, column in enumerate(header) if column in names]
        if len(at) > 1:
            faults.append(f"{len(at)} columns for {what}: {', '.join(header[i] for i in at)}; leave one")
        elif at:
            places[what] = at[0]
        elif what in _REQUIRED:
            faults.append(f"no column {' or '.join(names)}")
    if "score" not in places and "dmos" in header:
        faults.append("dmos may have either direction: call the column score once higher is better")
    if faults:
        found.problems.add(file, 1, f"got the header {','.join(header)}: {'; '.join(faults)}.")
        return {}
    return places


def _image(found: Collection, text: str, row: Row) -> Path:
    """The image of a path relative to the root; Windows' slashes are fine."""
    path = PurePosixPath(text.replace("\\", "/"))
    return found.folder(path.parent.as_posix()).find(path.name, row)


def _notes(header: tuple[str, ...]) -> tuple[str, ...]:
    known = {name for names in _COLUMNS.values() for name in names}
    unused = [column or "(no name)" for column in header if column not in known]
    direction = "Scores are taken as higher = better; negate the DMOS of a set where higher is worse."
    return (direction, f"Columns not used: {', '.join(unused)}.") if unused else (direction,)
