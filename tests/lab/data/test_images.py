"""Image files as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.images import ImageCache, read_image, read_pair


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_modes(tmp_path, mode):
    colour = {"RGB": (255, 0, 51), "RGBA": (255, 0, 51, 7), "L": 51}[mode]
    Image.new(mode, (5, 4), colour).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    expected = [0.2, 0.2, 0.2] if mode == "L" else [1.0, 0.0, 0.2]
    assert image.shape == (3, 4, 5) and image.dtype == torch.float32
    torch.testing.assert_close(image[:, 3, 4], torch.tensor(expected))


def test_unreadable_files_are_named(tmp_path):
    Image.fromarray(np.zeros((4, 5), dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGB", (50, 40)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no image")
    for name in ("deep.png", "half.png", "text.png", "missing.png"):
        with pytest.raises(InputError, match=name) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_pairs_have_one_size(tmp_path):
    Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / "sr.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "hr.png")
    sr, hr = read_pair(tmp_path / "sr.png", tmp_path / "hr.png")
    assert sr.sum() == 20 and hr.sum() == 0
    Image.new("RGB", (5, 8)).save(tmp_path / "hr.png")
    with pytest.raises(InputError, match=r"sr.png and hr.png .*5x4 and 5x8"):
        read_pair(tmp_path / "sr.png", tmp_path / "hr.png")


def test_cache_keeps_pixels_up_to_its_limit(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        Image.new("RGB", (512, 512), (10, 20, 30)).save(path)
    cache = ImageCache(1.0)  # one image has 0.75 MiB
    images = [cache.read(path) for path in paths]
    assert all(torch.equal(image, read_image(paths[0])) for image in images)
    for path in paths:
        path.unlink()
    assert torch.equal(cache.read(paths[0]), images[0])
    with pytest.raises(InputError):
        cache.read(paths[1])
