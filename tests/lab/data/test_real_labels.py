"""The readers on the published label files, where this machine has them beside the repository."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean

import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.registry import read_labels

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
LISTS = SHARED / "labels" / "iqa_lists"

pytestmark = pytest.mark.skipif(
    not LISTS.is_dir(), reason="published label files are not in ../shared/data/labels beside the repository"
)


def scores(labels):
    return [image.score for image in labels.rated]


def test_kadid10k():
    labels = read_labels("kadid10k", "/nowhere", labels=LISTS / "KADID-10k.txt", check_images=False)
    assert len(labels.rated) == 10125 and len(labels.contents) == 81
    assert (min(scores(labels)), max(scores(labels))) == (1.0, 4.93)
    assert set(Counter(image.content for image in labels.rated).values()) == {125}
    assert set(Counter(image.distortion for image in labels.rated).values()) == {405}
    by_level, blur = defaultdict(list), defaultdict(list)
    for image in labels.rated:
        level = int(image.dist.stem[-2:])
        by_level[level].append(image.score)
        if image.distortion == "gaussian blur":
            blur[level].append(image.score)
    # Falling with the level: the column called dmos is higher = better.
    assert [round(fmean(by_level[i]), 2) for i in range(1, 6)] == [4.08, 3.52, 3.06, 2.50, 2.01]
    assert [round(fmean(blur[i]), 2) for i in range(1, 6)] == [4.61, 4.38, 2.91, 1.87, 1.30]


def test_pipal():
    labels = read_labels("pipal", "/nowhere", labels=LISTS / "PIPAL.txt", check_images=False)
    assert len(labels.rated) == 23200 and len(labels.contents) == 200
    assert set(Counter(image.content for image in labels.rated).values()) == {116}
    assert labels.score_range == (916.7136, 1835.9856)
    assert fmean(scores(labels)) == pytest.approx(1448.96, abs=0.005)


def test_tid2013():
    labels = read_labels("tid2013", "/nowhere", labels=LISTS / "TID2013.txt", check_images=False)
    assert len(labels.rated) == 3000 and labels.contents == [f"i{i:02}" for i in range(1, 26)]
    assert set(Counter(image.distortion for image in labels.rated).values()) == {125}
    blur = defaultdict(list)
    for image in labels.rated:
        if image.distortion == "gaussian blur":
            blur[image.dist.stem[-1]].append(image.score)
    means = [fmean(blur[level]) for level in "12345"]
    assert means == sorted(means, reverse=True) and min(scores(labels)) >= 0 and max(scores(labels)) <= 9


def test_isrgen_qa():
    labels = read_labels("isrgen_qa", "/nowhere", labels=SHARED / "labels" / "isrgen_qa", check_images=False)
    parts = {name: labels.part(name) for name in ("train", "val", "test")}
    assert {name: len(part.rated) for name, part in parts.items()} == {"train": 576, "val": 72, "test": 72}
    assert len(labels.rated) == 720 and len(labels.contents) == 19
    assert {name: round(fmean(scores(part)), 3) for name, part in parts.items()} == {
        "train": 3.267,
        "val": 2.819,
        "test": 2.456,
    }
    ranges = {name: (round(min(scores(part)), 3), round(max(scores(part)), 3)) for name, part in parts.items()}
    assert ranges == {"train": (1.0, 4.667), "val": (1.048, 4.571), "test": (1.095, 4.429)}
    assert "of 19 references, 19 in train, 19 in val, 18 in test" in labels.notes[0]
    assert len({image.distortion for image in labels.rated}) == 19
    linf = {image.content for image in labels.rated if "LINF" in image.distortion}
    assert len(linf) == 19 and linf == set(labels.contents)  # by LR name; SR names would give 0801 to 0819


def test_list_of_csiq_fits_no_reader():
    with pytest.raises(InputError, match="866 problem"):
        read_labels("tid2013", "/nowhere", labels=LISTS / "CSIQ.txt", check_images=False)


def test_real_images_of_kadid_as_a_table():
    labels = read_labels("table", SHARED / "kadid_i01")
    assert {image.dist.name: image.score for image in labels.rated} == {
        "I01_01_02.png": 4.33,
        "I01_01_05.png": 1.1,
        "I01_06_05.png": 2.27,
        "I01_15_05.png": 1.33,
    }
