from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from pairs import make_pair
from tiny_critics import pair_for, tiny

from sr_perceptual_loss import CriticLoss, InputError, create_critic, get_card
from sr_perceptual_loss.critics.dists import DistsVgg
from sr_perceptual_loss.critics.lpips import Lpips, LpipsAlex, LpipsSqueeze, LpipsVgg

#: Scores of make_pair(1, 64, 71) with the weights in the package.
PINNED = {"lpips": -0.132261, "dists": 0.897505}


def expected_score(critic, sr, hr):
    """-sum over levels of w * (difference of the features' directions)^2 at each position, averaged."""
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    if not isinstance(critic, Lpips):
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    maps = [critic.trunk((x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)) for x in (sr, hr)]
    score = torch.zeros(len(sr), dtype=sr.dtype)
    for level, pair in enumerate(zip(*maps, strict=True)):
        a, b = (F.normalize(features, dim=1, eps=1e-10) for features in pair)
        weights = a.new_full(a.shape[1:2], 1 / 8) if isinstance(critic, Lpips) else critic.heads[level]
        score -= torch.einsum("nchw,c->n", (a - b) ** 2, weights) / a[0, 0].numel()
    return score


@pytest.mark.parametrize("name", ["lpips", "lpips_alex", "lpips_vgg", "lpips_squeeze"])
def test_the_formula(name):
    critic = tiny(name, torch.float64)
    sr, hr = pair_for(critic, dtype=torch.float64)
    torch.testing.assert_close(critic.score(sr, hr), expected_score(critic, sr, hr), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_the_weights_in_the_package_need_no_store_and_no_network(name, tmp_path, monkeypatch):
    for variable in ("SRPL_HOME", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", None)
    loss = CriticLoss(name)
    sr, hr = make_pair(1, 64, 71)
    best = {"lpips": 0.0, "dists": 1.0}[name]
    assert loss.critic.score(hr, hr).item() == pytest.approx(best, abs=1e-6)
    assert loss.critic.score(sr, hr).item() == pytest.approx(PINNED[name], abs=2e-5)
    assert not any(tmp_path.iterdir())
    assert get_card(name).weights["bundled"].bytes < 9_000_000


@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_stronger_distortions_score_lower(name):
    critic = create_critic(name).requires_grad_(False)
    _, hr = make_pair(2, 96, 96)
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    noisy = [critic.score(hr + amount * noise, hr) for amount in (0.0, 0.01, 0.04, 0.1)]
    small = [F.interpolate(hr, scale_factor=1 / factor, mode="area") for factor in (1, 2, 4)]
    soft = [critic.score(F.interpolate(image, size=(96, 96), mode="bicubic"), hr) for image in small]
    for scores in (noisy, soft):
        assert all((a > b + 1e-4).all() for a, b in itertools.pairwise(scores))


@pytest.mark.parametrize("cls", [LpipsAlex, LpipsVgg, LpipsSqueeze, DistsVgg])
def test_torchvisions_layers_and_the_fitted_parts_fill_a_published_variant(cls):
    name = {"alex": "alexnet", "squeeze": "squeezenet1_1"}.get(getattr(cls, "network", "vgg"), "vgg16")
    with torch.device("meta"):
        state = torchvision.models.get_model(name).state_dict()
        expected = {k: v.shape for k, v in cls().state_dict().items()}
    filled = cls.remap_official(state)
    assert {k: v.shape for k, v in filled.items()} == expected
    fitted = [v for k, v in filled.items() if not k.startswith("trunk.")]
    assert all((v >= 0).all() for v in fitted) and all(v.sum() > 0.1 for v in fitted)


@pytest.mark.parametrize("cls", [Lpips, LpipsVgg, DistsVgg])
def test_a_wrong_width_is_named(cls):
    with pytest.raises(InputError, match="width"):
        cls(width=0)
