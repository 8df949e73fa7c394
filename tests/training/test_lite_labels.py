"""Labels of made versions: the table, its signed types, anchors, the fused measure, corrections of attacked images."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from lite_run import FUSION, MEANS, score, write_labels, write_photographs
from pairs import make_pair

from sr_perceptual_loss import InputError
from sr_perceptual_loss.training.distortions.level_table import level_means
from sr_perceptual_loss.training.lite.groups import GroupStream, calibrate, draw_pairs
from sr_perceptual_loss.training.lite.labels import Labels
from sr_perceptual_loss.training.lite.measures import Fusion, fit_fusion, full_reference
from sr_perceptual_loss.training.lite.photographs import (
    Photographs,
    find_photographs,
    numpy_generator,
    split_photographs,
)
from sr_perceptual_loss.training.lite.settings import GroupsConfig, LitePairsConfig
from sr_perceptual_loss.training.lite.versions import KADID, MIXED, NETWORK, SR, Recipe, draw_recipes, make_version

ONE_PER_CLASS = pytest.mark.parametrize("level", [1, 2, 3, 4, 5])


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    path = write_labels(tmp_path_factory.mktemp("list") / "labels.csv")
    return Labels(level_means(path, leave_out=["I03"]), FUSION)


@pytest.fixture
def photographs(tmp_path):
    return Photographs(find_photographs([write_photographs(tmp_path / "photos")]), 64)


@ONE_PER_CLASS
@pytest.mark.parametrize("kind", sorted(MEANS))
def test_the_label_of_a_type_is_its_mean_and_i03_does_not_count(labels, kind, level):
    recipe, cell = Recipe(KADID, kind, level), (MEANS[kind][level - 1] - 1) / 4
    mean = FUSION.cells.get((kind, level), 0.5)
    assert labels.of(recipe, fused=mean, rms=0.05) == pytest.approx(cell, abs=1e-6)
    assert score(kind, level, 3) < score(kind, level, 1)


def test_signed_types_peak_in_the_middle(labels):
    for kind in (18, 25):
        values = [labels.of(Recipe(KADID, kind, level), 0.5, 0.05) for level in range(1, 6)]
        assert np.argmax(values) == 2


def test_content_residual_is_limited(labels):
    recipe = Recipe(KADID, 1, 3)
    plain = labels.of(recipe, 0.5, 0.05)
    assert labels.of(recipe, 0.6, 0.05) == pytest.approx(plain + 0.06)
    assert labels.of(recipe, 0.95, 0.05) == pytest.approx(plain + 0.12)
    assert labels.of(recipe, 0.0, 0.05) == pytest.approx(plain - 0.12)


def test_what_changes_nothing_is_pristine(labels):
    assert labels.of(Recipe(), 0.95, 0.0) == 0.95
    assert labels.of(Recipe(KADID, 18, 3), 0.95, 1e-5) == 0.95


def test_blur_is_not_preferred_to_right_texture(labels):
    smooth = labels.anchor(109, 3)
    texture = [labels.anchor(118, level) for level in range(1, 6)]
    assert texture[2] == pytest.approx(smooth + 0.15) and max(texture) == texture[2] and texture[4] < smooth
    warped = [labels.anchor(119, level) for level in range(1, 6)]
    assert warped == sorted(warped, reverse=True) and warped[1] >= 0.9
    assert warped[2] > labels.anchor(103, 1)


def test_enlargements_follow_the_tables_blur(labels):
    # x2.22 is a blur of sigma 1, whose mean is 2.91.
    assert labels._blur(1.0) == pytest.approx((2.91 - 1) / 4)
    for kind in (101, 102, 103, 104, 106, 109, 113, 114, 115, 116, 117, 119):
        values = [labels.anchor(kind, level) for level in range(1, 6)]
        assert values == sorted(values, reverse=True), kind
    assert labels.anchor(101, 4) < labels.anchor(106, 4) < labels.anchor(103, 4) < labels.anchor(109, 4)
    assert labels.anchor(105, 1) is None and labels.anchor(112, 5) is None


def test_patterns_cost_more_than_noise_of_their_power(labels):
    assert labels.noise_cost(0.0) == labels.noise_cost(0.001) == 0
    assert labels.noise_cost(math.sqrt(0.003)) == pytest.approx(0.95 - (3.0 - 1) / 4)
    assert labels.anchor(113, 4) == pytest.approx(0.95 - 1.5 * labels.noise_cost(10 / 255))
    assert labels.anchor(117, 4) == pytest.approx(0.95 - labels.noise_cost(10 / 255))


def test_mixtures_and_networks(labels):
    mixed = Recipe(MIXED, 103, 4, 1, 3)
    assert labels.of(mixed, fused=0.9, rms=0.1) == pytest.approx(min(labels.anchor(103, 4), labels.cells[1, 3]))
    assert labels.of(mixed, fused=0.05, rms=0.1) == pytest.approx(0.05)
    better = labels.of(Recipe(NETWORK, 1), fused=0.6, rms=0.05, fused_bicubic=0.5)
    assert better == pytest.approx(labels.network_start + 0.1)


def test_labels_of_attacked_images_are_corrected(labels):
    clean, damaged = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.1, 0.05]])
    start = 0.95
    (unchanged,) = labels.corrected([start], clean, clean)
    assert unchanged == pytest.approx(start)
    (hurt,) = labels.corrected([start], clean, damaged)
    fused = FUSION(damaged)[0] - FUSION(clean)[0]
    assert hurt == pytest.approx(start + fused - labels.noise_cost(0.05)) and hurt < 0.6
    # What brings a bad image nearer to GT without adding power may rise.
    (helped,) = labels.corrected([0.3], damaged, torch.tensor([[0.05, 0.04]]))
    assert helped > 0.3
    # HaarPSI alone would not see a faint grid; its power counts all the same.
    (grid,) = labels.corrected([start], clean, torch.tensor([[0.0, 0.03]]))
    assert grid < start - 0.1


def test_measures_are_zero_for_equal_images_and_fusion_never_rewards_damage():
    sr, hr = make_pair(2, 64, 64)
    assert full_reference(hr, hr).abs().max() < 1e-6
    measured = full_reference(sr, hr)
    assert measured.shape == (2, 2) and (measured > 0.01).all()
    assert FUSION(full_reference(hr, hr)) == pytest.approx([0.95, 0.95], abs=1e-3)
    assert FUSION(measured)[0] > FUSION(measured * 2)[0] >= 0


def test_fusion_is_fitted_with_weights_that_are_not_negative():
    generator = np.random.default_rng(0)
    distance = {(1, level): np.full((3, 2), 0.1 * level) + 0.001 * generator.random((3, 2)) for level in range(1, 6)}
    distance[103, 1] = np.full((2, 2), 0.25)
    fusion = fit_fusion(distance, {(1, level): 0.95 - 0.1 * level for level in range(1, 6)})
    assert min(fusion.weights) >= 0 and fusion.cells[1, 3] == pytest.approx(0.65, abs=0.02)
    assert fusion.cells[103, 1] == pytest.approx(0.7, abs=0.03)
    with pytest.raises(InputError, match="no type with a label is left"):
        fit_fusion({(103, 1): distance[103, 1]}, {(1, 1): 0.9})


def test_fusion_comes_back_bit_by_bit(tmp_path):
    fusion = Fusion((1 / 3, 0.1, 0.0, 0.0, 0.0, 0.7), {(1, 2): 1 / 7})
    fusion.save(tmp_path / "c.json")
    assert Fusion.load(tmp_path / "c.json") == fusion
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match="not a calibration"):
        Fusion.load(tmp_path / "c.json")


def test_calibration_measures_every_cell_and_fits_only_what_is_seen(photographs, labels, monkeypatch):
    monkeypatch.setattr("sr_perceptual_loss.training.lite.groups.DISTORTIONS", {1: None, 11: None})
    monkeypatch.setattr("sr_perceptual_loss.training.lite.groups.SR_DISTORTIONS", {103: None})
    fusion = calibrate(photographs, labels.cells, left_out=[11], crops=1, side=64, shrink=1.0, seed=0)
    assert set(fusion.cells) == {(kind, level) for kind in (1, 11, 103) for level in range(1, 6)}
    # Blur grows with the level, and so does its fused damage.
    assert fusion.cells[1, 1] > fusion.cells[1, 3] > fusion.cells[1, 5]


def test_groups_are_a_function_of_seed_and_step(photographs):
    config = GroupsConfig(count=2, versions=6, sides=("64", "72"))

    def stream(**changed):
        return GroupStream(photographs, config, LitePairsConfig(per_group=5), **{"seed": 3, "steps": 9, **changed})

    first, again = stream()[7], stream()[7]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.recipes, stream()[8].recipes) or not torch.equal(first.images, stream()[8].images)
    other = stream(seed=4)[7]
    assert first.images.shape != other.images.shape or not torch.equal(first.images, other.images)
    assert first.images.shape[:2] == (2, 6) and first.pairs.shape == (10, 2)
    # Pairs stay inside their group.
    assert torch.equal(first.pairs[:, 0] // 6, first.pairs[:, 1] // 6)


def test_left_out_types_are_never_drawn():
    config = dataclasses.replace(GroupsConfig(versions=8), networks=0.3, mixtures=0.3)
    left_out = [n for n in range(1, 26) if n != 4] + [n for n in range(101, 120) if n != 113]
    seen, kinds = set(), set()
    for seed in range(60):
        recipes = draw_recipes(numpy_generator(seed), config, left_out, networks=2)
        assert recipes[0] == Recipe() and len(recipes) == 8
        assert recipes[2].number == recipes[3].number and recipes[2].level != recipes[3].level
        kinds |= {r.kind for r in recipes}
        seen |= {r.number for r in recipes if r.kind in (KADID, SR, MIXED)} | {r.second for r in recipes}
    assert seen == {0, 4, 113} and kinds == {0, 1, 2, 3, 4}


def test_shares_of_pairs():
    recipes = [Recipe(), Recipe(KADID, 1, 1), Recipe(KADID, 2, 1), Recipe(KADID, 2, 5), Recipe(SR, 103, 2)]
    pairs = draw_pairs(numpy_generator(0), recipes, LitePairsConfig(per_group=4000))
    assert pairs[0] == (2, 3, True)
    against = sum(b == 0 for _, b, _ in pairs) / 4000
    assert against == pytest.approx(0.4, abs=0.03)
    assert sum(b == 1 for _, b, _ in pairs) / 4000 == pytest.approx(0.2 + 0.4 / 4, abs=0.03)
    assert all(a != b for a, b, _ in pairs)
    assert {(a, b) for a, b, same in pairs if same} <= {(2, 3), (3, 2)}


def test_versions_are_made_as_the_recipe_says():
    crop = make_pair(1, 64, 64)[1][0]

    def make(recipe):
        return make_version(crop, recipe, torch.Generator().manual_seed(0))

    assert torch.equal(make(Recipe()), crop) and torch.equal(make(Recipe(NETWORK, 2)), crop)
    blurred, enlarged = make(Recipe(KADID, 1, 5)), make(Recipe(SR, 103, 5))
    assert (blurred - crop).abs().mean() > 0.02 and (enlarged - crop).abs().mean() > 0.02
    both = make(Recipe(MIXED, 103, 5, 11, 3))
    assert (both - enlarged).std() > 0.03


def test_photographs_are_split_by_name_and_cut_reproducibly(tmp_path):
    folder = write_photographs(tmp_path / "photos")
    files = find_photographs([folder])
    train, rest = split_photographs(files, 0.34)
    assert len(train) == 4 and len(rest) == 2 and not set(train) & set(rest)
    assert split_photographs(list(reversed(files)), 0.34)[1][::-1] == rest
    assert split_photographs(files, 0.0)[1] == []
    photographs = Photographs(files, 64)
    a, b = (photographs.crop(numpy_generator(5), 64, 0.5) for _ in range(2))
    assert torch.equal(a, b) and a.shape == (3, 64, 64) and float(a.min()) >= 0 and float(a.max()) <= 1
    with pytest.raises(InputError, match=r"p0.png: got 80x72 pixels, expected sides of at least 96"):
        Photographs(files, 96)
    with pytest.raises(InputError, match="leave none to train on"):
        split_photographs(files[:1], 0.5)
    with pytest.raises(InputError, match="expected a folder of photographs"):
        find_photographs([tmp_path / "nowhere"])
