from __future__ import annotations

import numpy as np
import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import InputError, create_critic, list_critics


@pytest.fixture
def calculate():
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    from basicsr.metrics import calculate_metric

    return lambda data, **options: calculate_metric(data, options)


def as_bgr(image):
    return (image[0].permute(1, 2, 0).flip(2) * 255).round().byte().numpy()


def images(height=64, width=72):
    sr, hr = make_pair(1, height, width)
    sr, hr = ((x * 255).round() / 255 for x in (sr, hr))
    return sr, hr, {"img": as_bgr(sr), "img2": as_bgr(hr)}


@pytest.mark.fault(70)
def test_equals_the_rgb_float_path(calculate):
    sr, hr, data = images()
    expected = create_critic("haarpsi").score(sr[..., 4:-4, 4:-4], hr[..., 4:-4, 4:-4]).item()
    found = calculate(data, type="calculate_haarpsi", crop_border=4, better="higher")
    assert found == pytest.approx(expected, abs=1e-6)
    # The channel order matters to it.
    swapped = {key: value[:, :, ::-1] for key, value in data.items()}
    assert calculate(swapped, type="calculate_haarpsi", crop_border=4) != pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", list_critics())
def test_every_critic_is_a_metric_and_repeats_itself(calculate, name):
    weights = {"weights": None, "critic_size": "tiny"} if create_needs_weights(name) else {}
    _, _, data = images()
    options = {"type": f"calculate_{name}", **weights}
    first = calculate(data, **options)
    assert isinstance(first, float) and np.isfinite(first)
    assert calculate(data, **options) == first
    if name == "rqi_maniqa":
        assert calculate(data, **{**options, "type": "calculate_rqi"}) == first
        assert calculate(data, **options, crops={"count": 2, "position": "random", "seed": 4}) != first


def create_needs_weights(name):
    from sr_perceptual_loss import get_card

    return get_card(name).needs_weights


def test_the_critic_is_built_once_per_process(calculate, monkeypatch):
    from sr_perceptual_loss.integrations.basicsr import metrics

    built = []
    real = metrics.FrozenCritic
    monkeypatch.setattr(metrics, "FrozenCritic", lambda *a, **k: built.append(a) or real(*a, **k))
    metrics._cached_critic.cache_clear()
    _, _, data = images()
    for _ in range(3):
        calculate(data, type="calculate_haarpsi")
    assert len(built) == 1


def test_gray_images_are_repeated(calculate):
    sr, hr, _ = images()
    gray = [as_bgr(x)[:, :, 0] for x in (sr, hr)]
    three = [np.repeat(g[:, :, None], 3, axis=2) for g in gray]
    values = [calculate({"img": a, "img2": b}, type="calculate_haarpsi") for a, b in (gray, three)]
    assert values[0] == values[1]


def test_bad_metrics(calculate):
    _, _, data = images()
    with pytest.raises(InputError, match="img2 is missing"):
        calculate({"img": data["img"]}, type="calculate_haarpsi")
    with pytest.raises(InputError, match="img: got dtype float32"):
        calculate({"img": data["img"].astype(np.float32), "img2": data["img2"]}, type="calculate_haarpsi")
    with pytest.raises(InputError, match="better: got 'lower'"):
        calculate(data, type="calculate_haarpsi", better="lower")
    with pytest.raises(TypeError, match="crop_boarder"):
        calculate(data, type="calculate_haarpsi", crop_boarder=4)


def test_scores_move_the_right_way(calculate):
    sr, _, data = images()
    noise = torch.randn(sr.shape, generator=torch.Generator().manual_seed(0))
    worse = {"img": as_bgr((sr + 0.2 * noise).clamp(0, 1)), "img2": data["img2"]}
    same = {"img": data["img2"], "img2": data["img2"]}
    scores = [calculate(d, type="calculate_haarpsi") for d in (worse, data, same)]
    assert scores == sorted(scores) and scores[2] == pytest.approx(1.0, abs=1e-5)
