"""rqi_lite: antisymmetry, sizes, filtered strides, cost in parameters, gradients that see noise and blur."""

from __future__ import annotations

import pytest
import torch
from pairs import make_pair
from tiny_critics import tiny

from sr_perceptual_loss import CriticLoss, InputError, create_critic, get_card
from sr_perceptual_loss.critics._blocks.lite_statistics import BANDS
from sr_perceptual_loss.critics._blocks.lite_stem import Halve, local_mean, moments
from sr_perceptual_loss.critics.rqi_lite import RQILite
from sr_perceptual_loss.weights import save_weights


@pytest.fixture
def critic():
    return tiny("rqi_lite")


@pytest.mark.parametrize("size", [(64, 64), (96, 80), (67, 101)])
def test_antisymmetric_at_any_size(critic, size):
    a, b = make_pair(3, *size)
    forward, backward = critic.score(a, b), critic.score(b, a)
    assert (forward + backward).abs().max() <= 1e-6
    assert forward.abs().min() > 1e-6
    assert critic.score(a, a).abs().max() <= 1e-7


def test_full_size_is_antisymmetric_and_fits_in_five_megabytes():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = RQILite().eval()
    count = sum(p.numel() for p in critic.parameters())
    assert 1.5e6 < count < 2.5e6 and 2 * count < 5e6
    assert set(critic.state_dict()) == {name for name, _ in critic.named_parameters()}
    a, b = make_pair(1, 72, 64)
    with torch.no_grad():
        assert float(critic.score(a, b) + critic.score(b, a)) == pytest.approx(0, abs=1e-6)


def test_pairs_by_indexing_are_the_scores(critic):
    a, b = make_pair(4, 64, 72)
    features = critic.features(torch.cat([a, b]))
    first, second = torch.tensor([0, 3, 5]), torch.tensor([6, 1, 0])
    images = torch.cat([a, b])
    found = critic.compare(tuple(x[first] for x in features), tuple(x[second] for x in features))
    torch.testing.assert_close(found, critic.score(images[first], images[second]))


def test_too_small_says_what_to_do(critic):
    a, b = make_pair(1, 56, 80)
    with pytest.raises(InputError, match=r"rqi_lite: got 56x80, takes sides >= 64\. Score crops: CropPlan\(size=64\)"):
        critic.score(a, b)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"widths": (8, 8)}, r"widths: got \[8, 8\], expected three numbers"),
        ({"dim": 30, "heads": 4}, r"dim: got 30, expected a multiple of heads \(4\)"),
        ({"depths": (1, 0, 1)}, "depths: got 0"),
        ({"stem": "statistic"}, "stem: .*'statistic'.*statistics"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(InputError, match=words):
        RQILite(**arguments)


def test_strides_are_filtered():
    """A pattern of period 2 would survive plain striding as a constant; the binomial filter removes it."""
    x = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 2, 16, 16)
    assert Halve(2)(x).abs().max() < 1e-6
    assert torch.allclose(Halve(2)(torch.full((1, 2, 16, 16), 0.3)), torch.full((1, 2, 8, 8), 0.3))


def test_local_moments_are_those_of_the_window():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 32, 32, generator=generator, dtype=torch.float64)
    mean, variance = moments((x,))
    assert mean.shape == variance.shape == (1, 2, 8, 8)
    weights = (1 - ((torch.arange(32) - 13.5).abs() / 6)).clamp(min=0).double()
    window = weights[:, None] * weights[None, :] / weights.sum() ** 2
    expected = (window * x[0, 1]).sum()
    assert float(mean[0, 1, 3, 3]) == pytest.approx(float(expected))
    assert float(variance[0, 1, 3, 3]) == pytest.approx(float((window * x[0, 1] ** 2).sum() - expected**2))
    assert torch.allclose(local_mean(torch.ones_like(x), 0), torch.ones(1, 2, 8, 8, dtype=x.dtype))


def test_moments_stay_in_float32_inside_autocast(critic):
    a, b = make_pair(1, 64, 64)
    plain = critic.score(a, b)
    critic.autocast_dtype = torch.bfloat16
    mixed = critic.score(a, b)
    assert mixed.dtype == torch.float32 and not torch.equal(mixed, plain)
    assert all(f.dtype == torch.float32 for f in critic.encode_target(a)[3:])


