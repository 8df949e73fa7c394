"""Features of the reference used again: never those of another picture, never longer than wanted."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import Critic, CriticCard, CriticLoss, FrozenCritic, InputError, SizeRule, create_critic
from sr_perceptual_loss.losses.target_memo import MEGABYTE, TargetCache, TargetMemo, image_digests

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
    return create_critic("rqi_topiq", weights=None, size="tiny").to(dtype)


def value_and_gradient(loss, sr, hr, **options):
    x = sr.clone().requires_grad_()
    value = loss(x, hr, **options)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


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
    frozen = FrozenCritic(critic)
    sr, hr = make_pair(2, 16, 16)
    first = frozen.score(sr, hr)
    assert torch.equal(frozen.score(sr * 0.9, hr) + 0, critic.score(sr * 0.9, hr))
    assert torch.equal(frozen.score(sr, hr.detach()), first), "detach() looks at the same memory"
    assert (frozen.memo.hits, frozen.memo.misses) == (2, 1)
    # Another view of the same memory is another picture.
    assert not torch.equal(frozen.score(sr, hr.flip(0)), first)
    assert torch.equal(frozen.score(sr[:1], hr[:1]), first[:1])
    assert torch.equal(frozen.score(sr[:1], hr[1:]), critic.score(sr[:1], hr[1:]))
    assert frozen.memo.hits == 2


def test_memo_gives_the_same_scores_and_gradients():
    critic = tiny_critic()
    frozen = FrozenCritic(critic)
    sr, hr = make_pair(2, 48, 40, dtype=torch.float64)
    expected = value_and_gradient(lambda a, b: FrozenCritic(critic).score(a, b), sr, hr)
    for _ in range(3):
        found = value_and_gradient(frozen.score, sr, hr)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (frozen.memo.hits, frozen.memo.misses) == (2, 1)


@pytest.mark.fault(50)
def test_memo_sees_changes_of_the_reference():
    frozen = FrozenCritic(Counting())
    sr, hr = make_pair(1, 16, 16)
    array = hr.numpy()
    changes = (
        lambda: hr.mul_(0.5),
        lambda: hr[0, 0].zero_(),
        lambda: np.copyto(array, 0.25),
        lambda: hr.data.fill_(0.75),
    )
    frozen.score(sr, hr)
    for change in changes:
        change()
        assert torch.equal(frozen.score(sr, hr), Counting().score(sr, hr))
    assert (frozen.memo.hits, frozen.memo.misses) == (0, 1 + len(changes))


@pytest.mark.fault(50)
def test_memo_is_not_fooled_by_a_reused_address():
    frozen, addresses = FrozenCritic(Counting()), []
    sr, _ = make_pair(1, 64, 64)
    for level in range(20):
        hr = torch.full_like(sr, level / 20)
        addresses.append((id(hr), hr.data_ptr()))
        assert torch.equal(frozen.score(sr, hr), Counting().score(sr, hr))
        del hr
    assert len(set(addresses)) < len(addresses), "this allocator gave no address twice, so nothing was tested"
    assert frozen.memo.hits == 0


@pytest.mark.fault(50)
def test_memo_sees_changes_of_the_critic():
    critic = Counting()
    frozen = FrozenCritic(critic)
    sr, hr = make_pair(1, 16, 16)
    before = frozen.score(sr, hr)
    with torch.no_grad():
        critic.w.fill_(2.0)
    torch.testing.assert_close(frozen.score(sr, hr), 2 * before)
    critic.load_state_dict({"w": torch.tensor(3.0)})
    torch.testing.assert_close(frozen.score(sr, hr), 3 * before)
    assert frozen.double().score(sr.double(), hr.double()).dtype == torch.float64


@pytest.mark.fault(50, 51)
def test_memo_holds_nothing_longer_than_the_reference_lives():
    encode, _ = encode_calls()
    memo, owner = TargetMemo(), object()
    hr = make_pair(1, 16, 16)[1]
    features = weakref.ref(memo.features(hr, owner, encode)[0])
    storage = weakref.ref(hr.untyped_storage())
    assert features() is not None and storage() is not None
    del hr
    gc.collect()
    assert storage() is None, "the memo keeps hr alive"
    assert features() is None, "the features outlive hr"


def test_memo_of_inference_mode_is_not_used_in_training():
    frozen = FrozenCritic(tiny_critic(torch.float32))
    sr, hr = make_pair(1, 48, 48)
    with torch.inference_mode():
        expected = frozen.score(sr, hr)
    x = sr.clone().requires_grad_()
    score = frozen.score(x, hr)
    score.sum().backward()
    torch.testing.assert_close(score.detach(), expected)
    assert x.grad.abs().sum() > 0


def test_memo_is_neither_copied_nor_pickled():
    encode, seen = encode_calls()
    memo, owner = TargetMemo(), object()
    hr = make_pair(1, 16, 16)[1]
    memo.features(hr, owner, encode)
    for other in (copy.deepcopy(memo), pickle.loads(pickle.dumps(memo))):
        assert (other.hits, other.misses) == (0, 0)
        other.features(hr, owner, encode)
        assert other.misses == 1
    assert len(seen) == 3


# The cache


def test_cached_features_do_not_depend_on_the_batch():
    encode, seen = encode_calls()
    cache = TargetCache(1)
    _, hr = make_pair(4, 16, 16)
    cache.features(hr[[0, 1]], "w", encode)
    (found,) = cache.features(hr[[2, 1, 0, 3, 2]], "w", encode)
    assert torch.equal(found, encode(hr[[2, 1, 0, 3, 2]])[0])
    assert torch.equal(seen[1], hr[[2, 3]]), "only what is missing is encoded, each picture once"
    assert (cache.hits, cache.misses, len(cache)) == (3, 4, 4)


def test_cached_loss_equals_the_loss():
    critic = tiny_critic()
    plain, cached = CriticLoss(critic, reduction="none"), CriticLoss(critic, reduction="none", target_cache="64")
    sr, hr = make_pair(3, 48, 40, dtype=torch.float64)
    expected = value_and_gradient(plain, sr, hr)
    for _ in range(2):
        found = value_and_gradient(cached, sr, hr.clone())
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (cached.target_cache.hits, cached.target_cache.misses) == (3, 3)
    for found, whole in zip(value_and_gradient(cached, sr[[2, 0]], hr[[2, 0]]), expected, strict=True):
        torch.testing.assert_close(found, whole[[2, 0]], rtol=1e-12, atol=1e-14)
    assert cached.target_cache.misses == 3


@pytest.mark.fault(50)
def test_cache_is_never_stale():
    encode, seen = encode_calls()
    cache = TargetCache(1)
    _, hr = make_pair(1, 16, 16)
    cache.features(hr, "w", encode)
    hr[0, 0, 0, 0] += 1e-6
    for image, owner in ((hr, "w"), (hr, "other"), (hr.double(), "w"), (hr.reshape(1, 3, 8, 32), "w")):
        assert torch.equal(cache.features(image, owner, encode)[0], encode(image)[0])
    assert (cache.hits, cache.misses) == (0, 5)
    assert len(seen) == 9


@pytest.mark.fault(50)
def test_cached_loss_sees_changed_weights_precision_and_kernels():
    critic = Counting()
    loss = CriticLoss(critic, target_cache=1)
    sr, hr = make_pair(1, 16, 16)
    before = loss(sr, hr)
    with torch.no_grad():
        critic.w.fill_(2.0)
    torch.testing.assert_close(loss(sr, hr), 2 * before)
    critic.kernels = "reference"
    loss(sr, hr)
    critic.autocast_dtype = torch.bfloat16
    loss(sr, hr)
    assert (loss.target_cache.hits, loss.target_cache.misses) == (0, 4)
    loss(sr, hr)
    assert loss.target_cache.hits == 1


@pytest.mark.fault(51)
def test_cache_is_bounded_in_bytes_and_drops_the_least_recently_used():
    encode, _ = encode_calls()
    cache = TargetCache(3.5 * 4 * FEATURES / MEGABYTE)
    _, hr = make_pair(5, 8, 8)
    for i in (0, 1, 2, 0, 3):
        cache.features(hr[i : i + 1], "w", encode)
        assert cache.bytes == 4 * FEATURES * len(cache) <= cache.megabytes * MEGABYTE
    assert (len(cache), cache.hits) == (3, 1)
    cache.features(hr[[0, 2, 3]], "w", encode)
    assert cache.hits == 4
    cache.features(hr[[1]], "w", encode)
    assert (cache.hits, cache.misses) == (4, 5), "image 1 was the one to go"
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)
    small = TargetCache(10 / MEGABYTE)
    assert torch.equal(small.features(hr, "w", encode)[0], encode(hr)[0])
    assert len(small) == small.bytes == 0


@pytest.mark.fault(51)
def test_an_entry_does_not_hold_its_batch():
    encode, _ = encode_calls()
    cache = TargetCache(1)
    cache.features(make_pair(4, 8, 8)[1], "w", encode)
    assert all(t.untyped_storage().nbytes() == 4 * FEATURES for entry in cache._entries.values() for t in entry)


def test_cache_is_copied_and_pickled_without_contents():
    loss = CriticLoss(create_critic("haarpsi"), target_cache=2)
    sr, hr = make_pair(2, 32, 32)
    expected = loss(sr, hr)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other.target_cache.megabytes == 2 and len(other.target_cache) == 0
        assert torch.equal(other(sr, hr), expected)
        assert other.target_cache.misses == 2
    assert len(loss.target_cache) == 2


def test_explicit_keys_replace_the_digests():
    loss = CriticLoss(Counting(), target_cache=1, crops={"size": 8, "count": 2, "position": "grid"})
    sr, hr = make_pair(2, 16, 16)
    expected = loss(sr, hr, target_key=["a", "b"])
    torch.testing.assert_close(expected, CriticLoss(Counting(), crops=loss.crops)(sr, hr))
    torch.testing.assert_close(loss(sr[[1]], hr[[1]], target_key=["b"]), loss(sr[[1]], hr[[1]]))
    assert (loss.target_cache.hits, loss.target_cache.misses) == (2, 4 + 2), "keys and digests do not meet"
    with pytest.raises(InputError, match="got 1 keys for 2 images"):
        loss(sr, hr, target_key=["a"])
    with pytest.raises(InputError, match="has no target_cache"):
        CriticLoss(Counting())(sr, hr, target_key=["a", "b"])
    with pytest.raises(InputError, match="the crops are random"):
        CriticLoss(Counting(), target_cache=1, crops=8)(sr, hr, target_key=["a", "b"])
    assert torch.isfinite(CriticLoss(Counting(), target_cache=1, crops=16)(sr, hr, target_key=["a", "b"]))


def test_features_of_a_whole_batch_are_refused():
    sr, hr = make_pair(2, 16, 16)
    with pytest.raises(InputError, match="expected the images along the first dimension"):
        CriticLoss(Counting(whole_batch=True), target_cache=1)(sr, hr)


@pytest.mark.parametrize(
    ("value", "words"), [(0, "expected a limit in MB"), (-1, "target_cache: got -1"), ("big", "the text 'big'")]
)
def test_a_limit_that_is_none(value, words):
    with pytest.raises(InputError, match=words):
        CriticLoss("haarpsi", target_cache=value)


def test_digests_are_of_the_values():
    _, hr = make_pair(2, 8, 8)
    first, second = image_digests(hr)
    assert first != second and len(first) == 32
    assert image_digests(hr.contiguous(memory_format=torch.channels_last)) == [first, second]
    assert image_digests(hr[1:]) == [second]
    assert image_digests(hr[:0]) == []
