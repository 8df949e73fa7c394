"""Our losses in a plain DDP loop on two (slow: four) processes: equal scores and weights, no hang, one download."""

from __future__ import annotations

import io

import pytest
import torch
from local_hub import LocalHub
from pairs import make_pair

from sr_perceptual_loss import CriticLoss
from sr_perceptual_loss.losses.balance import GradNormBalancer

from .launching import RANKS, launch, written
from .plain_ranks import PER_RANK, Small, network, train, weights_of


def served() -> LocalHub:
    content = io.BytesIO()
    torch.save(Small().state_dict(), content)
    return LocalHub(content.getvalue())


@pytest.mark.fault(45)
@pytest.mark.parametrize("ranks", RANKS)
def test_plain_ddp(tmp_path, ranks):
    """One start of the processes for everything, since starting them is what takes long."""
    with served() as hub:
        done = launch("plain_ranks.py", ranks, tmp_path, HF_ENDPOINT=hub.url, SRPL_HOME=str(tmp_path / "home"))
        found = written(tmp_path, ranks)
    scores_are_those_of_one_process(found, ranks)
    weights_are_equal_and_those_of_one_process(found, ranks)
    balancer_sees_all_ranks(found, ranks)
    nan_of_one_rank_stops_all_or_none(found, ranks)
    r46_wrapped_loss(found)
    r47_one_download(found, hub)
    # Under the default policy the rank with the NaN fails by name, and the launcher ends the others.
    assert done.returncode != 0
    assert f"rank {ranks - 1}: CriticLoss(haarpsi): the value of image" in done.stderr
    assert "sr holds NaN or infinity: the network diverged before this loss" in done.stderr


def scores_are_those_of_one_process(found, ranks):
    sr, hr = make_pair(PER_RANK * ranks, 32, 32)
    expected = CriticLoss("haarpsi", reduction="none")(sr, hr).tolist()
    assert [score for rank in found for score in rank["scores"]] == pytest.approx(expected, abs=1e-7)


def weights_are_equal_and_those_of_one_process(found, ranks):
    for name in ("plain", "ratio"):
        assert all(rank[f"{name} error"] == "" for rank in found)
        assert all(rank[f"{name} weights"] == found[0][f"{name} weights"] for rank in found)
        assert all(rank[f"{name} log"] == found[0][f"{name} log"] for rank in found)
        assert found[0][f"{name} weights"] != pytest.approx(weights_of(network()), abs=1e-4)


def balancer_sees_all_ranks(found, ranks):
    """The norms are means over the images of all ranks, as one process with the whole batch computes them."""
    sr, hr = make_pair(PER_RANK * ranks, 32, 32)
    sr = sr.clone().requires_grad_()
    balancer = GradNormBalancer({"l1": 2, "square": 1})
    losses = {"l1": lambda x: (x - hr).abs().mean(), "square": lambda x: (x - hr).square().mean()}
    balancer.combine(sr, losses).backward()
    for rank in found:
        assert rank["balancer"] == pytest.approx({n: float(balancer.terms[n]) for n in rank["balancer"]}, rel=1e-5)


def nan_of_one_rank_stops_all_or_none(found, ranks):
    last = ranks - 1
    assert f"image 1 of the batch on rank {last} is nan" in found[last]["raise_all error"]
    for rank in found[:last]:
        assert rank["raise_all error"].startswith(f"CriticLoss(haarpsi): it failed on rank {last}")
    assert all(f"on rank {last}" in rank["ratio nan"] for rank in found)
    assert all(rank["skip error"] == "" for rank in found)
    for policy in ("raise_all", "skip"):
        weights = [rank[f"{policy} weights"] for rank in found]
        assert all(w == weights[0] for w in weights) and torch.tensor(weights[0]).isfinite().all()


def r46_wrapped_loss(found):
    assert all("doesn't have any parameter" in rank["wrapped"] for rank in found)


def r47_one_download(found, hub):
    assert hub.downloads == 1
    assert len({rank["file"] for rank in found}) == 1


@pytest.mark.fault(46)
def test_wrapping_a_loss_in_ddp_is_refused_and_documented():
    """The message is torch's own; what to do instead stands in the guide to plain PyTorch."""
    from pathlib import Path

    assert not list(CriticLoss("haarpsi").parameters())
    text = (Path(__file__).resolve().parents[2] / "docs" / "hosts" / "plain_pytorch.md").read_text()
    assert "DistributedDataParallel" in text and "on_nonfinite: raise_all" in text


def test_training_on_one_process_is_the_yardstick():
    """So that equal weights on all ranks are not the untrained ones."""
    net = network()
    before = weights_of(net)
    assert train(net, CriticLoss("haarpsi"), 0, 1) == ""
    assert weights_of(net) != before
