"""Frozen means frozen: whatever the host does."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from pairs import make_pair
from torch import nn

from sr_perceptual_loss import CriticLoss, FrozenCritic, InputError, create_critic, save_weights


def tiny_loss(**options):
    return CriticLoss("efficient_pban", weights=None, critic_size="tiny", **options)


class Host(nn.Module):
    """A trainer that owns a network and the loss as attributes."""

    def __init__(self, loss):
        super().__init__()
        self.net = nn.Conv2d(3, 3, 3, padding=1)
        self.loss = loss


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


def test_train_mode_changes_no_score():
    loss = tiny_loss()
    sr, hr = make_pair(2, 48, 48)
    expected = loss(sr, hr)
    loss.train()
    assert loss.training and not loss.critic.training
    assert torch.equal(loss(sr, hr), expected)
    # Even somebody who reaches inside is undone at the next call.
    loss.critic.train()
    assert torch.equal(loss(sr, hr), expected)
    assert not loss.critic.training


def test_digest_sees_one_changed_value():
    loss = tiny_loss()
    before = loss.frozen.digest()
    with torch.no_grad():
        next(iter(loss.critic.parameters())).view(-1)[0] += 1e-3
    assert loss.frozen.digest() != before


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
    loss.to("meta")
    assert next(loss.critic.parameters()).device.type == "meta"


def test_copies_share_the_critic():
    loss = tiny_loss()
    twin = copy.deepcopy(loss)
    assert twin.critic is loss.critic and twin is not loss
    averaged = torch.optim.swa_utils.AveragedModel(Host(loss))
    assert averaged.module.loss.critic is loss.critic
    sr, hr = make_pair(1, 48, 48)
    assert torch.equal(twin(sr, hr), loss(sr, hr))


def test_pickle_by_name_and_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(create_critic("efficient_pban", weights=None, size="tiny"), path)
    loss = CriticLoss("efficient_pban", weights=path, crops={"size": 32, "seed": 7})
    data = pickle.dumps(loss)
    assert len(data) < 20_000, "the critic travelled along"
    other = pickle.loads(data)
    sr, hr = make_pair(2, 64, 64)
    assert torch.equal(other(sr, hr), loss(sr, hr))
    assert not other.critic.training
    save_weights(create_critic("efficient_pban", weights=None, size="tiny"), path)
    with torch.random.fork_rng():
        torch.manual_seed(77)
        save_weights(create_critic("efficient_pban", weights=None, size="tiny"), path)
    with pytest.raises(InputError, match="not those that were pickled"):
        pickle.loads(data)


def test_pickle_of_random_weights_carries_them():
    loss = tiny_loss()
    other = pickle.loads(pickle.dumps(loss))
    assert other.frozen.digest() == loss.frozen.digest()


def test_a_critic_object_is_taken_and_frozen():
    critic = create_critic("efficient_pban", weights=None, size="tiny").train()
    frozen = FrozenCritic(critic)
    assert frozen.critic is critic and not critic.training
    assert not any(p.requires_grad for p in critic.parameters())
    with pytest.raises(InputError, match="these belong to a name"):
        FrozenCritic(critic, weights=None)
    with pytest.raises(InputError, match="expected a registered name or a Critic"):
        FrozenCritic(nn.Conv2d(3, 3, 1))
