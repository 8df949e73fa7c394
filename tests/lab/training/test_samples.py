"""Images of a drawn pair: same crop, same flips, and errors that name the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.training.config import InputConfig
from sr_perceptual_loss.lab.training.pairs import TrainingPair
from sr_perceptual_loss.lab.training.samples import Samples, aligned_crop, collate, resize


class Fixed:
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def pair(self, epoch, index):
        return TrainingPair(*self.items[index], 0.25)


def coordinates(height, width, offset=0.0):
    """An image whose values tell the place: red = row, green = column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows / 255, columns / 255, torch.full((height, width), offset)])


def test_crop_and_flips_are_the_same_in_both_images():
    first, second = coordinates(20, 30), coordinates(20, 30, 0.5)
    seen = set()
    for seed in range(60):
        one, other = aligned_crop(first, second, 12, "both", np.random.default_rng(seed))
        assert one.shape == other.shape == (3, 12, 12)
        assert torch.equal(one[:2], other[:2]) and (other[2] == 0.5).all() and (one[2] == 0).all()
        seen.add((bool(one[0, 0, 0] > one[0, -1, 0]), bool(one[1, 0, 0] > one[1, 0, -1])))
    assert len(seen) == 4


def test_flip_option_changes_neither_place_nor_the_other_flip():
    first = coordinates(20, 30)
    for seed in range(20):
        plain, horizontal, both = (
            aligned_crop(first, first, 12, flip, np.random.default_rng(seed))[0]
            for flip in ("none", "horizontal", "both")
        )
        assert torch.equal(horizontal, plain) or torch.equal(horizontal, plain.flip(-1))
        assert torch.equal(both, horizontal) or torch.equal(both, horizontal.flip(-2))


def test_every_place_can_be_drawn_also_the_last():
    first = coordinates(14, 12)
    tops = {
        round(float(aligned_crop(first, first, 12, "none", np.random.default_rng(s))[0][0, 0, 0]) * 255)
        for s in range(90)
    }
    assert tops == {0, 1, 2}
    exact = coordinates(12, 12)
    assert torch.equal(aligned_crop(exact, exact, 12, "none", np.random.default_rng(0))[0], exact)


def write(path, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def samples(*items, side, exact=True, **options):
    return Samples(Fixed(*items), InputConfig(flip="none", **options), seed=0, side=side, exact=exact)


def test_values_are_those_of_the_file_and_epochs_differ(tmp_path):
    path = write(tmp_path / "a.png", 24, 24)
    one = samples((path, path), side=16)
    image, reference, label, number = one[0]
    assert torch.equal(image, reference) and (label, number) == (0.25, 0)
    assert set((image * 255).round().byte().flatten().tolist()) <= set(np.asarray(Image.open(path)).flatten().tolist())
    one.choose_epoch(1)
    assert not torch.equal(one[0][0], image)
    one.choose_epoch(0)
    assert torch.equal(one[0][0], image)


def test_small_images(tmp_path):
    path = write(tmp_path / "small.png", 20, 24)
    with pytest.raises(InputError, match=r"small\.png: 24x20.*32.*input\.resize"):
        samples((path, path), side=32)[0]
    assert samples((path, path), side=32, exact=False)[0][0].shape == (3, 20, 20)
    assert samples((path, path), side=32, resize=32)[0][0].shape == (3, 32, 32)


def test_sizes_that_differ(tmp_path):
    a, b = write(tmp_path / "a.png", 20, 24), write(tmp_path / "b.png", 24, 24)
    with pytest.raises(InputError, match="24x20 and 24x24"):
        samples((a, b), side=16)[0]
    whole = samples((a, a), (b, b), side=None)
    with pytest.raises(InputError, match=r"input\.crop"):
        collate([whole[0], whole[1]])


def test_collate_keeps_the_order(tmp_path):
    path = write(tmp_path / "a.png", 24, 24)
    batch = collate([samples((path, path), (path, path), side=16)[i] for i in (1, 0)])
    assert batch.image.shape == (2, 3, 16, 16) and batch.pair_index.tolist() == [1, 0]
    assert batch.label.tolist() == [0.25, 0.25] and batch.label.dtype == torch.float32


def test_resize_keeps_a_constant_and_the_mean():
    image = torch.rand(3, 30, 50, generator=torch.Generator().manual_seed(0))
    assert resize(torch.full((3, 30, 50), 0.3), 16).sub(0.3).abs().max() < 1e-6
    assert float((resize(image, 16).mean() - image.mean()).abs()) < 0.02


def test_cached_images_are_the_same_and_the_limit_holds(tmp_path):
    a, b = write(tmp_path / "a.png", 32, 32), write(tmp_path / "b.png", 40, 40)
    plain, cached = (samples((a, a), (b, b), side=16, cache=cache) for cache in (0, 4 / 1024))
    expected = [plain[i][0] for i in (0, 1)]
    assert all(torch.equal(cached[i][0], expected[i]) for i in (0, 1, 0, 1))
    a.unlink(), b.unlink()
    # 32x32x3 bytes fit into 4 kB, 40x40x3 do not.
    assert torch.equal(cached[0][0], expected[0])
    with pytest.raises(InputError, match=r"b\.png"):
        cached[1]
