"""SRIQA-Bench: 100 images, each restored by 10 SR networks and rated together with the original.

Source: Chen et al., "Toward Generalized Image Quality Assessment: Relaxing the Perfect Reference Quality Assumption"
(A-FINE), CVPR 2025.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from sr_perceptual_loss.lab.data.folders import list_folder
from sr_perceptual_loss.lab.data.labels import LabelSet
from sr_perceptual_loss.lab.data.reader import DatasetCard, Reader
from sr_perceptual_loss.lab.data.rows import read_rows

__all__ = ["CARD", "read"]

CARD = DatasetCard(
    name="sriqa_bench",
    score_range=(0.0, 100.0),
    url="https://github.com/ChrisDud0257/AFINE",
    layout="images/<method>/<id>_<method>.png, images/Original/<id>_Original.png and MOS/<id>.txt (lines 'name,score')",
)

_ORIGINAL = "Original"


def read(reader: Reader, labels: Path | None) -> LabelSet:
    """Read the set; the originals are rated images too, and the reference of all versions.

    Images are found by name anywhere under ``images/``, since folder names and file endings differ (``SwinIR`` with
    files ``..._SwinIRx4.png``). ``labels`` is the folder of label files: ``root/MOS`` by default, ``root/MOS_Reg`` and
    ``root/MOS_Gen`` for the parts. Scores compare within a reference content only. The distortion is the SR method.
    """
    images = reader.folder("images", deep=True)
    folder = labels or reader.root / "MOS"
    files = list_folder(folder, (".txt",)).files if folder.is_dir() else []
    if not files:
        reader.problems.add(folder, None, "expected a folder of label files <id>.txt (MOS, MOS_Reg or MOS_Gen).")
    for file in files:
        content = file.stem
        _, rows = read_rows(file, reader.problems, ("name", "score"))
        has_header = rows and rows[0].cells[1].lower() in ("score", "mos")
        for row in rows[1:] if has_header else rows:
            name, score = row.cells
            if PurePath(name).suffix.lower() != ".png":
                name += ".png"
            method = PurePath(name).stem.removeprefix(f"{content}_")
            if f"{content}_{method}.png" != name:
                reader.problem(row, f"got the image name '{name}', expected {content}_<method>.png.")
                continue
            ref = images.find(f"{content}_{_ORIGINAL}.png", row, assumed_folder=_ORIGINAL)
            dist = images.find(name, row, assumed_folder=method)
            reader.rate(row, score, content=content, dist=dist, ref=ref, distortion=method)
    notes = (
        "Scores were scaled to 0..100 within each reference content: only numbers per content are meaningful.",
        "The originals are rated images too (distortion 'Original').",
    )
    return reader.label_set(comparable_across_contents=False, notes=notes)
