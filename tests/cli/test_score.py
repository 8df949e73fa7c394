"""srpl score: pairing, covering crops, output on stdout and talk on stderr."""

from __future__ import annotations

import json

import pytest
import torch
from torchvision.io import write_jpeg

from sr_perceptual_loss.cli.pairing import pair_up
from sr_perceptual_loss.critics import create_critic
from sr_perceptual_loss.critics.base import SizeRule
from sr_perceptual_loss.critics.whole_image import tile_boxes


def test_two_files_give_the_score_of_the_library(srpl, picture):
    generator = torch.Generator().manual_seed(0)
    hr = torch.randint(0, 256, (3, 32, 40), generator=generator, dtype=torch.uint8)
    sr = hr // 2 + 40
    result = srpl("score", picture("a.png", image=sr), picture("b.png", image=hr), "--critic", "haarpsi")
    assert result.exit_code == 0, result.stderr
    expected = float(create_critic("haarpsi").score(sr[None].float() / 255, hr[None].float() / 255))
    name, value = result.stdout.rstrip("\n").split("\t")
    assert name == "a.png"
    assert float(value) == pytest.approx(expected, abs=1e-6)
    assert 0 < expected < 0.999
    assert f"mean of 1: {expected:.6f} (haarpsi, higher is better)" in result.stderr


def test_folders_by_name_by_stem_and_by_start(srpl, picture, tmp_path):
    for name in ("same", "stem", "baby", "img_1"):
        picture(f"hr/{name}.png")
    picture("hr/lonely.png")
    picture("sr/same.png")
    write_jpeg(torch.full((3, 20, 24), 100, dtype=torch.uint8), str(tmp_path / "sr" / "stem.jpg"))
    for name in ("baby_x4", "img_1x4_SRNet", "img_10", "other"):
        picture(f"sr/{name}.png")
    (tmp_path / "sr" / "notes.txt").write_text("x")
    result = srpl("score", tmp_path / "sr", tmp_path / "hr")
    assert result.exit_code == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [name for name, _ in lines] == ["baby_x4.png", "img_1x4_SRNet.png", "same.png", "stem.jpg"]
    assert all(float(value) == pytest.approx(1.0, abs=1e-4) for _, value in lines)
    assert "2 SR image(s) without a partner: img_10.png, other.png" in result.stderr
    assert "1 HR image(s) without a partner: lonely.png" in result.stderr
    assert "ignored 1 file(s) that are no PNG, JPEG, WebP or BMP: notes.txt" in result.stderr


def test_longest_start_wins(picture, tmp_path):
    for name in ("baby", "baby_big"):
        picture(f"hr/{name}.png")
    picture("sr/baby_big_x4.png")
    ((sr, hr),) = pair_up(tmp_path / "sr", tmp_path / "hr").pairs
    assert (sr.name, hr.name) == ("baby_big_x4.png", "baby_big.png")


def test_ambiguous_and_unmatched_folders(srpl, picture, tmp_path):
    picture("hr/a.png")
    picture("sr/b.png")
    result = srpl("score", tmp_path / "sr", tmp_path / "hr")
    assert result.exit_code == 2
    assert "(b.png) belongs to one of" in result.stderr
    assert "baby_x4.png for baby.png" in result.stderr
    picture("hr/b.webp")
    picture("hr/b.jpg")
    assert "b.png may belong to b.jpg, b.webp" in srpl("score", tmp_path / "sr", tmp_path / "hr").stderr
    assert "expected two files or two folders" in srpl("score", tmp_path / "sr" / "b.png", tmp_path / "hr").stderr


def test_json_is_one_object(srpl, picture, tmp_path):
    picture("hr/a.png", 100)
    picture("hr/b.png", 100)
    picture("sr/a.png", 100)
    picture("sr/c.png", 100)
    result = srpl("score", tmp_path / "sr", tmp_path / "hr", "--json")
    found = json.loads(result.stdout)
    assert found["scores"].keys() == {"a.png"}
    assert found["mean"] == pytest.approx(1.0, abs=1e-4)
    assert (found["critic"], found["weights"], found["direction"]) == ("haarpsi", None, "higher is better")
    assert (found["unmatched_sr"], found["unmatched_hr"]) == (["c.png"], ["b.png"])


