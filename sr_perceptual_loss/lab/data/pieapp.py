"""PieAPP: 200 pictures, 81,480 compared pairs with the share of people who prefer one; scores for the test images.

Source: Prashnani et al., "PieAPP: Perceptual Image-Error Assessment through Pairwise Preference", CVPR 2018, and the
description of the data set in github.com/prashnani/PerceptualImageError.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from sr_perceptual_loss.lab.data.cards import DatasetCard
from sr_perceptual_loss.lab.data.labels import LabelSet, Vote
from sr_perceptual_loss.lab.data.reader import Collection
from sr_perceptual_loss.lab.data.rows import Row, read_csv, read_lines

__all__ = ["CARD", "PARTS", "read"]

CARD = DatasetCard(
    name="pieapp",
    citation="Prashnani et al.: PieAPP: Perceptual Image-Error Assessment through Pairwise Preference. CVPR 2018",
    scale_found="pairs: share p_A of people who prefer A, 0 to 1; test images: 0 for the reference, higher is worse",
    scale_returned="votes as found (training uses the label 2 p_A - 1); test scores negated, so that higher is better",
    score_range=None,
    licence="non-commercial, educational",
    where="https://github.com/prashnani/PerceptualImageError",
    layout="reference_images/<part>/, distorted_images/<part>/ref_N/, labels/<part>/ and <part>_reference_list.txt, "
    "for the parts train, val and test",
)

#: Parts of the official split; no two share a reference.
PARTS = ("train", "val", "test")

_DISTORTION = re.compile(r"distort_\d+_(.+)_(?:inter|intra)_.*")


def read(root: Path, labels: Path | None = None, *, check_images: bool = True) -> LabelSet:
    """Read the set: votes of all parts, scores of the test images.

    Columns are taken by position, since header names differ between files. A vote's probability is the processed one
    (column 5) where there is one, else the raw one (column 4); a note says how many are of which kind.

    Args:
        root: folder with the images.
        labels: the folder with ``train/``, ``val/`` and ``test/``; reference lists lie beside it. ``root/labels`` by
            default. A part without list and folder is left out, with a note.
        check_images: whether missing images are faults.

    Returns:
        Votes, test images with negated scores (higher is better, the reference would be 0) and the official split.
        The distortion is the type in the file name.

    Raises:
        InputError: one report of all faults.
    """
    found = Collection(CARD, root, check_images=check_images)
    folder = labels or root / "labels"
    scenes: dict[str, str] = {}
    split: dict[str, set[Path]] = {}
    sources: Counter[str] = Counter()
    absent = []
    for part in PARTS:
        references = folder.parent / f"{part}_reference_list.txt"
        if not references.exists() and not (folder / part).exists():
            absent.append(part)
            continue
        first_vote, first_rated = len(found.votes), len(found.rated)
        for line, name in read_lines(references, found.problems):
            row = Row(references, line, (name,))
            scene = Path(name).stem
            if scene in scenes:
                found.note(row, f"{name} is in {part} and in {scenes[scene]}; expected each reference once.")
                continue
            scenes[scene] = part
            _read_votes(found, folder, row, part, sources)
            if part == "test":
                _read_scores(found, folder, row)
        members = {path for vote in found.votes[first_vote:] for path in (vote.a, vote.b)}
        split[part] = members | {image.dist for image in found.rated[first_rated:]}
    if len(absent) == len(PARTS):
        found.problems.add(folder, None, f"no part of the set here; expected {CARD.layout}.")
    return found.finish(official_split=split, notes=_notes(sources, absent))


def _read_votes(found: Collection, folder: Path, reference: Row, part: str, sources: Counter[str]) -> None:
    name = reference.cells[0]
    file = folder / part / f"{Path(name).stem}_pairwise_labels.csv"
    for row in _rows(file, found, widths=(4,) if part == "test" else (4, 5), first_number=3):
        if row.cells[0] != name:
            found.note(row, f"got the reference '{row.cells[0]}', expected {name} as in the name of the file.")
            continue
        raw, processed = row.cells[3], (*row.cells, "")[4]
        if not raw and not processed:
            found.note(row, "both probabilities are blank; expected at least one.")
            continue
        if row.cells[1] == row.cells[2]:
            found.note(row, f"{row.cells[1]} is compared with itself; expected two images.")
            continue
        a, b, ref = (_image(found, part, name, image, row) for image in (row.cells[1], row.cells[2], name))
        probability = found.number(row, processed or raw, (0.0, 1.0), "probability of A")
        if probability is not None:
            sources["processed" if processed else "raw"] += 1
            # The check allows for rounding; a vote's probability is in [0, 1] exactly.
            found.votes.append(Vote(Path(name).stem, a, b, ref, min(max(probability, 0.0), 1.0)))


def _read_scores(found: Collection, folder: Path, reference: Row) -> None:
    name = reference.cells[0]
    file = folder / "test" / f"{Path(name).stem}_per_image_score.csv"
    for row in _rows(file, found, widths=(3,), first_number=2):
        if row.cells[1] == name:
            continue  # the reference's own 0 is the zero of the scale, not an opinion
        kind = _DISTORTION.fullmatch(row.cells[1])
        found.rate(
            row,
            row.cells[2],
            scene=Path(name).stem,
            dist=_image(found, "test", name, row.cells[1], row),
            ref=_image(found, "test", name, name, row),
            distortion=kind[1] if kind else "",
            negate=True,
        )


def _rows(file: Path, found: Collection, *, widths: tuple[int, ...], first_number: int) -> list[Row]:
    """Rows of a CSV with a header line of an allowed width."""
    header, rows = read_csv(file, found.problems)
    if not header:
        return []
    expected = " or ".join(str(width) for width in widths)
    if len(header) not in widths:
        found.problems.add(file, 1, f"got {len(header)} columns ({','.join(header)}), expected {expected}.")
        return []
    if any(cell.replace(".", "", 1).isdigit() for cell in header[first_number:]):
        found.problems.add(file, 1, f"the first line holds a number ({','.join(header)}), expected a header.")
        return []
    return rows


def _image(found: Collection, part: str, reference: str, name: str, row: Row) -> Path:
    """A version of the reference, or the reference itself: test pairs have it as A."""
    if name == reference:
        return found.folder(f"reference_images/{part}").find(name, row)
    return found.folder(f"distorted_images/{part}/{Path(reference).stem}").find(name, row)


def _notes(sources: Counter[str], absent: list[str]) -> tuple[str, ...]:
    notes = [
        f"Votes: {sources['processed']} use the processed probability (estimated from all votes of a scene), "
        f"{sources['raw']} the raw share of people, having no processed one (always so in test).",
        "Scores exist for test images only; they are negated, since the files give dissimilarity.",
    ]
    if absent:
        notes.append(f"Not in this copy: {', '.join(absent)}.")
    return tuple(notes)
