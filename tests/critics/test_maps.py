"""Maps of lost quality: of every critic, and the functions behind them."""

from __future__ import annotations

import pytest
import torch
from tiny_critics import CRITICS, pair_for, tiny

from sr_perceptual_loss import InputError, SizeRule, external
from sr_perceptual_loss.critics.maps import enlarged_sum, gradient_map, with_mean, worst_boxes
from sr_perceptual_loss.critics.whole_image import map_whole_image, score_whole_image

GRADIENT = {"efficient_pban", "rqi_ahiq", "rqi_maniqa", "rqi_topiq"}


@pytest.mark.parametrize("name", CRITICS)
def test_map_of_every_critic(name):
    critic = tiny(name, torch.float64)
    sr, hr = pair_for(critic, 2, dtype=torch.float64)
    with torch.inference_mode():
        lost = critic.score_map(sr, hr)
        assert torch.equal(lost, critic.score_map(sr, hr))
    assert lost.shape == (2, 1, *sr.shape[2:]) and lost.dtype == torch.float64 and not lost.requires_grad
    assert lost.min() >= 0 and all(p.grad is None for p in critic.parameters())
    torch.testing.assert_close(critic.score_map(sr[1:], hr[1:]), lost[1:], rtol=1e-7, atol=1e-11)
    assert critic.map_form == ("gradient" if name in GRADIENT else "local")
    means, image = lost.mean((1, 2, 3)), sr.requires_grad_()
    if critic.map_form == "local":
        torch.testing.assert_close(means, critic.card.score_range[1] - critic.score(image, hr))
    else:
        (gradient,) = torch.autograd.grad(critic.score(image, hr).sum(), image)
        changes = (gradient * (hr - image)).sum(1)
        torch.testing.assert_close(means, changes.abs().sum((1, 2)))
        assert (means >= changes.sum((1, 2)).abs()).all()
    assert critic.score_map(hr, hr).abs().max() < 1e-12
    assert critic.score_map(sr[:0], hr[:0]).shape == (0, 1, *sr.shape[2:])


@pytest.mark.parametrize("name", CRITICS)
def test_the_map_is_largest_where_the_defect_is(name):
    """One image with a defect in the upper left quarter, one with it in the lower right."""
    critic = tiny(name)
    _, hr = pair_for(critic, 2)
    sr, half = hr.clone(), (hr.shape[2] // 2, hr.shape[3] // 2)
    noise = 0.3 * torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(0))
    sr[0, :, 2:14, 2:14] += noise
    sr[1, :, -14:-2, -14:-2] += noise
    for lost, quarter in zip(critic.score_map(sr, hr)[:, 0], ((False, False), (True, True)), strict=True):
        y, x = divmod(int(lost.argmax()), lost.shape[1])
        assert (y >= half[0], x >= half[1]) == quarter


@pytest.mark.parametrize("name", sorted(set(CRITICS) - GRADIENT))
def test_parts_of_the_local_form_add_up_before_they_are_scaled(name):
    critic = tiny(name, torch.float64)
    sr, hr = pair_for(critic, 2, dtype=torch.float64)
    with torch.no_grad():
        parts = critic._lost(sr, critic.encode_target(hr))
        score = critic.score(sr, hr)
        expected = critic.card.score_range[1] - score
        if name == "texture_stats":
            expected = -score.log()
        elif name == "ssimulacra2":
            expected = sum(critic.parts.values())
        elif name == "haarpsi":
            weights = critic.maps(sr, hr)["weights"].sum(1).mean((1, 2))
            sigmoids = torch.sigmoid(torch.tensor(4.2)), torch.sigmoid(4.2 * score.sqrt())
            expected = 1.5 * weights * (sigmoids[0] - sigmoids[1])
    total = sum(part.sum(1).mean((1, 2)) for part in parts)
    torch.testing.assert_close(total, expected, rtol=1e-4 if name in ("texture_stats", "haarpsi") else 1e-7, atol=0)


def test_gradient_form_spreads_each_change_of_the_score_around_its_pixel():
    slopes = torch.tensor([1.0, -2.0, 4.0]).view(3, 1, 1)
    hr = torch.zeros(2, 3, 30, 41)
    sr = hr.clone()
    sr[0, :, 11, 25] = torch.tensor([0.5, 0.5, 0.5])
    sr[1, 0, 2, 3] = 1.0
    lost = gradient_map(lambda image: (image * slopes).sum((1, 2, 3)), sr, hr)
    torch.testing.assert_close(lost.mean((1, 2, 3)), torch.tensor([1.5, 1.0]))
    assert divmod(int(lost[0].argmax()), 41) == (11, 25)
    # Gaussian of 4 pixels, at 4 pixels' distance.
    torch.testing.assert_close(lost[0, 0, 11, 21] / lost[0, 0, 11, 25], torch.tensor(-0.5).exp())


def test_enlarging_keeps_the_means():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.rand(2, *shape, generator=generator) for shape in ((1, 5, 7), (3, 3, 2), (2, 9, 13))]
    total = enlarged_sum(parts, 9, 13)
    assert total.shape == (2, 1, 9, 13)
    torch.testing.assert_close(total.mean((1, 2, 3)), sum(part.mean((2, 3)).sum(1) for part in parts))
    assert torch.equal(with_mean(torch.zeros(1, 1, 2, 2), torch.ones(1, 1)), torch.zeros(1, 1, 2, 2))


def test_worst_boxes_do_not_overlap_and_come_in_order():
    lost = torch.zeros(64, 80)
    lost[40:48, 16:24] = 3.0
    lost[8:16, 64:72] = 1.0
    assert worst_boxes(lost, 8) == [(40, 16, 0.75), (8, 64, 0.25)]
    assert worst_boxes(torch.zeros(20, 20), 8) == []
    (ya, xa, _), (yb, xb, _), *_ = worst_boxes(torch.rand(40, 40, generator=torch.Generator().manual_seed(0)), 16)
    assert abs(ya - yb) >= 16 or abs(xa - xb) >= 16


def test_crops_cover_the_image_for_a_critic_of_fixed_size():
    critic = external(
        lambda sr, hr: -(sr - hr).abs().mean((1, 2, 3)), higher_is_better=True, input_size=SizeRule(fixed=16), name="l1"
    )
    hr = torch.full((3, 16, 40), 100, dtype=torch.uint8)
    sr = hr.clone()
    sr[:, 8, 20] = 151
    lost = map_whole_image(critic, sr, hr, "a.png")
    # The second of three crops, columns 12 to 27, sees the pixel; columns 12 to 15 and 24 to 27 are means of two crops.
    assert divmod(int(lost.argmax()), 40) == (8, 20) and lost[:, :12].max() == lost[:, 28:].max() == 0
    assert float(lost[:, 16:24].sum() + 2 * lost[:, 12:16].sum() + 2 * lost[:, 24:28].sum()) == pytest.approx(51 / 255)
    assert score_whole_image(critic, sr, hr, "a.png") == pytest.approx(-51 / 255 / 256 / 3)
    with pytest.raises(InputError, match="l1: got 16x40"):
        critic.score_map(sr[None] / 255, hr[None] / 255)


def test_a_metric_without_gradient_has_no_map():
    critic = external(lambda sr, hr: -(sr - hr).detach().abs().mean((1, 2, 3)), higher_is_better=True, name="counted")
    with pytest.raises(InputError, match="counted"):
        critic.score_map(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
