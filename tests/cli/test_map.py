"""srpl map: the picture, and where the worst crops are."""

from __future__ import annotations

import sys

import pytest
import torch
from PIL import Image


@pytest.fixture
def pair(picture):
    hr = torch.randint(60, 120, (3, 80, 100), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sr = hr.clone()
    sr[:, 40:52, 64:76] = 255
    return picture("a.png", image=sr), picture("b.png", image=hr)


def test_the_defect_is_in_the_first_crop(srpl, pair, tmp_path):
    result = srpl("map", *pair, "--out", tmp_path / "map.other")
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "map.other") as image:
        assert image.format == "PNG" and image.width == 1800
    heads, first, *_ = (line.split("\t") for line in result.stdout.splitlines())
    assert heads == ["crop", "x", "y", "side", "share of the map"]
    x, y, side = map(int, first[1:4])
    assert side == 16 and x <= 66 <= 74 <= x + side and y <= 42 <= 50 <= y + side and float(first[4]) > 0.3
    assert "local map" in result.stderr and "map.other" in result.stderr


def test_equal_images_have_no_worst_crop(srpl, pair, tmp_path):
    result = srpl("map", pair[1], pair[1], "--out", tmp_path / "map.png")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 1 and (tmp_path / "map.png").exists()


def test_without_matplotlib_it_says_what_to_install(srpl, pair, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "sr_perceptual_loss.monitor.plots", raising=False)
    result = srpl("map", *pair, "--out", tmp_path / "map.png")
    assert result.exit_code == 2 and "sr_perceptual_loss[plot]" in result.stderr
    assert not (tmp_path / "map.png").exists()
