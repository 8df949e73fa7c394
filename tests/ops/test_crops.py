from __future__ import annotations

from collections import Counter

import pytest
import torch

from sr_perceptual_loss import CropPlan, InputError
from sr_perceptual_loss.ops.crops import crop_boxes, crop_pairs, enlarge


def probe(height, width, n=2):
    """An image whose pixels say where they are."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x, y * 0]).double().repeat(n, 1, 1, 1) + torch.arange(n).view(n, 1, 1, 1) * 1000.0


def cut(sr, hr, plan, size, seed=0):
    return list(crop_pairs(sr, hr, plan, size, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("position", ["random", "grid", "center"])
def test_the_same_region_is_cut_from_both_images(position):
    image = probe(40, 60)
    for a, b in cut(image, image + 0.5, CropPlan(count=1 if position == "center" else 5, position=position), 16):
        assert a.shape == (2, 3, 16, 16)
        assert torch.equal(a + 0.5, b)
        corner = a[0, :2, 0, 0]
        expected = torch.stack([corner[0] + torch.arange(16).double()[:, None].expand(16, 16)])
        assert torch.equal(a[0, 0], expected[0])


def test_random_boxes_differ_between_images_and_reach_every_corner():
    boxes = crop_boxes((2, 18, 17), 16, 3000, "random", torch.Generator().manual_seed(0))
    assert any(box[0] != box[1] for box in boxes)
    seen = Counter(corner for box in boxes for corner in box)
    assert set(seen) == {(t, left) for t in range(3) for left in range(2)}
    assert min(seen.values()) > 0.8 * 6000 / 6


@pytest.mark.fault(42)
def test_private_generator_repeats_and_leaves_the_global_one():
    image = probe(40, 60)
    before = torch.get_rng_state()
    first, second = (cut(image, image, CropPlan(count=4), 16, seed=3) for _ in range(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_grid_covers_both_ends():
    corners = [box[0] for box in crop_boxes((1, 100, 70), 32, 9, "grid", None)]
    assert corners == [(t, left) for t in (0, 34, 68) for left in (0, 19, 38)]
    assert crop_boxes((1, 100, 70), 32, 1, "grid", None)[0][0] == (34, 19)
    assert [b[0] for b in crop_boxes((1, 32, 70), 32, 3, "grid", None)] == [(0, 0), (0, 19), (0, 38)]
    assert [b[0] for b in crop_boxes((1, 70, 32), 32, 3, "grid", None)] == [(0, 0), (19, 0), (38, 0)]


def test_an_image_of_the_crop_size_is_cut_once():
    image = probe(16, 16)
    ((a, b),) = cut(image, image, CropPlan(count=7), 16)
    assert a is image and b is image


def test_scales_halve_both_images_and_small_scales_are_left_out():
    image = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    pairs = cut(image, image * 0.5, CropPlan(count=2, scales=(1, 2, 4)), 20)
    # 64x48 and 32x24 hold a crop of 20, 16x12 does not.
    assert len(pairs) == 4
    for a, b in pairs:
        torch.testing.assert_close(a * 0.5, b)
    whole = cut(image, image, CropPlan(scales=(1, 2)), None)
    assert [tuple(a.shape[-2:]) for a, _ in whole] == [(64, 48), (32, 24)]
    with pytest.raises(InputError, match=r"at none of the scales \[2, 4\]"):
        cut(image, image, CropPlan(scales=(2, 4)), 60)


@pytest.mark.fault(13)
def test_small_patches_follow_the_policy():
    image = torch.rand(1, 3, 12, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(InputError, match=r"got 12x30 patches, the crop needs 32x32. Set gt_size: 32"):
        cut(image, image, CropPlan(), 32)
    for small in ("reflect", "resize"):
        image.requires_grad_()
        ((a, b),) = cut(image, image.detach(), CropPlan(small=small), 32)
        assert a.shape == (1, 3, 32, 32) and torch.equal(a, b)
        (gradient,) = torch.autograd.grad(a.sum(), image)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_reflection_mirrors_as_often_as_needed():
    row = torch.arange(3.0).view(1, 1, 1, 3).expand(1, 1, 9, 3)
    enlarged = enlarge(row, 9, "reflect")[0, 0, 0].tolist()
    wave = [0, 1, 2, 1]
    assert enlarged == [wave[(i - 3) % 4] for i in range(9)]
    one = enlarge(torch.ones(1, 1, 1, 1), 4, "reflect")
    assert torch.equal(one, torch.ones(1, 1, 4, 4))


def test_resize_keeps_the_aspect_ratio():
    assert enlarge(torch.rand(1, 3, 10, 20), 30, "resize").shape == (1, 3, 30, 60)


def test_plan_from_yaml_values():
    assert CropPlan.from_config({"size": "224", "count": 2, "scales": [1, 2], "small": "resize"}) == CropPlan(
        size=224, count=2, scales=(1, 2), small="resize"
    )
    assert CropPlan.from_config(64) == CropPlan(size=64) and CropPlan.from_config(None) == CropPlan()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"sise": 224}, "crops: unknown key 'sise'. Did you mean 'size'"),
        ({"small": "pad"}, "crops.small: got 'pad'"),
        ({"count": 0}, "crops.count: got 0, expected a whole number >= 1"),
        ({"size": 1.5}, "crops.size: got 1.5"),
        ({"scales": []}, "crops.scales: got an empty list"),
        ({"position": "middle"}, "crops.position: got 'middle'"),
        ("large", "crops: got 'large'"),
        (True, "crops: got True"),
    ],
)
def test_bad_plans(value, words):
    with pytest.raises(InputError, match=words):
        CropPlan.from_config(value)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"size": 8, "seed": 1, "position": "grid"}, "crops.seed: got 1.*grid"),
        ({"size": 8, "count": 2, "position": "center"}, "crops.count: got 2.*center"),
    ],
)
def test_fields_without_effect_are_refused(plan, words):
    with pytest.raises(InputError, match=words):
        CropPlan(**plan)