def test_fixed_size_critic_sees_crops_that_cover(srpl, small, checkpoint, picture, tmp_path):
    """The picture differs in one corner only: one crop of nine sees it. The factor 2 comes from the weights file."""
    srpl("convert", checkpoint, "--critic", "small", "--out", tmp_path / "w.safetensors")
    sr = torch.zeros(3, 20, 24, dtype=torch.uint8)
    sr[:, 19, 23] = 255
    arguments = (picture("a.png", image=sr), picture("b.png", 0), "--critic", "small")
    result = srpl("score", *arguments, "--weights", tmp_path / "w.safetensors", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["mean"] == pytest.approx(-2 / 64 / 9, rel=1e-6)
    local = srpl("score", *arguments)
    assert local.exit_code == 2
    assert "weights 'official' are not on this machine" in local.stderr


def test_fetch_then_score_locally(srpl, small, hub, picture):
    srpl("fetch", "small")
    result = srpl("score", picture("a.png", 51, 8, 8), picture("b.png", 0, 8, 8), "--critic", "small")
    assert float(result.stdout.split("\t")[1]) == pytest.approx(-0.4, abs=1e-6)


def test_boxes_cover_evenly_and_are_few():
    assert tile_boxes(SizeRule(fixed=8), 8, 8, "c", "i") == [(0, 0, 8, 8)]
    boxes = tile_boxes(SizeRule(fixed=8), 8, 20, "c", "i")
    assert boxes == [(0, 0, 8, 8), (0, 6, 8, 8), (0, 12, 8, 8)]
    assert tile_boxes(SizeRule(minimum=16), 17, 33, "c", "i") == [(0, 0, 17, 33)]
    assert tile_boxes(SizeRule(minimum=8, multiple_of=8), 16, 20, "c", "i") == [(0, 0, 16, 16), (0, 4, 16, 16)]
    for height, width in ((224, 225), (500, 375), (1356, 2040)):
        seen = torch.zeros(height, width)
        boxes = tile_boxes(SizeRule(fixed=224), height, width, "c", "i")
        for top, left, h, w in boxes:
            assert (h, w) == (224, 224) and 0 <= top <= height - h and 0 <= left <= width - w
            seen[top : top + h, left : left + w] += 1
        assert seen.min() >= 1
        assert len(boxes) == -(-height // 224) * -(-width // 224)


def test_image_smaller_than_the_critic(srpl, small, checkpoint, picture):
    srpl("convert", checkpoint, "--critic", "small")
    result = srpl("score", picture("a.png", 0, 7, 30), picture("b.png", 0, 7, 30), "--critic", "small")
    assert result.exit_code == 2
    assert "a.png: 30x7 pixels (width x height), but small takes exactly 8x8" in result.stderr
    assert "enlarge SR and HR alike" in result.stderr
    result = srpl("score", picture("a.png", 0, 15, 30), picture("b.png", 0, 15, 30))
    assert "haarpsi takes sides >= 16" in result.stderr


def test_sizes_that_differ_and_files_that_are_no_images(srpl, picture, tmp_path):
    result = srpl("score", picture("a.png", 0, 20, 24), picture("b.png", 0, 40, 48))
    assert result.exit_code == 2
    assert "a.png and b.png differ in size (width x height): 24x20 and 48x40" in result.stderr
    (tmp_path / "bad.png").write_bytes(b"no image")
    result = srpl("score", tmp_path / "bad.png", tmp_path / "b.png")
    assert result.exit_code == 2
    assert "bad.png: no readable image" in result.stderr


def test_gray_and_alpha_pictures_are_read_as_rgb(srpl, picture):
    gray = picture("gray.png", image=torch.full((1, 20, 24), 100, dtype=torch.uint8))
    assert float(srpl("score", gray, picture("rgb.png")).stdout.split("\t")[1]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_device_that_is_not_there(srpl, picture, device):
    result = srpl("score", picture("a.png"), picture("b.png"), "--device", device)
    assert result.exit_code == 2
    assert f"--device: '{device}' cannot be used here" in result.stderr


def test_weights_of_a_formula_are_refused(srpl, picture):
    result = srpl("score", picture("a.png"), picture("b.png"), "--weights", "official")
    assert result.exit_code == 2
    assert "haarpsi is a formula and has no weights" in result.stderr
