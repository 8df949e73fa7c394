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


def test_a_file_against_a_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="two files or two folders"):
        match_images(tmp_path / "a.png", tmp_path)
