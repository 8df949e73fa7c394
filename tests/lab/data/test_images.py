"""Image files as tensors."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.data.images import ImageCache, read_image, read_pair, read_pixels


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


FORMATS = {"png": {}, "webp": {"lossless": True}, "tif": {}, "jpg": {"quality": 98}}


def photograph():
    """12x8 patches of 8x8 pixels; no turn or mirror image equals another."""
    levels = np.random.default_rng(0).integers(0, 255, (8, 12), np.uint8).repeat(8, 0).repeat(8, 1)
    return Image.fromarray(np.stack([levels] * 3, -1))


@pytest.mark.parametrize("suffix", FORMATS)
def test_exif_orientation_is_applied(tmp_path, suffix):
    """As OpenCV 4 and 5 do for these formats; Pillow's own function turns the image that was not saved."""
    for orientation in range(10):
        image, exif = photograph(), Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / f"a.{suffix}", exif=exif, **FORMATS[suffix])
        image.getexif()[0x0112] = orientation
        expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
        got = read_pixels(tmp_path / f"a.{suffix}").astype(int)
        assert got.shape == expected.shape and abs(got - expected).mean() < (2 if suffix == "jpg" else 1e-9), (
            orientation
        )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_is_no_orientation(tmp_path):
    photograph().save(tmp_path / "a.png", exif=b"Exif\0\0II*\0garbage")
    assert read_pixels(tmp_path / "a.png").shape == (64, 96, 3)


def png(bits, kind, data, size=(2, 2)):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(image, **options):
    content = io.BytesIO()
    image.save(content, **options)
    return content.getvalue()


def test_rules_of_pixel_types(tmp_path):
    """Palette with transparency, bits, alpha and CMYK: the values that OpenCV gives."""
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 51])
    cases = {
        "palette": (saved(palette, format="PNG", transparency=b"\xff\x00"), (255, 0, 51)),
        "two bits": (png(2, 0, b"\0\xa0\0\xa0"), (170, 170, 170)),
        "one bit": (saved(Image.new("1", (4, 4), 1), format="TIFF"), (255, 255, 255)),
        "gray and alpha": (saved(Image.new("LA", (4, 4), (7, 0)), format="PNG"), (7, 7, 7)),
        "cmyk": (saved(Image.new("CMYK", (4, 4), (51, 0, 255, 51)), format="TIFF"), (163, 204, 0)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, (content, expected) in cases.items():
            (tmp_path / "a.png").write_bytes(content)
            assert read_pixels(tmp_path / "a.png")[1, 1].tolist() == pytest.approx(expected, abs=1), name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(16, 2, (b"\0" + b"\x80\xf0" * 6) * 2), "16 bits"),
        (png(16, 6, (b"\0" + b"\x80\xf0" * 8) * 2), "16 bits"),
        (png(16, 4, (b"\0" + b"\x80\xf0" * 4) * 2), "16 bits"),
        (saved(Image.fromarray(np.zeros((4, 5), np.uint16)), format="TIFF"), "16 bits"),
        (saved(Image.new("F", (4, 4)), format="TIFF"), "32 bits"),
        (saved(Image.new("LAB", (4, 4)), format="TIFF"), "LAB"),
        (saved(photograph(), format="PNG", save_all=True, append_images=[Image.new("RGB", (96, 64))]), "animation"),
        (saved(photograph(), format="TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]), "pages"),
        (saved(photograph(), format="GIF"), "PNG, JPEG, WebP, BMP or TIFF"),
        (b"", "PNG, JPEG"),
        (b"<html>", "PNG, JPEG"),
        (png(8, 2, b"\0", size=(20000, 10000)), "200000000 pixels"),
        (png(8, 2, b"\0", size=(2**31 - 1, 2**31 - 1)), "pixels"),
    ],
)
def test_refused_files(tmp_path, content, words):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_image(tmp_path / "a.png")
    assert str(tmp_path / "a.png") in str(caught.value) and "\n" not in str(caught.value)


def test_large_photographs_are_read_without_a_warning_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 96 - 1)
    photograph().save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_pixels(tmp_path / "a.png").shape == (64, 96, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 96 // 2 - 1)
    with pytest.raises(InputError, match=r"a\.png.*6144 pixels"):
        read_pixels(tmp_path / "a.png")


@pytest.mark.parametrize("place", ["folder", "broken", "loop", "pipe", "x" * 300])
def test_places_that_are_no_files(tmp_path, place):
    (tmp_path / "folder").mkdir()
    getattr(os, "mkfifo", Path.touch)(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=place):
        read_image(tmp_path / place)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "MPO"])
def test_damaged_bytes_give_an_image_or_an_input_error(tmp_path, form):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if form == "BMP" else {"exif": exif}
    whole = saved(photograph().resize((24, 16)), format=form, **options)
    random = np.random.default_rng(0)
    for case in range(80):
        content = bytearray(whole)
        for _ in range(random.integers(1, 5)):
            # Half of the damage is in the headers, where the errors differ most.
            reach = min(len(content), 64) if random.random() < 0.5 else len(content)
            content[random.integers(reach)] = random.integers(256)
        content = content[: random.integers(len(content))] if case % 10 == 0 else content
        (tmp_path / "a.png").write_bytes(content)
        try:
            assert read_pixels(tmp_path / "a.png").shape[2] == 3
        except InputError as error:
            assert os.fspath(tmp_path) in str(error)
