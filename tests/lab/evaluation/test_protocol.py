"""Protocols: which crops a critic sees, where they lie, how their scores are averaged."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.errors import InputError, NonFiniteError, UnknownNameError
from sr_perceptual_loss.lab.evaluation.protocol import PROTOCOLS, Protocol, get_protocol, score_pair


class Recorder(Critic):
    """Keeps what it gets; the score is the mean of sr's third channel."""

    card = CriticCard(name="recorder", paper="-", input_size=SizeRule(), score_range=(0, 1), relative=False)

    def __init__(self, fixed=None, minimum=1, multiple_of=1):
        super().__init__(input_size=SizeRule(fixed=fixed, minimum=minimum, multiple_of=multiple_of))
        self.calls = []

    @classmethod
    def tiny(cls):
        return cls()

    def _encode_target(self, hr):
        return (hr,)

    def _compare(self, sr, hr, target):
        assert not torch.is_grad_enabled()
        self.calls.append((sr.clone(), hr.clone()))
        return sr[:, 2].mean((1, 2))

    def shapes(self):
        return [tuple(sr.shape) for sr, _ in self.calls]

    def corners(self):
        """(row, column) of the top left pixel of each crop of an image made by :func:`positions`."""
        return [tuple((c[:2, 0, 0] * 128).round().int().tolist()) for sr, _ in self.calls for c in sr]


def positions(height, width):
    """Channel 0 holds the row, channel 1 the column (over 128), channel 2 a ramp."""
    rows = torch.arange(height).view(-1, 1).expand(height, width) / 128
    columns = torch.arange(width).view(1, -1).expand(height, width) / 128
    return torch.stack([rows, columns, (rows + columns) / 2])


def run(critic, height, width, name="paper", **options):
    image = positions(height, width)
    return score_pair(critic, image, image * 0.5, PROTOCOLS[name], **({"seed": 0} | options))


@pytest.mark.fault(72)
@pytest.mark.parametrize(
    ("name", "height", "width", "counts"),
    [
        # (height, width) of the crop is 16; one count per scale that is large enough
        ("paper", 64, 50, [20, 20, 20]),
        ("paper", 47, 60, [20, 20]),  # a third of 47 is 15
        ("paper", 31, 90, [20]),
        ("paper", 17, 16, [20]),
        ("released", 64, 65, [20, 10, 1]),  # a quarter of it is exactly 16x16: one crop
        ("released", 64, 69, [20, 10, 5]),  # 16x17
        ("released", 63, 200, [20, 10]),
        ("released", 31, 200, [20]),
        ("single_scale", 64, 64, [20]),
        ("centre", 64, 50, [1]),
    ],
)
def test_crop_counts_per_scale(name, height, width, counts):
    critic = Recorder(fixed=16)
    run(critic, height, width, name, crops_at_once=20)
    assert [len(sr) for sr, _ in critic.calls] == counts
    assert all(shape[1:] == (3, 16, 16) for shape in critic.shapes())


@pytest.mark.fault(71)
@pytest.mark.parametrize("name", ["paper", "released", "single_scale", "centre", "full"])
def test_image_of_exactly_the_input_size_is_scored_once_as_it_is(name):
    critic, image = Recorder(fixed=16), positions(16, 16)
    assert score_pair(critic, image, image, PROTOCOLS[name], seed=3) == pytest.approx(float(image[2].mean()))
    assert critic.shapes() == [(1, 3, 16, 16)]


@pytest.mark.parametrize("side", [32, 33])
def test_halved_side_equal_to_the_input_is_square_and_counts_ten_times(side):
    """The released wrapper fails here; 20 crops of scale 1 and 10 equal ones of scale 1/2 make the mean."""
    critic, image = Recorder(fixed=16), positions(side, side)
    value = score_pair(critic, image, image, PROTOCOLS["released"], seed=0, crops_at_once=64)
    assert critic.shapes() == [(20, 3, 16, 16), (1, 3, 16, 16)]
    first, second = (sr[:, 2].mean((1, 2)).double().sum() for sr, _ in critic.calls)
    assert value == pytest.approx(float((first + 10 * second) / 30))


@pytest.mark.fault(71)
@pytest.mark.parametrize(("height", "width"), [(15, 40), (40, 15), (15, 15)])
def test_slightly_smaller_than_the_input_is_an_error_with_the_cure(height, width):
    with pytest.raises(InputError, match=rf"16x16.*{height}x{width}"):
        run(Recorder(fixed=16), height, width)


@pytest.mark.fault(72)
def test_crops_lie_at_the_same_place_in_both_images_at_all_scales():
    """The image holds the position of each pixel; its half as the reference must be cut at the same places."""
    critic = Recorder(fixed=16)
    run(critic, 64, 50, "paper", crops_at_once=20)
    assert [len(sr) for sr, _ in critic.calls] == [20, 20, 20]
    for sr, hr in critic.calls:
        torch.testing.assert_close(hr, sr * 0.5)
    corners = critic.corners()[:20]
    assert all(0 <= row <= 48 and 0 <= column <= 34 for row, column in corners)
    assert len(set(corners)) > 15
    row, column = corners[7]
    torch.testing.assert_close(critic.calls[0][0][7], positions(64, 50)[:, row : row + 16, column : column + 16])


