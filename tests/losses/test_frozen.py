"""Frozen means frozen: whatever the host does."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from pathlib import Path

import pytest
import torch
from pairs import make_pair
from tiny_critics import tiny
from torch import nn

from sr_perceptual_loss import CriticLoss, EfficientPBANLoss, FrozenCritic, InputError, create_critic, save_weights
from sr_perceptual_loss.critics.registry import critic_class
from sr_perceptual_loss.losses.frozen import share_critics
from sr_perceptual_loss.weights.manifest import WeightsEntry


def tiny_loss(**options):
    return CriticLoss("tiny_efficient_pban", weights=None, **options)


class Host(nn.Module):
    """A trainer that owns a network and the loss as attributes."""

    def __init__(self, loss):
        super().__init__()
        self.net = nn.Conv2d(3, 3, 3, padding=1)
        self.loss = loss


@pytest.mark.fault(36, 37)
def test_nothing_of_the_critic_is_reachable_from_the_host():
    host = Host(tiny_loss())
    net = set(host.net.parameters())
    assert set(host.parameters()) == net
    assert list(host.loss.parameters()) == [] and list(host.loss.buffers()) == []
    assert set(host.state_dict()) == {"net.weight", "net.bias"}
    assert not any(isinstance(m, type(host.loss.critic)) for m in host.modules())
    buffer = io.BytesIO()
    torch.save(host.loss.state_dict(), buffer)
    assert buffer.tell() < 10_000


@pytest.mark.fault(28, 33, 35, 37)
def test_a_hostile_training_run_leaves_every_tensor_and_flag():
    loss = tiny_loss()
    before = loss.frozen.digest()
    host = Host(loss)
    host.train()
    host.requires_grad_(True)
    host.apply(lambda m: nn.init.ones_(m.weight) if hasattr(m, "weight") and m.weight is not None else None)
    optimizer = torch.optim.AdamW([*host.net.parameters(), *loss.parameters()], lr=1e-2, weight_decay=0.1)
    assert len(optimizer.param_groups[0]["params"]) == 2
    sr, hr = make_pair(2, 48, 48)
    values = []
    for _ in range(5):
        host.train()
        optimizer.zero_grad()
        value = host.loss(host.net(sr), hr)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert len(set(values)) == 5, "the network did not train"
    assert loss.frozen.digest() == before
    critic = loss.critic
    assert not critic.training and not any(m.training for m in critic.modules())
    assert not any(p.requires_grad or p.grad is not None for p in critic.parameters())


@pytest.mark.fault(33, 34)
@pytest.mark.parametrize("name", ["efficient_pban", "rqi_maniqa", "rqi_topiq"])
def test_modes_of_the_parent_change_no_score(name):
    """Dropout and batch norm statistics of the critic stay out of a host's training and validation."""
    host = Host(CriticLoss(tiny(name), crops={"size": 32, "position": "center"}))
    before = host.loss.frozen.digest()
    sr, hr = make_pair(2, 48, 48)
    expected = host.loss(sr, hr)
    for mode in (host.train, host.eval, host.train):
        mode()
        assert host.loss.training == host.training and not any(m.training for m in host.loss.critic.modules())
        assert torch.equal(host.loss(sr, hr), expected)
        with torch.no_grad():
            assert torch.equal(host.loss(sr, hr), expected), "validation sees another score than training"
    # Even somebody who reaches inside is undone at the next call.
    host.loss.critic.train()
    assert torch.equal(host.loss(sr, hr), expected)
    assert not host.loss.critic.training and host.loss.frozen.digest() == before


def test_digest_sees_one_changed_value():
    loss = tiny_loss()
    before = loss.frozen.digest()
    with torch.no_grad():
        next(iter(loss.critic.parameters())).view(-1)[0] += 1e-3
    assert loss.frozen.digest() != before


@pytest.mark.fault(24)
def test_double_is_followed_and_half_is_not():
    loss = tiny_loss()
    parameter = next(loss.critic.parameters())
    loss.half()
    assert next(loss.critic.parameters()).dtype == torch.float32
    loss.bfloat16()
    assert next(loss.critic.parameters()).dtype == torch.float32
    loss.double()
    assert next(loss.critic.parameters()).dtype == torch.float64
    sr, hr = make_pair(1, 48, 48, dtype=torch.float64)
    assert loss(sr, hr).dtype == torch.float64
    loss.float()
    assert next(loss.critic.parameters()).dtype == torch.float32
    assert parameter.shape == next(loss.critic.parameters()).shape
    before = loss(sr.float(), hr.float())
    loss.to("meta")
    assert torch.equal(loss(sr.float(), hr.float()), before)


