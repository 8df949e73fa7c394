"""Options of CriticLoss against exploitation: hinge by card, augmentation, several phases, ensembles."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import Critic, CriticCard, CriticLoss, InputError, SizeRule, create_critic
from sr_perceptual_loss.critics.registry import register_critic
from sr_perceptual_loss.critics.texture_stats.critic import TextureStats
from sr_perceptual_loss.weights import save_weights


@register_critic
class Brightness(Critic):
    """score = gain * (mean(sr) - mean(hr)), with the gain as its only weight."""

    card = CriticCard("brightness_of_tests", "none", SizeRule(minimum=4), (-1.0, 1.0), relative=True)

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__({"gain": gain})
        self.gain = torch.nn.Parameter(torch.tensor(float(gain)))

    @classmethod
    def tiny(cls):
        return cls()

    def _encode_target(self, hr):
        return (hr.mean((1, 2, 3)),)

    def _compare(self, sr, hr, target):
        return self.gain * (sr.mean((1, 2, 3)) - target[0])


class Capped(Brightness):
    card = replace(Brightness.card, name="capped_of_tests", capped=True)


@pytest.fixture(autouse=True, scope="module")
def _unregister():
    yield
    from sr_perceptual_loss.critics import registry

    registry._CRITICS.pop("brightness_of_tests")


def test_form_follows_the_card_unless_it_is_given():
    _, hr = make_pair(2, 16, 16)
    better = hr + 0.1
    assert CriticLoss(Brightness()).form == "linear"
    loss = CriticLoss(Capped())
    assert loss.form == "hinge"
    assert float(loss(better, hr).detach()) == 0
    assert float(CriticLoss(Capped(), form="linear")(better, hr).detach()) == pytest.approx(-0.1, abs=1e-6)
    assert float(loss(hr - 0.1, hr).detach()) == pytest.approx(0.1, abs=1e-6)


def test_augmented_score_is_that_of_the_changed_pair():
    sr, hr = make_pair(2, 40, 40)
    loss = CriticLoss("haarpsi", augment={"shift": 4, "rescale": [0.5, 0.5], "noise": "1e-2"})
    values = []
    for iteration in (1, 2, 1):
        loss.step(iteration)
        values.append(float(loss(sr, hr)))
    assert values[0] == values[2]
    assert values[0] != values[1]
    assert values[0] != pytest.approx(-float(create_critic("haarpsi").score(sr, hr).mean()), abs=1e-4)


def test_phases_are_averaged():
    sr, hr = make_pair(2, 40, 40)
    torch.manual_seed(0)
    one, four = (CriticLoss("haarpsi", augment={"shift": 8, "phases": n}) for n in (1, 4))
    singles = [float(one(sr, hr)) for _ in range(4)]
    assert len(set(singles)) == 4
    assert float(four(sr, hr)) == pytest.approx(sum(singles) / 4, abs=1e-6)


def test_rescaling_takes_away_what_a_grid_gains():
    """A period-4 grid gives a flat picture the energy of GT's texture; at 30 % of the size it is gone."""
    draw = torch.Generator().manual_seed(0)
    hr = 0.5 + 0.15 * torch.randn(4, 3, 224, 224, generator=draw)
    grid = torch.zeros_like(hr)
    rows = torch.arange(224) % 4 < 2
    grid[..., rows, :], grid[..., ~rows, :] = 0.15, -0.15
    flat = torch.full_like(hr, 0.5)
    energy = TextureStats(scales=1, statistics=("energy",), structure="none")
    plain = CriticLoss(energy)
    defended = CriticLoss(energy, augment={"rescale": [0.3, 0.3]})
    gain = float(plain(flat, hr) - plain(flat + grid, hr))
    left = float(defended(flat, hr) - defended(flat + grid, hr))
    assert gain > 0.1
    assert left < 0.3 * gain, (left, gain)


def test_ensemble_takes_the_smallest_score(tmp_path):
    sr, hr = make_pair(3, 16, 16)
    sr = hr + torch.tensor([0.1, -0.1, 0.2]).view(3, 1, 1, 1)
    files = []
    for gain in (1.0, 3.0):
        save_weights(Brightness(gain), tmp_path / f"{gain}.safetensors")
        files.append(str(tmp_path / f"{gain}.safetensors"))
    loss = CriticLoss("brightness_of_tests", weights=files[0], ensemble=files[1:], reduction="none")
    torch.testing.assert_close(loss(sr, hr).detach(), -torch.tensor([0.1, -0.3, 0.2]), atol=1e-5, rtol=0)
    assert loss.state_dict() == {}
    assert not list(loss.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": {"noise": 0.1}, "target_cache": 10}, "leave one of them out"),
        ({"augment": {"jitter": 1}}, "jitter"),
        ({"augment": 3}, "expected a mapping"),
        ({"ensemble": "a.safetensors"}, "expected a list"),
        ({"ensemble": ["a.safetensors"]}, "ensemble: haarpsi is a formula"),
    ],
)
def test_wrong_combinations_fail_at_construction(options, message):
    with pytest.raises(InputError, match=message):
        CriticLoss("haarpsi", **options)


def test_ensemble_of_a_critic_object_is_refused():
    with pytest.raises(InputError, match="by name"):
        CriticLoss(Brightness(), ensemble=["a.safetensors"])
