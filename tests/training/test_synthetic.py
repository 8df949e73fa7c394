"""The table of level means, and the data set in KADID-10k's layout: names, labels, resuming, workers, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pairs import make_pair
from torchvision.transforms.functional import to_pil_image

from sr_perceptual_loss._checks import InputError
from sr_perceptual_loss.data import kadid10k
from sr_perceptual_loss.data.images import read_image
from sr_perceptual_loss.training.distortions import distort
from sr_perceptual_loss.training.synthetic import LevelMean, level_means, make_kadid_like

LIST = Path(__file__).parents[3] / "shared" / "data" / "labels" / "iqa_lists" / "KADID-10k.txt"
TABLE = {
    (kind, step): LevelMean(5 - 0.5 * step - 0.01 * kind, 0.2, 80) for kind in range(1, 26) for step in range(1, 6)
}


@pytest.fixture
def refs(tmp_path):
    folder = tmp_path / "refs"
    folder.mkdir()
    for seed, name in enumerate(("zebra.png", "ape.png")):
        image = make_pair(1, 56, 72, seed=seed)[1][0]
        to_pil_image((image * 255).round().to(torch.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted((folder / "images").iterdir())}


@pytest.mark.skipif(not LIST.is_file(), reason="the KADID-10k label list is not here (../shared/data/labels)")
def test_means_of_the_published_list():
    """Check values of the facts: Gaussian blur, JPEG, mean shift and contrast, by level."""
    table = level_means(LIST)
    assert len(table) == 125 and {cell.n for cell in table.values()} == {81}
    for kind, wanted in {
        1: (4.61, 4.38, 2.91, 1.87, 1.30),
        10: (4.34, 4.25, 3.87, 1.95, 1.35),
        18: (4.22, 4.52, 4.60, 4.37, 3.90),
        25: (3.42, 3.86, 4.29, 4.14, 3.32),
    }.items():
        assert [table[kind, level].mean for level in range(1, 6)] == pytest.approx(wanted, abs=0.005)
    assert sum(cell.std for cell in table.values()) / 125 == pytest.approx(0.34, abs=0.005)
    without = level_means(LIST, leave_out=["I01"])
    assert {cell.n for cell in without.values()} == {80}
    # I01_01_02 was scored 4.33.
    assert without[1, 2].mean == pytest.approx((81 * table[1, 2].mean - 4.33) / 80)


def test_means_of_both_forms_of_list(tmp_path):
    own, other = tmp_path / "dmos.csv", tmp_path / "list.txt"
    own.write_text(
        "dist_img,ref_img,dmos,var\nI01_04_02.png,I01.png,2,0.1\nI02_04_02.png,I02.png,4,0.1\nI02_25_05.png,I02.png,3,0\n"
    )
    other.write_text(
        "dis_img_path,dis_type,ref_img_path,score\nKADID-10k/images/I01_04_02.png,WRONG,KADID-10k/images/I01.png,2\n"
    )
    assert level_means(own) == {(4, 2): LevelMean(3.0, 1.0, 2), (25, 5): LevelMean(3.0, 0.0, 1)}
    assert level_means(own, leave_out=["I02"]) == {(4, 2): LevelMean(2.0, 0.0, 1)}
    assert level_means(other) == {(4, 2): LevelMean(2.0, 0.0, 1)}
    with pytest.raises(InputError, match="leave_out: got I03, expected scenes of the list: I01, I02"):
        level_means(own, leave_out=["I03"])
    with pytest.raises(InputError, match="no scores are left"):
        level_means(own, leave_out=["I01", "I02"])


def test_layout_is_read_by_the_kadid_reader(refs, tmp_path):
    out = tmp_path / "out"
    steps = []
    made = make_kadid_like(
        refs,
        out,
        TABLE,
        types=[18, 6, 11],
        levels=[1, 5],
        seed=3,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert (made.scenes, made.written, made.kept) == (2, 12, 0)
    assert steps == [(i, 12) for i in range(1, 13)]
    labels = kadid10k.read(out)
    assert labels.scenes == ["I01", "I02"] and len(labels.rated) == 12
    by_name = {r.dist.name: r for r in labels.rated}
    assert by_name["I02_18_05.png"].score == pytest.approx(5 - 2.5 - 0.18)
    assert by_name["I02_18_05.png"].distortion == "mean shift"
    assert by_name["I02_18_05.png"].ref.name == "I02.png"
    assert (out / "dmos.csv").read_text().splitlines()[:2] == [
        "dist_img,ref_img,dmos,var",
        "I01_18_01.png,I01.png,4.3200,0.0400",
    ]
    # In the order of the names: the ape is first.
    assert torch.equal(read_image(out / "images" / "I01.png"), read_image(refs / "ape.png"))
    assert torch.equal(read_image(out / "images" / "I02.png"), read_image(refs / "zebra.png"))
    # Types without chance are what distort() gives, in 8 bits.
    expected = distort(read_image(refs / "zebra.png")[None], 18, 5, torch.Generator())[0]
    assert float((read_image(out / "images" / "I02_18_05.png") - expected).abs().max()) <= 0.5 / 255 + 1e-6
    text = (out / "README.txt").read_text()
    for part in ("NOT RATINGS OF THESE PICTURES", "Seed 3; whole pictures", "I01: ape.png", "80 OTHER pictures"):
        assert part in text


def test_resuming_makes_only_what_is_missing_and_the_same(refs, tmp_path):
    out = tmp_path / "out"
    make_kadid_like(refs, out, TABLE, types=[11, 20], levels=[4])
    before = contents(out)
    assert len(before) == 2 + 4
    (out / "images" / "I01_11_04.png").unlink()
    kept = (out / "images" / "I02_11_04.png").stat().st_mtime_ns
    made = make_kadid_like(refs, out, TABLE, types=[11, 20], levels=[4])
    assert (made.written, made.kept) == (1, 3)
    assert contents(out) == before
    assert (out / "images" / "I02_11_04.png").stat().st_mtime_ns == kept
    # More levels later, one picture at first: each picture is the same as in one go.
    parts = tmp_path / "parts"
    make_kadid_like(refs, parts, TABLE, types=[20], levels=[4], limit=1)
    make_kadid_like(refs, parts, TABLE, types=[20, 11], levels=[4])
    assert contents(parts) == before
    assert len(kadid10k.read(parts).rated) == 4


def test_seed_scene_and_level_change_the_noise(refs, tmp_path):
    noises = set()
    for seed in (0, 1):
        out = tmp_path / str(seed)
        make_kadid_like(refs, out, TABLE, types=[23], levels=[1, 2], seed=seed)
        # The colour of the pasted block.
        for name in ("I01", "I02"):
            source = read_image(out / "images" / f"{name}.png")
            for level in (1, 2):
                changed = read_image(out / "images" / f"{name}_23_{level:02d}.png")
                where = ((changed - source).abs().amax(0) > 0.02).nonzero()
                noises.add(tuple(changed[:, where[len(where) // 2][0], where[len(where) // 2][1]].tolist()))
    assert len(noises) == 8


def test_two_workers_write_the_same(refs, tmp_path):
    for workers in (1, 2):
        make_kadid_like(refs, tmp_path / str(workers), TABLE, types=[11, 20], levels=[3], workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_crop_is_the_middle(refs, tmp_path):
    out = tmp_path / "out"
    make_kadid_like(refs, out, TABLE, types=[1], levels=[1], crop=50, limit=1)
    assert torch.equal(read_image(out / "images" / "I01.png"), read_image(refs / "ape.png")[:, 3:53, 11:61])
    assert read_image(out / "images" / "I01_01_01.png").shape == (3, 50, 50)
    assert "the middle 50x50 pixels" in (out / "README.txt").read_text()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"types": [26]}, "types: got .26., expected one or more different numbers from 1 to 25"),
        ({"types": []}, "types: got .., expected one or more"),
        ({"types": [1, 1]}, "different numbers"),
        ({"levels": [0, 1]}, "levels: got .0, 1., expected one or more different numbers from 1 to 5"),
        ({"crop": 57}, "got 72x56 pixels, expected sides of at least 57"),
        ({"crop": 40}, "crop: got 40"),
        ({"limit": 0}, "limit: got 0"),
        ({"workers": 0}, "workers: got 0"),
    ],
)
def test_arguments_that_are_refused(refs, tmp_path, options, wanted):
    with pytest.raises(InputError, match=wanted):
        make_kadid_like(refs, tmp_path / "out", TABLE, **options)
    assert not (tmp_path / "out").exists(), "nothing is written before all is checked"


def test_folders_that_are_refused(refs, tmp_path):
    with pytest.raises(InputError, match="got no folder"):
        make_kadid_like(tmp_path / "nowhere", tmp_path / "out", TABLE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no picture in this folder"):
        make_kadid_like(tmp_path / "empty", tmp_path / "out", TABLE)
    with pytest.raises(InputError, match=r"no label for \(type, level\) \(2, 1\) and 0 more"):
        make_kadid_like(refs, tmp_path / "out", {(1, 1): TABLE[1, 1]}, types=[1, 2], levels=[1])
    out = tmp_path / "out"
    make_kadid_like(refs, out, TABLE, types=[1], levels=[1])
    with pytest.raises(InputError, match=r"made with .*'seed': 0.*now .*'seed': 1.*another folder"):
        make_kadid_like(refs, out, TABLE, types=[1], levels=[1], seed=1)
    (refs / "ant.png").write_bytes((refs / "ape.png").read_bytes())
    with pytest.raises(InputError, match=r"I01 was made of ape.png, now it would be ant.png"):
        make_kadid_like(refs, out, TABLE, types=[1], levels=[1])
    (out / "made.json").unlink()
    with pytest.raises(InputError, match="pictures of unknown origin"):
        make_kadid_like(refs, out, TABLE, types=[1], levels=[1])
    (refs / "bad.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"bad.png: no readable picture"):
        make_kadid_like(refs, tmp_path / "other", TABLE)