@pytest.mark.parametrize("name", ["tiny_rqi_topiq", "lpips"])
def test_a_move_of_one_loss_leaves_those_that_share_its_critic(name):
    critic = create_critic(name, weights=None)
    loss, other = CriticLoss(critic), CriticLoss(critic)
    twin = copy.deepcopy(loss)
    sr, hr = make_pair(1, 48, 48)
    before = loss(sr, hr)
    loss.double()
    assert loss(sr.double(), hr.double()).dtype == torch.float64
    for one in (twin, other):
        assert one(sr, hr).dtype == torch.float32
        assert torch.equal(one(sr, hr), before)


@pytest.mark.fault(38)
def test_copies_share_the_critic():
    loss = tiny_loss()
    twin = copy.deepcopy(loss)
    assert twin.critic is loss.critic and twin is not loss
    averaged = torch.optim.swa_utils.AveragedModel(Host(loss))
    assert averaged.module.loss.critic is loss.critic
    sr, hr = make_pair(1, 48, 48)
    assert torch.equal(twin(sr, hr), loss(sr, hr))


@pytest.mark.fault(39)
def test_pickle_by_name_and_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(create_critic("tiny_efficient_pban", weights=None), path)
    loss = CriticLoss("tiny_efficient_pban", weights=path, crops={"size": 32, "seed": 7})
    data = pickle.dumps(loss)
    assert len(data) < 20_000, "the critic travelled along"
    other = pickle.loads(data)
    sr, hr = make_pair(2, 64, 64)
    assert torch.equal(other(sr, hr), loss(sr, hr))
    assert not other.critic.training
    save_weights(create_critic("tiny_efficient_pban", weights=None), path)
    with torch.random.fork_rng():
        torch.manual_seed(77)
        save_weights(create_critic("tiny_efficient_pban", weights=None), path)
    with pytest.raises(InputError, match="not those that were pickled"):
        pickle.loads(data)


@pytest.mark.fault(39)
def test_pickle_of_random_weights_carries_them():
    loss = tiny_loss()
    other = pickle.loads(pickle.dumps(loss))
    assert other.frozen.digest() == loss.frozen.digest()


def test_a_critic_object_is_taken_and_frozen():
    critic = create_critic("tiny_efficient_pban", weights=None).train()
    frozen = FrozenCritic(critic)
    assert frozen.critic is critic and not critic.training
    assert not any(p.requires_grad for p in critic.parameters())
    with pytest.raises(InputError, match="weights"):
        FrozenCritic(critic, weights=None)
    with pytest.raises(InputError, match="Conv2d"):
        FrozenCritic(nn.Conv2d(3, 3, 1))


def test_scores_come_from_the_form_and_the_master_stays():
    critic = create_critic("tiny_rqi_topiq", weights=None)
    frozen = FrozenCritic(critic)
    before = frozen.digest()
    assert frozen.critic is critic and frozen.form is not critic and frozen.form is frozen.form
    assert not any("bn1.running_mean" in name for name in frozen.form.semantic_model.stages.state_dict())
    sr, hr = make_pair(1, 48, 48)
    torch.testing.assert_close(frozen.score(sr, hr), critic.score(sr, hr))
    assert frozen.digest() == before
    target = frozen.encode_target(hr)
    assert torch.equal(frozen.score(sr, hr, target_features=target), frozen.score(sr, hr))
    with pytest.raises(InputError, match="9x9"):
        frozen.score(sr[..., :9, :9], hr[..., :9, :9])


def test_the_form_follows_moves_casts_and_rebuild():
    frozen = FrozenCritic("tiny_rqi_topiq", weights=None)
    sr, hr = make_pair(1, 48, 48)
    form = frozen.form
    assert frozen.to("cpu").float().form is form, "a move to where it is already costs nothing"
    assert frozen.double().form is not form and next(frozen.form.parameters()).dtype == torch.float64
    critic = frozen.critic
    wide = sr.double(), hr.double()
    before = frozen.score(*wide)
    with torch.no_grad():
        critic.semantic_model.bn1.running_mean.fill_(0.3)
        critic.score_linear[1].bias += 1
    frozen.rebuild()
    assert not torch.allclose(frozen.score(*wide), before, atol=1e-9)
    torch.testing.assert_close(frozen.score(*wide), critic.score(*wide), rtol=0, atol=1e-12)
    critic.kernels = "reference"
    frozen.rebuild()
    assert frozen.form is critic


@pytest.mark.fault(38, 39)
def test_copies_share_the_form_and_pickles_make_their_own():
    loss = CriticLoss("tiny_rqi_topiq", weights=None)
    form = loss.frozen.form
    assert copy.deepcopy(loss).frozen.form is form
    other = pickle.loads(pickle.dumps(loss))
    assert other.frozen.form is not form
    sr, hr = make_pair(1, 48, 48)
    assert torch.equal(other(sr, hr), loss(sr, hr))