def test_card_says_what_it_is_not():
    card = get_card("rqi_lite")
    assert card.relative and card.needs_weights and not card.weights
    assert card.differences[0].startswith("It is neither RQI nor Efficient-PBAN")


def test_a_few_steps_of_training_turn_the_gradient_against_noise_and_blur():
    """Blurred and noisy versions learn a score below 0, and the score falls on the way there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = RQILite.tiny()
    optimiser = torch.optim.Adam(critic.parameters(), lr=5e-3)

    def versions(seed, strength=1.0):
        _, gt = make_pair(4, 64, 64, seed=seed)
        noise = torch.randn(gt.shape, generator=torch.Generator().manual_seed(seed)) * 0.1 * strength
        soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(gt, (2,) * 4, mode="reflect"), 5, 1)
        return gt, (gt + noise).clamp(0, 1), gt + strength * (soft - gt)

    for step in range(60):
        strength = 0.25 * (1 + step % 4)
        gt, noisy, soft = versions(step, strength)
        scores = critic.score(torch.cat([noisy, soft]), torch.cat([gt, gt]))
        loss = (scores + 0.7 * strength).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    gt, *full = versions(99)
    _, *half = versions(99, 0.5)
    with torch.no_grad():
        for strong, weak in zip(full, half, strict=True):
            found = [critic.score(image, gt) for image in (strong, weak)]
            assert found[0].max() < -0.3 and (found[1] > found[0] + 0.05).all()


def test_a_loss_uses_the_hinge_by_its_card():
    assert CriticLoss("rqi_lite", weights=None, critic_size="tiny").form == "hinge"


@pytest.fixture
def fixed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RQILite(stem="statistics", dim=16).eval()


@pytest.mark.parametrize("size", [(64, 64), (96, 80), (67, 101)])
def test_fixed_stem_antisymmetric_and_flat_around_equal_images(fixed, size):
    a, b = make_pair(3, *size)
    forward, backward = fixed.score(a, b), fixed.score(b, a)
    assert (forward + backward).abs().max() <= 1e-6 and forward.abs().min() > 1e-6
    assert fixed.score(a, a).abs().max() <= 1e-6
    judged = b.double().requires_grad_()
    wide = fixed.double()
    near, far = (torch.autograd.grad(wide.score(judged, x.double()).sum(), judged)[0].norm() for x in (b, a))
    assert near < 0.01 * far


def test_fixed_stem_is_independent_of_the_batch(fixed):
    a, b = make_pair(4, 64, 72)
    alone = torch.cat([fixed.score(a[i : i + 1], b[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(fixed.score(a, b), alone, atol=1e-6, rtol=1e-5)


def test_unlikeness_of_the_fixed_stem_says_what_differs(fixed):
    """Equal images: none. A blur: the fine bands most. A change of brightness: the tones and no band."""
    _, gt = make_pair(1, 96, 96)
    gt = 0.1 + 0.7 * gt
    soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(gt, (1,) * 4, mode="reflect"), 3, 1)
    relation = fixed.relation

    def unlike(image):
        return relation.unlike(relation.features(image), relation.features(gt)).mean((0, 2, 3))

    assert unlike(gt).abs().max() < 1e-5
    structure = unlike(soft)[: 6 * BANDS].view(3, 2, BANDS)[:, 0, :4].mean(1)
    assert structure[0] > 2 * structure[1] > 2 * structure[2]
    brighter = unlike(gt + 0.1)
    tones = slice(6 * BANDS, 6 * BANDS + 3)
    assert float(brighter[tones][0]) == pytest.approx(0.5, abs=1e-3)
    assert brighter[: 6 * BANDS].abs().max() < 1e-6


def test_the_stem_is_part_of_the_configuration(fixed, tmp_path):
    """A file of weights says which stem it belongs to."""
    assert fixed.config == {"stem": "statistics", "dim": 16}
    assert set(RQILite.tiny().config) == {"widths", "depths", "dim", "blocks", "heads"}
    digest = save_weights(fixed, tmp_path / "rqi_lite.safetensors", training="{}", training_data="none", licence="none",
                          commercial_use=None, origin="test")  # fmt: skip
    again = create_critic("rqi_lite", weights=tmp_path / "rqi_lite.safetensors")
    a, b = make_pair(2, 64, 64)
    assert digest and torch.equal(again.score(a, b), fixed.score(a, b))
