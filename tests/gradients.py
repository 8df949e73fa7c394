"""Gradients with respect to the SR image, and what a forward pass keeps for them."""

from __future__ import annotations

import torch


def score_and_gradient(critic, sr, hr, target=None):
    """Scores and the gradient of their sum with respect to ``sr``."""
    sr = sr.clone().requires_grad_()
    scores = critic.score(sr, hr, target_features=target)
    return scores.detach(), torch.autograd.grad(scores.sum(), sr)[0]


def assert_equal(result, expected, limit=1e-10):
    """Two results of :func:`score_and_gradient`: scores absolutely, gradients as vectors."""
    assert (result[0] - expected[0]).abs().max() <= limit
    assert (result[1] - expected[1]).norm() <= limit * expected[1].norm()
    assert expected[1].norm() > 1e-6


def saved_bytes(call, modules=()):
    """Bytes of distinct storages that ``call()`` keeps for the backward pass, tensors of ``modules`` excluded."""
    excluded = {t.untyped_storage().data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(size for size, _ in kept.values())