@pytest.mark.fault(72)
def test_boxes_depend_on_seed_and_size_only():
    def corners(height=40, width=33, **options):
        critic = Recorder(fixed=16)
        scores.append(run(critic, height, width, "single_scale", **options))
        return critic.corners()

    scores = []

    first = corners()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert corners() == first
    assert corners(crops_at_once=3) == first
    assert scores[2] == pytest.approx(scores[0], rel=1e-6)
    assert torch.equal(torch.get_rng_state(), state)
    assert corners(seed=1) != first
    assert [row for row, _ in corners(40, 34)] != [row for row, _ in first]


def test_scaled_images_are_bilinear_and_successive_only_where_released():
    image = torch.rand(3, 68, 68, generator=torch.Generator().manual_seed(0))
    half = F.interpolate(image[None], size=(34, 34), mode="bilinear", align_corners=False)
    quarter = F.interpolate(half, size=(17, 17), mode="bilinear", align_corners=False)[0]
    third = F.interpolate(image[None], size=(22, 22), mode="bilinear", align_corners=False)[0]
    critic = Recorder(fixed=16)
    for name, scaled in (("released", quarter), ("paper", third)):
        critic.calls.clear()
        score_pair(critic, image, image, PROTOCOLS[name], seed=0, crops_at_once=64)
        last = critic.calls[-1][0]
        free = scaled.shape[1] - 16
        windows = [scaled[:, r : r + 16, c : c + 16] for r in range(free + 1) for c in range(free + 1)]
        assert all(any(torch.equal(crop, window) for window in windows) for crop in last)


def test_mean_over_all_crops():
    image, critic = positions(40, 40), Recorder(fixed=16)
    value = score_pair(critic, image, image, Protocol("p", (1.0, 0.5), (6, 2)), seed=0)
    scores = torch.cat([sr[:, 2].mean((1, 2)).double() for sr, _ in critic.calls])
    assert len(scores) == 8 and value == pytest.approx(float(scores.mean()))


def test_centre_crop():
    critic = Recorder(fixed=16)
    run(critic, 40, 33, "centre")
    assert critic.corners() == [(12, 8)]
    free = Recorder()
    run(free, 40, 33, "centre")
    assert free.shapes() == [(1, 3, 40, 33)]
    run(free, 40, 33, "centre", crop_size=10)
    assert free.shapes()[1] == (1, 3, 10, 10)


def test_free_size_critic_sees_whole_images_or_crops_of_the_size_asked_for():
    critic = Recorder(minimum=12)
    run(critic, 48, 30)
    assert critic.shapes() == [(1, 3, 48, 30), (1, 3, 24, 15)]  # a third, 16x10, is below the minimum
    critic.calls.clear()
    run(critic, 48, 30, crop_size=14, crops_at_once=20)
    assert critic.shapes() == [(20, 3, 14, 14), (20, 3, 14, 14)]
    critic.calls.clear()
    run(critic, 48, 30, crop_size=40, crops_at_once=20)
    assert critic.shapes() == [(20, 3, 30, 30)]  # larger than the image: crops of the shorter side, scale 1 only


def test_full_and_multiples():
    critic = Recorder(minimum=8, multiple_of=8)
    run(critic, 45, 33, "full")
    assert critic.shapes() == [(1, 3, 40, 32)]
    assert critic.corners() == [(2, 0)]
    with pytest.raises(InputError, match="'full'.*16x16.*45x33"):
        run(Recorder(fixed=16), 45, 33, "full")
    with pytest.raises(InputError, match="crop_size 8"):
        run(critic, 45, 33, "full", crop_size=8)


@pytest.mark.parametrize(
    ("critic", "size"), [(Recorder(fixed=16), 15), (Recorder(minimum=8), 7), (Recorder(multiple_of=4), 10)]
)
def test_crop_sizes_that_the_critic_does_not_take(critic, size):
    with pytest.raises(InputError, match=f"crop_size.* {size}"):
        run(critic, 40, 40, crop_size=size)


def test_names():
    assert sorted(PROTOCOLS) == ["centre", "full", "paper", "released", "single_scale"]
    assert get_protocol("paper").crops == (20, 20, 20)
    assert get_protocol("released").scales == (1, 0.5, 0.25)
    with pytest.raises(UnknownNameError, match="'papers'.*'paper'"):
        get_protocol("papers")


def test_refuses_shapes_and_non_finite_scores():
    image = positions(20, 20)
    with pytest.raises(InputError, match="equal size"):
        score_pair(Recorder(), image, image[:, 1:], PROTOCOLS["full"], seed=0)
    with pytest.raises(InputError, match=r"\(3, H, W\)"):
        score_pair(Recorder(), image[None], image[None], PROTOCOLS["full"], seed=0)
    bad = image.clone()
    bad[2, 5, 5] = float("nan")
    with pytest.raises(NonFiniteError, match="recorder.*nan"):
        score_pair(Recorder(), bad, image, PROTOCOLS["full"], seed=0)
