"""One rule for whole images: evenly spaced crops that cover them."""

from __future__ import annotations

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import Critic, CriticCard, InputError, NonFiniteError, SizeRule, create_critic
from sr_perceptual_loss.critics import whole_image
from sr_perceptual_loss.critics.haarpsi import HaarPSI
from sr_perceptual_loss.critics.texture_stats import TextureStats
from sr_perceptual_loss.critics.whole_image import score_whole_image, tile_boxes


class Mean(Critic):
    """Mean of the SR image; remembers the batch sizes."""

    card = CriticCard("mean", "none", SizeRule(fixed=16), (0.0, 1.0), relative=False, needs_weights=False)

    def _encode_target(self, hr):
        return ()

    def _compare(self, sr, hr, target):
        self.config.setdefault("batches", []).append(len(sr))
        return sr.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("rule", "size", "boxes"),
    [
        (SizeRule(fixed=16), (16, 16), [(0, 0, 16, 16)]),
        (SizeRule(fixed=16), (20, 33), [(t, left, 16, 16) for t in (0, 4) for left in (0, 8, 17)]),
        (SizeRule(minimum=8), (20, 33), [(0, 0, 20, 33)]),
        (SizeRule(minimum=8, multiple_of=8), (16, 20), [(0, 0, 16, 16), (0, 4, 16, 16)]),
    ],
)
def test_boxes_cover_the_image(rule, size, boxes):
    assert tile_boxes(rule, *size, "critic", "image") == boxes


@pytest.mark.parametrize(("rule", "size"), [(SizeRule(fixed=16), (15, 40)), (SizeRule(minimum=8), (40, 7))])
def test_an_image_smaller_than_the_input_is_refused(rule, size):
    with pytest.raises(InputError, match=f"photo: {size[1]}x{size[0]}.*critic takes"):
        tile_boxes(rule, *size, "critic", "photo")


def test_the_score_is_the_mean_of_the_crops_in_small_batches():
    sr, hr = (image[0] for image in make_pair(1, 40, 64))
    critic = Mean()
    crops = [
        sr[:, t : t + h, left : left + w].mean() for t, left, h, w in tile_boxes(critic.input_size, 40, 64, "", "")
    ]
    assert score_whole_image(critic, sr, hr, "photo") == pytest.approx(float(torch.stack(crops).mean()), abs=1e-6)
    assert critic.config["batches"] == [8, 4]


def test_a_critic_of_any_size_scores_the_whole_image():
    (sr, hr), critic = make_pair(1, 40, 57), create_critic("haarpsi")
    assert score_whole_image(critic, sr[0], hr[0], "photo") == pytest.approx(float(critic.score(sr, hr)), abs=1e-7)


def test_a_wrapper_around_a_critic_is_scored_through_its_own_score():
    class Frozen:
        critic = Mean()

        def score(self, sr, hr):
            return self.critic.score(sr, hr) + 1

    sr, hr = (image[0] for image in make_pair(1, 16, 16))
    assert score_whole_image(Frozen(), sr, hr, "photo") == pytest.approx(1 + float(sr.mean()), abs=1e-6)


def test_a_score_that_is_not_finite_names_the_image():
    sr, hr = (image[0] for image in make_pair(1, 16, 16))
    with pytest.raises(NonFiniteError, match="photo"):
        score_whole_image(Mean(), sr * float("nan"), hr, "photo")


@pytest.mark.parametrize(
    ("critic", "size", "strip"),
    [
        (HaarPSI(), (203, 97), 60),
        (HaarPSI(), (64, 81), 1),
        (TextureStats(), (497, 98), 240),
        (TextureStats(scales=2, structure_weight=0), (301, 67), 1),
    ],
)
def test_a_large_image_has_the_same_score_in_strips(monkeypatch, critic, size, strip):
    sr, hr = make_pair(1, *size, dtype=torch.float64)
    calls, maps = [], critic.maps
    monkeypatch.setattr(critic, "maps", lambda *images: calls.append(images[0].shape[2]) or maps(*images))
    monkeypatch.setattr(whole_image, "PIXELS_AT_ONCE", strip * size[1])
    assert score_whole_image(critic, sr[0], hr[0], "photo") == pytest.approx(float(critic.score(sr, hr)), abs=1e-9)
    assert len(calls) > 1 and max(calls) < size[0]


def test_float32_strips_and_8_bit_images_have_the_same_score(monkeypatch):
    sr, hr = ((image[0] * 255).round().byte() for image in make_pair(1, 203, 97))
    critic = create_critic("haarpsi")
    expected = float(critic.score(*(image[None].double() / 255 for image in (sr, hr))))
    assert score_whole_image(critic, sr, hr, "photo") == pytest.approx(expected, abs=1e-7)
    monkeypatch.setattr(whole_image, "PIXELS_AT_ONCE", 97 * 60)
    assert score_whole_image(critic, sr, hr, "photo") == pytest.approx(expected, abs=1e-7)
    assert score_whole_image(critic, sr / 255, hr / 255, "photo") == pytest.approx(expected, abs=1e-7)


def test_images_of_different_size_are_refused():
    sr, hr = (image[0] for image in make_pair(1, 40, 64))
    with pytest.raises(InputError, match="photo"):
        score_whole_image(Mean(), sr, hr[:, :32], "photo")
