"""Which SR image belongs to which HR image."""

from __future__ import annotations

import pytest

from sr_perceptual_loss.cli.pairing import match_images
from sr_perceptual_loss.errors import InputError


@pytest.fixture
def match(tmp_path):
    """A function: SR names, HR names -> the matches, as names."""

    def run(sr_names, hr_names):
        for folder, names in (("sr", sr_names), ("hr", hr_names)):
            (tmp_path / folder).mkdir()
            for name in names:
                (tmp_path / folder / name).write_bytes(b"")
        matches = match_images(tmp_path / "sr", tmp_path / "hr")
        return [(sr.name, hr.name) for sr, hr in matches.pairs], matches

    return run


def test_by_name_by_stem_and_by_start(match, capsys):
    pairs, matches = match(
        ["same.png", "stem.jpg", "baby_x4.png", "img_1x4_SRNet.png", "img_10.png", "notes.txt", ".hidden"],
        ["same.png", "stem.png", "baby.png", "img_1.png", "lonely.png"],
    )
    assert pairs == [
        ("baby_x4.png", "baby.png"),
        ("img_1x4_SRNet.png", "img_1.png"),
        ("same.png", "same.png"),
        ("stem.jpg", "stem.png"),
    ]
    assert [path.name for path in matches.unmatched_sr] == ["img_10.png"]
    assert [path.name for path in matches.unmatched_hr] == ["lonely.png"]
    out, err = capsys.readouterr()
    assert out == "" and all(name in err for name in ("img_10.png", "lonely.png", "notes.txt"))


def test_the_longest_start_wins(match):
    assert match(["baby_big_x4.png"], ["baby.png", "baby_big.png"])[0] == [("baby_big_x4.png", "baby_big.png")]


@pytest.mark.parametrize(
    ("sr_names", "hr_names", "words"),
    [(["b.png"], ["a.png"], "b.png"), (["b.png"], ["b.jpg", "b.webp"], "b.jpg, b.webp"), ([], ["a.png"], "no images")],
)
def test_no_pair_and_more_than_one(match, sr_names, hr_names, words):
    with pytest.raises(InputError, match=words):
        match(sr_names, hr_names)


@pytest.mark.parametrize(
    ("sr_name", "hr_name"),
    [
        ("img_001_SRF_4_LR.png", "img_001_SRF_4_HR.png"),
        ("img_001_SRF_4_SwinIR.png", "img_001_SRF_4_HR.png"),
        ("birdx4_SR.png", "bird_GT.png"),
        ("SR_baby.png", "HR_baby.png"),
        ("baby_LR.PNG", "Baby_hr.tif"),
        ("0801x4.png", "0801.webp"),
        ("panasonic_150_x4.png", "panasonic_150_x1.png"),
        ("cafe\u0301_x4.png", "caf\u00e9.png"),
    ],
)
def test_names_of_test_sets(match, sr_name, hr_name):
    """Beside references whose names are a part of it, or have a digit more."""
    others = ["img_001_SRF_2_HR.png", "img_00.png", "bir.png", "bab.png", "080.png", "08011.png", "panasonic_15.png"]
    assert match([sr_name], [*others, hr_name])[0] == [(sr_name, hr_name)]


@pytest.mark.parametrize(
    ("sr_names", "hr_names", "words"),
    [
        (["img_1_x4.png"], ["img_10.png"], "img_1_x4.png"),
        (
            ["img_001_SwinIR.png"],
            ["img_001_SRF_2_HR.png", "img_001_SRF_4_HR.png"],
            "img_001_SRF_2_HR.png, img_001_SRF_4",
        ),
        (["baby_x4.png"], ["baby.png", "baby_GT.png"], "baby.png, baby_GT.png"),
    ],
)
def test_names_that_do_not_tell_the_pair(match, sr_names, hr_names, words):
    with pytest.raises(InputError, match=words):
        match(sr_names, hr_names)


def test_several_methods_in_one_folder(match, capsys):
    names = ["baby_x4_A.png", "baby_x4_B.png", "bird_x4_A.png", "bird_x4_B.png"]
    pairs, matches = match(names, ["baby.png", "bird.png"])
    assert pairs == [(name, f"{name[:4]}.png") for name in names] and matches[1:] == ([], [])
    assert "2 reference(s) with several SR images" in capsys.readouterr().err


def test_the_lr_image_beside_the_reference_is_no_reference(match):
    """The folders image_SRF_4 of SelfExSR hold HR, LR and results of methods."""
    references = ["img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png", "img_001_SRF_4_bicubic.png"]
    pairs, _ = match(["img_001_SRF_4_SR.png", "img_001_SRF_4_bicubic.png"], references)
    assert [hr for _, hr in pairs] == ["img_001_SRF_4_HR.png", "img_001_SRF_4_bicubic.png"]


def test_a_folder_is_not_compared_with_itself(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="same folder"):
        match_images(tmp_path, tmp_path / "link")


def test_names_that_differ_in_case_only(tmp_path, match):
    (tmp_path / "case.probe").write_bytes(b"")
    if (tmp_path / "CASE.probe").exists():
        pytest.skip("this file system does not tell them apart")
    pairs = match(["a.png", "B.png", "A_x4.png"], ["a.png", "A.png", "b.png"])[0]
    assert pairs == [("A_x4.png", "A.png"), ("B.png", "b.png"), ("a.png", "a.png")]


def test_sub_folders_are_named(match, tmp_path, capsys):
    (tmp_path / "deep").mkdir()
    (tmp_path / "hr").mkdir()
    (tmp_path / "deep" / "set5").mkdir()
    with pytest.raises(InputError, match="no images"):
        match_images(tmp_path / "deep", tmp_path / "hr")
    assert "set5" in capsys.readouterr().err


def test_a_file_against_a_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="two files or two folders"):
        match_images(tmp_path / "a.png", tmp_path)
