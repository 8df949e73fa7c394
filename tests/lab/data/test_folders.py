"""Which files of a folder count, and names in two Unicode forms."""

from __future__ import annotations

import unicodedata

import pytest
from PIL import Image

from sr_perceptual_loss.checks import on_disk
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.folders import list_folder
from sr_perceptual_loss.lab.data.images import SUFFIXES
from sr_perceptual_loss.lab.data.registry import read_labels

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def test_what_counts(tmp_path):
    for name in ("b.PNG", "a.tif", "img_10.jpg", "img_2.jpg", "._a.tif", ".hidden.png", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    for name in ("sub/c.webp", "folder.png/d.bmp", ".git/e.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "broken.png").symlink_to("nowhere")
    (tmp_path / "linked.png").symlink_to("a.tif")
    (tmp_path / "loop").symlink_to(tmp_path)
    flat = list_folder(tmp_path, SUFFIXES)
    names = ["a.tif", "b.PNG", "broken.png", "img_10.jpg", "img_2.jpg", "linked.png"]
    assert [path.name for path in flat.files] == names
    assert [path.name for path in flat.others] == ["Thumbs.db", "notes.txt"]
    assert [path.name for path in flat.folders] == ["folder.png", "loop", "sub"]
    deep = list_folder(tmp_path, SUFFIXES, deep=True)
    assert {str(path.relative_to(tmp_path)) for path in deep.files} == {*names, "sub/c.webp", "folder.png/d.bmp"}
    with pytest.raises(InputError, match="absent"):
        list_folder(tmp_path / "absent", SUFFIXES)


def test_paths_in_another_unicode_form(tmp_path):
    file = tmp_path / DECOMPOSED / f"{COMPOSED}.png"
    file.parent.mkdir()
    file.write_bytes(b"")
    assert on_disk(tmp_path / COMPOSED / f"{DECOMPOSED}.png") == file
    for absent in (tmp_path / COMPOSED / "x.png", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        assert on_disk(absent).name == absent.name


def test_labels_that_spell_names_in_both_forms_are_one_content(root):
    """Also in the name of a folder; macOS companion files beside images and tables are left out."""
    root.images(f"{DECOMPOSED}/r.png", f"sr/{COMPOSED}.png", f"sr/{DECOMPOSED}2.png")
    for hidden in ("._t.csv", "sr/._r.png"):
        (root / hidden).write_bytes(b"\x00\x05\x16\x07")
    rows = [f"{COMPOSED}/r.png,sr/{DECOMPOSED}.png,1", f"{DECOMPOSED}/R.png,sr/{COMPOSED}2.png,2"]
    root.text("t.csv", "ref,dist,score", *rows)
    labels = read_labels("table", root.path)
    assert all(image.dist.is_file() and image.ref == root / DECOMPOSED / "r.png" for image in labels.rated)
    assert labels.contents == [f"{COMPOSED}/r"]


def test_companions_beside_label_files_of_a_folder(root):
    root.images("Train_Ref/A0001.bmp", "Distortion_1/A0001_00_00.bmp")
    root.text("Train_Label/A0001.txt", "A0001_00_00.bmp,1500")
    (root / "Train_Label/._A0001.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    Image.new("RGB", (2, 2)).save(root / "Distortion_1/._A0001_00_00.bmp", format="BMP")
    assert [image.score for image in read_labels("pipal", root.path).rated] == [1500.0]
