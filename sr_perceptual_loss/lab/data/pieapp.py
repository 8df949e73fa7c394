"""PieAPP: 200 images, 81,480 compared pairs with the share of people who prefer one; scores for the test images.

Source: Prashnani et al., "PieAPP: Perceptual Image-Error Assessment through Pairwise Preference", CVPR 2018, and the
description of the data set in github.com/prashnani/PerceptualImageError.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from sr_perceptual_loss.lab.data.labels import LabelSet, Vote
from sr_perceptual_loss.lab.data.reader import DatasetCard, Reader
from sr_perceptual_loss.lab.data.rows import Row, read_lines, read_rows

__all__ = ["CARD", "PARTS", "read"]

CARD = DatasetCard(
    name="pieapp",
    score_range=None,
    url="https://github.com/prashnani/PerceptualImageError",
    layout="reference_images/<part>/, distorted_images/<part>/ref_N/, labels/<part>/ and <part>_reference_list.txt, "
    "for the parts train, val and test",
)

#: Parts of the official split; no two share a reference.
PARTS = ("train", "val", "test")

_DISTORTION = re.compile(r"distort_\d+_(.+)_(?:inter|intra)_.*")


def read(reader: Reader, labels: Path | None) -> LabelSet:
    """Read the set: votes of all parts, and negated scores of the test images (higher is better, the reference is 0).

    Columns are taken by position, since header names differ between files. The probability of a vote is the processed
    one (column 5) where there is one, else the raw one (column 4); a note says how many are of which kind.

    ``labels`` is the folder with ``train/``, ``val/`` and ``test/``; reference lists lie beside it. ``root/labels`` by
    default. A part without list and folder is left out, with a note. The distortion is the type in the file name.
    """
    folder = labels or reader.root / "labels"
    part_of: dict[str, str] = {}
    split: dict[str, set[Path]] = {}
    sources: Counter[str] = Counter()
    absent = []
    for part in PARTS:
        references = folder.parent / f"{part}_reference_list.txt"
        if not references.exists() and not (folder / part).exists():
            absent.append(part)
            continue
        first_vote, first_rated = len(reader.votes), len(reader.rated)
        for line, name in read_lines(references, reader.problems):
            content = Path(name).stem
            if content in part_of:
                row = Row(references, line, (name,))
                reader.problem(row, f"{name} is in {part} and in {part_of[content]}; expected each reference once.")
                continue
            part_of[content] = part
            _read_votes(reader, folder, name, part, sources)
            if part == "test":
                _read_scores(reader, folder, name)
        voted = {path for vote in reader.votes[first_vote:] for path in (vote.a, vote.b)}
        split[part] = voted | {image.dist for image in reader.rated[first_rated:]}
    if len(absent) == len(PARTS):
        reader.problems.add(folder, None, f"no part of the data set here; expected {CARD.layout}.")
    notes = [
        f"Votes: {sources['processed']} use the processed probability (estimated from all votes of a reference), "
        f"{sources['raw']} the raw share of people, because they have no processed one (always so in test).",
        "Scores exist for test images only; they are negated, since the files give dissimilarity.",
    ]
    if absent:
        notes.append(f"Not in this copy: {', '.join(absent)}.")
    return reader.label_set(official_split=split, notes=notes)


def _read_votes(reader: Reader, folder: Path, reference: str, part: str, sources: Counter[str]) -> None:
    content = Path(reference).stem
    file = folder / part / f"{content}_pairwise_labels.csv"
    for row in _rows(file, reader, widths=(4,) if part == "test" else (4, 5), first_number=3):
        if row.cells[0] != reference:
            reader.problem(row, f"got the reference '{row.cells[0]}', expected {reference} as in the file name.")
            continue
        raw, processed = row.cells[3], (*row.cells, "")[4]
        if not raw and not processed:
            reader.problem(row, "both probabilities are blank; expected at least one.")
            continue
        if row.cells[1] == row.cells[2]:
            reader.problem(row, f"{row.cells[1]} is compared with itself; expected two images.")
            continue
        a, b, ref = (_image(reader, part, reference, name, row) for name in (row.cells[1], row.cells[2], reference))
        probability = reader.number(row, processed or raw, (0.0, 1.0), "probability of A")
        if probability is not None:
            sources["processed" if processed else "raw"] += 1
            # The check allows for rounding; the probability of a vote is in [0, 1] exactly.
            reader.votes.append(Vote(content, a, b, ref, min(max(probability, 0.0), 1.0)))


def _read_scores(reader: Reader, folder: Path, reference: str) -> None:
    content = Path(reference).stem
    file = folder / "test" / f"{content}_per_image_score.csv"
    for row in _rows(file, reader, widths=(3,), first_number=2):
        if row.cells[1] == reference:
            continue  # the 0 of the reference is the zero of the scale, not an opinion
        kind = _DISTORTION.fullmatch(row.cells[1])
        reader.rate(
            row,
            row.cells[2],
            content=content,
            dist=_image(reader, "test", reference, row.cells[1], row),
            ref=_image(reader, "test", reference, reference, row),
            distortion=kind[1] if kind else "",
            negate=True,
        )


def _rows(file: Path, reader: Reader, *, widths: tuple[int, ...], first_number: int) -> list[Row]:
    """Rows of a CSV with a header line of an allowed width."""
    header, rows = read_rows(file, reader.problems)
    if not header:
        return []
    if len(header) not in widths or any(cell.replace(".", "", 1).isdigit() for cell in header[first_number:]):
        expected = " or ".join(str(width) for width in widths)
        reader.problems.add(
            file, 1, f"got {','.join(header)}, expected a header of {expected} columns without numbers."
        )
        return []
    return rows


def _image(reader: Reader, part: str, reference: str, name: str, row: Row) -> Path:
    """A version of the reference, or the reference itself: test pairs have it as A."""
    if name == reference:
        return reader.folder(f"reference_images/{part}").find(name, row)
    return reader.folder(f"distorted_images/{part}/{Path(reference).stem}").find(name, row)
