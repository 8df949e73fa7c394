"""SRIQA-Bench: 100 pictures, each restored by 10 SR networks and judged together with the original.

Source: Chen et al., "Toward Generalized Image Quality Assessment: Relaxing the Perfect Reference Quality Assumption"
(A-FINE), CVPR 2025.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from sr_perceptual_loss.lab.data.cards import DatasetCard
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import Collection
from sr_perceptual_loss.lab.data.rows import Row, split_rows

__all__ = ["CARD", "read"]

CARD = DatasetCard(
    name="sriqa_bench",
    citation="Chen et al.: Toward Generalized Image Quality Assessment: Relaxing the Perfect Reference Quality "
    "Assumption. CVPR 2025",
    scale_found="0 to 100 within each scene (worst 0, best 100), higher is better",
    scale_returned="as found; scores of different scenes do not compare",
    score_range=(0.0, 100.0),
    licence="academic, non-commercial",
    where="https://github.com/ChrisDud0257/AFINE",
    layout="images/<method>/<id>_<method>.png, images/Original/<id>_Original.png and MOS/<id>.txt (lines 'name,score')",
)

_ORIGINAL = "Original"


def read(root: Path, labels: Path | None = None, *, check_images: bool = True) -> LabelSet:
    """Read the set; the originals are judged images too, and the reference of all versions.

    Images are found by name anywhere under ``images/``, since the published folders and file endings differ (``SwinIR``
    with files ``..._SwinIRx4.png``).

    Args:
        root: folder with ``images/``.
        labels: the folder of label files; ``root/MOS`` by default, ``root/MOS_Reg`` and ``root/MOS_Gen`` for the parts.
        check_images: whether missing images are faults.

    Returns:
        Judged images with scores from 0 to 100, higher is better, comparable within a scene only. The distortion is
        the SR method.

    Raises:
        InputError: one report of all faults.
    """
    found = Collection(CARD, root, check_images=check_images)
    images = found.folder("images", deep=True)
    folder = labels or root / "MOS"
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        found.problems.add(folder, None, "expected a folder of label files <id>.txt (MOS, MOS_Reg or MOS_Gen).")
    for file in files:
        for row in _rows(file, found):
            name, text = row.cells
            scene = file.stem
            if PurePath(name).suffix.lower() != ".png":
                name += ".png"
            method = PurePath(name).stem.removeprefix(f"{scene}_")
            if f"{scene}_{method}.png" != name:
                found.note(row, f"got the image name '{name}', expected {scene}_<method>.png.")
                continue
            ref = images.find(f"{scene}_{_ORIGINAL}.png", row, otherwise=_ORIGINAL)
            dist = images.find(name, row, otherwise=method)
            found.rate(row, text, scene=scene, dist=dist, ref=ref, distortion=method, key=name)
    notes = (
        "Scores were scaled to 0..100 within each scene: only figures per scene mean something.",
        "The originals are judged images too (distortion 'Original').",
    )
    return found.finish(comparable_across_scenes=False, notes=notes)


def _rows(file: Path, found: Collection) -> list[Row]:
    """Rows of (name, score); a header with these words is left out."""
    rows = split_rows(file, found.problems, separator=",", form="name,score")
    return rows[1:] if rows and rows[0].cells[1].lower() in ("score", "mos") else rows
