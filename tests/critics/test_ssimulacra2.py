from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from gradients import score_and_gradient
from pairs import make_pair

from sr_perceptual_loss import CriticLoss, create_critic
from sr_perceptual_loss.critics import whole_image
from sr_perceptual_loss.critics.ssimulacra2 import PARTS, distances, error_maps, features, to_score
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss

#: Scores of the PyPI package ssimulacra2 0.3.0 for PNG files of these images.
PUBLISHED = {"box blur": 84.29075209721819, "pattern": 65.01151220326197, "colour": 76.28511710622936}


def eight_bits(image):
    return (image.clamp(0, 1) * 255).round() / 255


def picture(height=251, width=300):
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (height, width)), indexing="ij")
    planes = [
        0.5
        + 0.3 * torch.sin(x / (7 + 3 * c) + (y / 31) ** 2) * torch.cos(y / (11 - 2 * c))
        + 0.15 * torch.sin(x * y / (900 + c))
        for c in range(3)
    ]
    return torch.stack(planes)[None]


def distorted(hr, kind):
    if kind == "box blur":
        return F.avg_pool2d(F.pad(hr, (1, 1, 1, 1), mode="replicate"), 3, 1)
    if kind == "pattern":
        steps = torch.arange(hr.numel(), dtype=torch.float64)
        return hr + 0.06 * torch.sin(1e4 * torch.sin(12.9898 * steps)).view_as(hr)
    return hr * torch.tensor([1.05, 1.0, 0.9], dtype=torch.float64).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def critic():
    return create_critic("ssimulacra2")


def parts(sr, hr):
    maps = error_maps(sr, features(hr))
    means, fourths = (torch.stack([m.mean((2, 3)) for m in group], 1) for group in (maps, [m**4 for m in maps]))
    return distances(means, fourths)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_equals_the_published_program(critic, kind):
    hr = picture()
    sr, hr = eight_bits(distorted(hr, kind)), eight_bits(hr)
    assert abs(critic.double().score(sr, hr).item() - PUBLISHED[kind]) < 1e-6
    assert abs(critic.float().score(sr.float(), hr.float()).item() - PUBLISHED[kind]) < 1e-3


def test_equals_the_package(critic, tmp_path):
    package = pytest.importorskip("ssimulacra2")
    from PIL import Image

    sr, hr = (eight_bits(image) for image in make_pair(1, 257, 226, dtype=torch.float64))
    for name, image in (("sr", sr), ("hr", hr)):
        array = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    expected = package.compute_ssimulacra2(str(tmp_path / "hr.png"), str(tmp_path / "sr.png"))
    assert abs(critic.float().score(sr.float(), hr.float()).item() - expected) < 1e-3


def test_equal_images_score_100_with_zero_gradient(critic):
    for dtype in (torch.float32, torch.float64):
        _, hr = make_pair(2, 64, 70, dtype=dtype)
        score, gradient = score_and_gradient(critic.to(dtype), hr, hr)
        assert (score == 100).all() and (gradient == 0).all()
    critic.float()


def test_worse_images_score_less_and_float32_keeps_small_differences(critic):
    hr = picture().float()
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    scores = [critic.score(hr + amount * noise, hr).item() for amount in (0.0, 1e-3, 0.01, 0.03, 0.1, 0.5)]
    assert all(a > b for a, b in pairwise(scores)) and scores[-1] < 0
    sr = hr + 1e-3 * noise
    precise = create_critic("ssimulacra2").double().score(sr.double(), hr.double()).item()
    assert abs(scores[1] - precise) < 1e-3


def test_ringing_and_blur_are_told_apart(critic):
    hr = picture().float()
    soft = distorted(hr, "box blur")
    finest = [error_maps(sr, features(hr))[0].mean((0, 2, 3)).view(3, 3).mean(1) for sr in (soft, 2 * hr - soft)]
    assert finest[0][2] > 10 * finest[0][1] and finest[1][1] > 10 * finest[1][2]
    assert parts(soft, hr)[0, 2] > 1.5 * parts(2 * hr - soft, hr)[0, 2]
    torch.testing.assert_close(to_score(parts(soft, hr).sum(1)), critic.float().score(soft, hr))


def test_a_missing_scale_leaves_the_weights_of_the_others_alone():
    means, fourths = torch.rand(2, 2, 6, 9, generator=torch.Generator().manual_seed(0))
    for scales in (1, 4, 5):
        kept = (torch.arange(6) < scales).view(1, 6, 1)
        torch.testing.assert_close(
            distances(means[:, :scales], fourths[:, :scales]), distances(means * kept, fourths * kept)
        )


def test_gradient_is_exact_and_improves_the_image(critic):
    sr, hr = make_pair(1, 17, 20, dtype=torch.float64)
    critic.double()
    assert torch.autograd.gradcheck(lambda image: critic.score(image, hr), sr.requires_grad_(), fast_mode=True)
    sr, hr = make_pair(1, 64, 64, dtype=torch.float64)
    score, gradient = score_and_gradient(critic, sr, hr)
    better = critic.score(sr + 1e-4 * gradient / gradient.norm(), hr)
    torch.testing.assert_close(better - score, 1e-4 * gradient.norm()[None], rtol=0.05, atol=0)
    assert F.cosine_similarity(gradient.flatten(), (hr - sr).flatten(), dim=0) > 0
    critic.float()


@pytest.mark.parametrize("value", [0.0, -0.2, 1.0, 1.3])
def test_black_white_and_overshoot_have_a_gradient(critic, value):
    _, hr = make_pair(1, 40, 40)
    hr = hr * 0.5 + 0.25
    sr = hr.clone()
    sr[..., 10:20, 10:20] = value
    _, gradient = score_and_gradient(critic, sr, hr)
    inside = gradient[..., 12:18, 12:18].mean()
    assert torch.isfinite(gradient).all() and (inside > 0 if value < 0.5 else inside < 0)


def test_strips_give_the_score_of_the_whole_image(critic, monkeypatch):
    # Two strips; the second has one row of its own.
    sr, hr = make_pair(1, 32 * 16 + 1, 230)
    expected = critic.score(sr, hr).item()
    monkeypatch.setattr(whole_image, "PIXELS_AT_ONCE", 230 * (2 * critic.halo + 512))
    assert abs(whole_image.score_whole_image(critic, sr[0], hr[0], "image") - expected) < 1e-3


@pytest.mark.parametrize("crops", [None, {"size": 32, "count": 2}])
def test_the_parts_are_terms_of_the_loss(crops):
    sr, hr = make_pair(2, 48, 48)
    loss = CriticLoss("ssimulacra2", crops=crops)
    value = loss(sr, hr)
    assert loss.term_names == ("score", *PARTS)
    torch.testing.assert_close(loss.terms["score"], -value)
    if crops is None:
        expected = parts(sr, hr).mean(0)
        torch.testing.assert_close(torch.stack([loss.terms[name] for name in PARTS]), expected)
    assert all(loss.terms[name] > 0 for name in PARTS)
    ratio = SSIMPerceptualRatioLoss("ssimulacra2", crops=crops)
    ratio(sr.requires_grad_(), hr)
    assert all(ratio.terms[name] > 0 for name in PARTS)