@pytest.mark.fault(29)
def test_a_form_made_in_inference_mode_can_be_used_in_training():
    loss = CriticLoss("tiny_rqi_topiq", weights=None)
    sr, hr = make_pair(1, 48, 48)
    with torch.inference_mode():
        expected = loss(sr, hr)
    value = loss(sr.requires_grad_(), hr)
    value.backward()
    torch.testing.assert_close(value.detach(), expected)
    assert sr.grad.abs().sum() > 0


def test_bf16_belongs_to_the_loss_alone():
    # With unlucky random weights the cosine falls below the bound.
    torch.manual_seed(0)
    critic = create_critic("tiny_rqi_topiq", weights=None)
    plain, half = CriticLoss(critic), CriticLoss(critic, precision="bf16")
    sr, hr = make_pair(2, 48, 48)
    gradients = []
    for loss in (plain, half):
        x = sr.clone().requires_grad_()
        loss(x, hr).backward()
        assert x.grad.dtype == torch.float32 and loss(x, hr).dtype == torch.float32
        gradients.append(x.grad.flatten())
    assert critic.autocast_dtype is None and plain.frozen.form.autocast_dtype is None
    assert half.frozen.form.autocast_dtype == torch.bfloat16
    assert not torch.equal(*gradients), "bf16 changed nothing"
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9
    assert copy.deepcopy(half).frozen.precision == "bf16"
    # A critic without a form of its own is copied, so that others see no change.
    critic.kernels = "reference"
    assert FrozenCritic(critic, precision="bf16").form is not critic and critic.autocast_dtype is None
    with pytest.raises(InputError, match="precision: .*haarpsi"):
        CriticLoss("haarpsi", precision="bf16")
    with pytest.raises(InputError, match="precision: .*fp16"):
        EfficientPBANLoss("tiny_efficient_pban", weights=None, precision="fp16")


def test_equal_critics_are_shared_on_request(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(create_critic("tiny_efficient_pban", weights=None), path)
    losses = nn.ModuleList(
        [
            CriticLoss("tiny_efficient_pban", weights=path),
            EfficientPBANLoss("tiny_efficient_pban", weights=path),
            EfficientPBANLoss("tiny_efficient_pban", weights=path, precision="bf16"),
            EfficientPBANLoss("tiny_efficient_pban", weights=None),
        ]
    )
    assert share_critics(losses) == 1
    first, second, half, random = (loss.frozen for loss in losses)
    assert first is second and len({id(f) for f in (first, half, random)}) == 3
    sr, hr = make_pair(1, 48, 48)
    torch.testing.assert_close(losses[0](sr, hr), losses[1](sr, hr))
    assert (first.memo.hits, first.memo.misses) == (1, 1)
    assert share_critics(losses) == 0


@pytest.mark.parametrize("case", ["text", "Path", "home", "link", "folder link", "store"])
def test_a_pickle_finds_its_weights_from_another_working_directory(tmp_path, monkeypatch, case):
    """A relative path, and a link that leads elsewhere later, mean the file of the construction."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "link.safetensors").symlink_to("w.safetensors")
    (tmp_path / "folder").symlink_to("run")
    save_weights(tiny("rqi_topiq"), run / "w.safetensors")
    monkeypatch.chdir(run)
    monkeypatch.setenv("HOME", str(run))
    name, weights = "tiny_rqi_topiq", {
        "text": "w.safetensors",
        "Path": Path("../run/w.safetensors"),
        "home": "~/w.safetensors",
        "link": "./link.safetensors",
        "folder link": "../folder/w.safetensors",
        "store": "test",
    }[case]  # fmt: skip
    if case == "store":
        entry = WeightsEntry(tag="test", repo_id="a/b", filename="c", revision="main", sha256="", bytes=0, licence="",
                             training_data="", origin="", commercial_use=None)  # fmt: skip
        cls = critic_class(name)
        monkeypatch.setattr(cls, "card", dataclasses.replace(cls.card, weights={"test": entry}))
        monkeypatch.setenv("SRPL_HOME", "store")
        save_weights(tiny("rqi_topiq"), run / "store" / "weights" / f"{name}-test.safetensors")
    data = pickle.dumps(loss := CriticLoss(name, weights=weights))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "folder").unlink()
    sr, hr = make_pair(1, 48, 48)
    assert torch.equal(pickle.loads(data)(sr, hr), loss(sr, hr))
    assert torch.equal(copy.deepcopy(loss)(sr, hr), loss(sr, hr))
    # Once more, from the copy.
    assert torch.equal(pickle.loads(pickle.dumps(pickle.loads(data)))(sr, hr), loss(sr, hr))
