"""Features of the reference for several losses of a step: never those of another image, never kept longer than it."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import Critic, CriticCard, FrozenCritic, SizeRule, create_critic
from sr_perceptual_loss.losses.target_memo import TargetMemo

# 4 * 1000 bytes of float32.
FEATURES = 1000


def encode_calls():
    """An encoder whose features are recognisable, and the list of the batches that it was given."""
    seen = []

    def encode(hr):
        seen.append(hr.clone())
        return (hr.mean((1, 2, 3))[:, None].expand(-1, FEATURES).contiguous(),)

    return encode, seen


def tiny_critic(dtype=torch.float64):
    return create_critic("tiny_rqi_topiq", weights=None).to(dtype)


def value_and_gradient(loss, sr, hr, **options):
    x = sr.clone().requires_grad_()
    value = loss(x, hr, **options)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def shared(critic):
    """A frozen critic as several losses of a list hold it."""
    frozen = FrozenCritic(critic)
    frozen.memo = TargetMemo()
    return frozen


class Counting(Critic):
    """score = w * (mean(hr) - mean((sr - hr)^2)), counting how often a reference is encoded."""

    card = CriticCard("counting", "none", SizeRule(minimum=4), (-1.0, 1.0), relative=True, needs_weights=False)

    def __init__(self, whole_batch=False):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(()))
        self.whole_batch, self.encoded = whole_batch, 0

    @classmethod
    def tiny(cls):
        return cls()

    def _encode_target(self, hr):
        self.encoded += 1
        return (self.w * (hr.mean() if self.whole_batch else hr.mean((1, 2, 3))),)

    def _compare(self, sr, hr, target):
        return target[0] - self.w * ((sr - hr) ** 2).mean((1, 2, 3))


# The memo


def test_one_step_encodes_a_shared_reference_once():
    critic = Counting()
    frozen = shared(critic)
    sr, hr = make_pair(2, 16, 16)
    first = frozen.score_checked(sr, hr)
    assert torch.equal(frozen.score_checked(sr * 0.9, hr) + 0, critic.score(sr * 0.9, hr))
    assert torch.equal(frozen.score_checked(sr, hr.detach()), first), "detach() looks at the same memory"
    assert (frozen.memo.hits, frozen.memo.misses) == (2, 1)
    # Another view of the same memory is another picture.
    assert not torch.equal(frozen.score_checked(sr, hr.flip(0)), first)
    assert torch.equal(frozen.score_checked(sr[:1], hr[:1]), first[:1])
    assert torch.equal(frozen.score_checked(sr[:1], hr[1:]), critic.score(sr[:1], hr[1:]))
    assert frozen.memo.hits == 2


def test_memo_gives_the_same_scores_and_gradients():
    critic = tiny_critic()
    frozen = shared(critic)
    sr, hr = make_pair(2, 48, 40, dtype=torch.float64)
    expected = value_and_gradient(lambda a, b: FrozenCritic(critic).score(a, b), sr, hr)
    for _ in range(3):
        found = value_and_gradient(frozen.score_checked, sr, hr)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (frozen.memo.hits, frozen.memo.misses) == (2, 1)


@pytest.mark.fault(50)
def test_memo_sees_changes_of_the_reference():
    frozen = shared(Counting())
    sr, hr = make_pair(1, 16, 16)
    array = hr.numpy()
    changes = (
        lambda: hr.mul_(0.5),
        lambda: hr[0, 0].zero_(),
        lambda: np.copyto(array, 0.25),
        lambda: hr.data.fill_(0.75),
    )
    frozen.score_checked(sr, hr)
    for change in changes:
        change()
        assert torch.equal(frozen.score_checked(sr, hr), Counting().score(sr, hr))
    assert (frozen.memo.hits, frozen.memo.misses) == (0, 1 + len(changes))


@pytest.mark.fault(50)
def test_memo_is_not_fooled_by_a_reused_address():
    frozen, addresses = shared(Counting()), []
    sr, _ = make_pair(1, 64, 64)
    for level in range(20):
        hr = torch.full_like(sr, level / 20)
        addresses.append((id(hr), hr.data_ptr()))
        assert torch.equal(frozen.score_checked(sr, hr), Counting().score(sr, hr))
        del hr
    assert len(set(addresses)) < len(addresses), "this allocator gave no address twice, so nothing was tested"
    assert frozen.memo.hits == 0


@pytest.mark.fault(50)
def test_a_rebuilt_or_moved_critic_forgets_the_features():
    critic = Counting()
    frozen = shared(critic)
    sr, hr = make_pair(1, 16, 16)
    before = frozen.score_checked(sr, hr)
    with torch.no_grad():
        critic.w.fill_(2.0)
    frozen.rebuild()
    torch.testing.assert_close(frozen.score_checked(sr, hr), 2 * before)
    assert frozen.double().score_checked(sr.double(), hr.double()).dtype == torch.float64


@pytest.mark.fault(50, 51)
def test_memo_holds_nothing_longer_than_the_reference_lives():
    encode, _ = encode_calls()
    memo = TargetMemo()
    hr = make_pair(1, 16, 16)[1]
    features = weakref.ref(memo.features(hr, encode)[0])
    storage = weakref.ref(hr.untyped_storage())
    assert features() is not None and storage() is not None
    del hr
    gc.collect()
    assert storage() is None, "the memo keeps hr alive"
    assert features() is None, "the features outlive hr"


def test_memo_of_inference_mode_is_not_used_in_training():
    frozen = shared(tiny_critic(torch.float32))
    sr, hr = make_pair(1, 48, 48)
    with torch.inference_mode():
        expected = frozen.score_checked(sr, hr)
    x = sr.clone().requires_grad_()
    score = frozen.score_checked(x, hr)
    score.sum().backward()
    torch.testing.assert_close(score.detach(), expected)
    assert x.grad.abs().sum() > 0


def test_memo_is_neither_copied_nor_pickled():
    encode, seen = encode_calls()
    memo = TargetMemo()
    hr = make_pair(1, 16, 16)[1]
    memo.features(hr, encode)
    for other in (copy.deepcopy(memo), pickle.loads(pickle.dumps(memo))):
        assert (other.hits, other.misses) == (0, 0)
        other.features(hr, encode)
        assert other.misses == 1
    assert len(seen) == 3
