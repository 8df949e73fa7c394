"""srpl score: scores on stdout, messages on stderr."""

from __future__ import annotations

import json

import pytest
import torch

from sr_perceptual_loss.critics import create_critic, whole_image
from sr_perceptual_loss.errors import InputError


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
    assert f"{expected:.6f}" in result.stderr


def test_folders_and_json(srpl, picture, tmp_path):
    for name in ("hr/a.png", "hr/b.png", "sr/a.png", "sr/c.png"):
        picture(name, 100)
    lines = srpl("score", tmp_path / "sr", tmp_path / "hr").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["a.png"]
    values = json.loads(srpl("score", tmp_path / "sr", tmp_path / "hr", "--json").stdout)
    assert values["scores"].keys() == {"a.png"}
    assert values["mean"] == pytest.approx(1.0, abs=1e-4)
    assert (values["critic"], values["weights"], values["direction"]) == ("haarpsi", None, "higher is better")
    assert (values["unmatched_sr"], values["unmatched_hr"]) == (["c.png"], ["b.png"])


def test_fixed_size_critic_sees_crops_that_cover_the_image(srpl, small, checkpoint, picture, tmp_path):
    """The image differs in one corner only: one crop of nine sees it. The factor 2 comes from the weights file."""
    srpl("convert", checkpoint, "--critic", "small", "--out", tmp_path / "w.safetensors")
    sr = torch.zeros(3, 20, 24, dtype=torch.uint8)
    sr[:, 19, 23] = 255
    arguments = (picture("a.png", image=sr), picture("b.png", 0), "--critic", "small")
    result = srpl("score", *arguments, "--weights", tmp_path / "w.safetensors", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["mean"] == pytest.approx(-2 / 64 / 9, rel=1e-6)
    local = srpl("score", *arguments)
    assert local.exit_code == 2
    assert "'official'" in local.stderr


def test_several_sr_images_of_one_reference(srpl, picture, tmp_path):
    picture("hr/baby.png", 100)
    picture("sr/baby_x4_A.png", 100)
    picture("sr/baby_x4_B.png", 10)
    values = json.loads(srpl("score", tmp_path / "sr", tmp_path / "hr", "--json").stdout)["scores"]
    assert values["baby_x4_A.png"] == pytest.approx(1, abs=1e-4) and values["baby_x4_B.png"] < 0.9


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (InputError("c.png: damaged"), 2)])
def test_json_of_what_was_scored_before_an_interruption(srpl, picture, tmp_path, monkeypatch, stop, code):
    for name in ("hr/a.png", "hr/b.png", "hr/c.png", "sr/a.png", "sr/b.png", "sr/c.png"):
        picture(name)
    real = whole_image.score_whole_image

    def score(critic, sr, hr, name):
        if name == "c.png":
            raise stop
        return real(critic, sr, hr, name)

    monkeypatch.setattr(whole_image, "score_whole_image", score)
    result = srpl("score", tmp_path / "sr", tmp_path / "hr", "--json")
    assert result.exit_code == code
    values = json.loads(result.stdout)
    assert values["scores"].keys() == {"a.png", "b.png"} and values["not_scored"] == 1


def test_fetch_then_score_locally(srpl, small, hub, picture):
    srpl("fetch", "small")
    result = srpl("score", picture("a.png", 51, 8, 8), picture("b.png", 0, 8, 8), "--critic", "small")
    assert float(result.stdout.split("\t")[1]) == pytest.approx(-0.4, abs=1e-6)


def test_sizes_and_files_that_cannot_be_scored(srpl, small, checkpoint, picture, tmp_path):
    srpl("convert", checkpoint, "--critic", "small")
    (tmp_path / "bad.png").write_bytes(b"no image")
    low, flat, high = picture("low.png", 0, 7, 30), picture("flat.png", 0, 15, 30), picture("high.png", 0, 40, 48)
    for arguments, words in (
        ((low, low, "--critic", "small"), ["low.png", "30x7", "8x8"]),
        ((flat, flat), ["haarpsi", "16"]),
        ((flat, high), ["flat.png", "high.png", "30x15", "48x40"]),
        ((tmp_path / "bad.png", high), ["bad.png"]),
    ):
        result = srpl("score", *arguments)
        assert result.exit_code == 2 and result.stdout == ""
        assert all(word in result.stderr for word in words), result.stderr


def test_gray_images_are_read_as_rgb(srpl, picture):
    gray = picture("gray.png", image=torch.full((1, 20, 24), 100, dtype=torch.uint8))
    assert float(srpl("score", gray, picture("rgb.png")).stdout.split("\t")[1]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "cuda:99"), "--device: 'cuda:99'"),
        (("--device", "toaster"), "--device: 'toaster'"),
        (("--weights", "official"), "haarpsi is a formula"),
    ],
)
def test_options_that_are_refused(srpl, picture, options, words):
    result = srpl("score", picture("a.png"), picture("b.png"), *options)
    assert result.exit_code == 2
    assert words in result.stderr
