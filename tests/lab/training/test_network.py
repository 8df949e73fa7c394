"""The critic that is trained: start weights, what stays fixed, published backbones."""

from __future__ import annotations

import pytest
import timm
import torch

from sr_perceptual_loss import create_critic, save_weights
from sr_perceptual_loss.critics.registry import critic_class
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.lab.training import network
from sr_perceptual_loss.lab.training.config import CriticConfig
from sr_perceptual_loss.lab.training.network import BACKBONES, build_critic, load_backbones, set_train_mode, trainable


def test_random_weights_depend_on_the_seed_and_leave_the_global_state_alone():
    config = CriticConfig("tiny_rqi_maniqa")
    state = torch.get_rng_state()
    one, same, other = (build_critic(config, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_starts_from_a_file(tmp_path):
    start = create_critic("tiny_efficient_pban", weights=None)
    save_weights(start, tmp_path / "a.safetensors")
    critic = build_critic(CriticConfig("tiny_efficient_pban", weights=str(tmp_path / "a.safetensors")), seed=3)
    assert critic.config == start.config
    assert all(torch.equal(value, start.state_dict()[key]) for key, value in critic.state_dict().items())


@pytest.mark.parametrize("name", ["tiny_efficient_pban", "tiny_rqi_ahiq", "tiny_rqi_topiq"])
def test_published_parts_are_fixed_in_gradient_and_statistics(name):
    critic = build_critic(CriticConfig(name), seed=0)
    frozen = critic.published_frozen
    assert frozen
    for key, parameter in critic.named_parameters():
        if key.startswith((*frozen, *critic.unused)):
            assert not parameter.requires_grad, key
    assert 0 < len(trainable(critic)) < len(list(critic.parameters()))
    set_train_mode(critic)
    assert critic.training
    norms = [(key, module) for key, module in critic.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    fixed = [module for key, module in norms if f"{key}.".startswith(frozen)]
    assert fixed and not any(module.training for module in fixed)
    moving = [module for _, module in norms if any(p.requires_grad for p in module.parameters())]
    assert all(module.training for module in moving)


def test_freeze_by_prefix_and_not_at_all():
    some = build_critic(CriticConfig("tiny_efficient_pban", freeze=("block2.",)), seed=0)
    assert not some.block2.q1.weight.requires_grad and some.stem[0].weight.requires_grad
    none = build_critic(CriticConfig("tiny_efficient_pban", freeze="none"), seed=0)
    fixed = {key for key, p in none.named_parameters() if not p.requires_grad}
    assert fixed and all(key.startswith(none.unused) for key in fixed)


def test_a_formula_cannot_be_trained():
    with pytest.raises(InputError, match="haarpsi"):
        build_critic(CriticConfig("haarpsi"), seed=0)


@pytest.fixture
def published(monkeypatch):
    """timm models of the right layout with random weights in place of downloads."""

    def create(model, pretrained):
        assert pretrained
        torch.manual_seed(len(model))
        with torch.random.fork_rng():
            return real(model.split(".")[0], pretrained=False)

    real = timm.create_model
    monkeypatch.setattr(network.timm, "create_model", create)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_published_backbones_fill_all_that_reaches_the_score(name, published):
    torch.manual_seed(0)
    critic = critic_class(name)()
    before = {key: value.clone() for key, value in critic.state_dict().items()}
    assert load_backbones(critic) == list(BACKBONES[name])
    after = critic.state_dict()
    places = tuple(place for prefixes in BACKBONES[name].values() for place in prefixes.values())
    inside = [k for k in after if k.startswith(places) and not k.startswith(critic.unused) and k.endswith("weight")]
    unchanged = [k for k in inside if after[k].dim() > 1 and torch.equal(after[k], before[k])]
    assert inside and not unchanged, unchanged
    outside = [k for k in after if not k.startswith(places) and not k.startswith("layer2_2.")]
    assert outside and all(torch.equal(after[k], before[k]) for k in outside)


def test_backbones_fit_the_full_size_only(published):
    with pytest.raises(WeightsError, match="efficient_pban"):
        load_backbones(critic_class("efficient_pban").tiny())
    with pytest.raises(InputError, match="haarpsi"):
        load_backbones(create_critic("haarpsi"))


def test_no_network_names_the_alternative(monkeypatch):
    def fail(model, pretrained):
        raise OSError("no route to host")

    monkeypatch.setattr(network.timm, "create_model", fail)
    with pytest.raises(WeightsError, match=r"no route to host.*critic\.backbone: random"):
        load_backbones(critic_class("efficient_pban").tiny())
