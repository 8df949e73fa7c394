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


@pytest.mark.fault(45, 46, 47)
@pytest.mark.parametrize("ranks", RANKS)
def test_plain_ddp(tmp_path, ranks):
    """One start of the processes for everything, since starting them is what takes long."""
    with served() as hub:
        done = launch("plain_ranks.py", ranks, tmp_path, HF_ENDPOINT=hub.url, SRPL_HOME=str(tmp_path / "home"))
        found = written(tmp_path, ranks)
    scores_are_those_of_one_process(found, ranks)
    weights_are_equal_and_those_of_one_process(found, ranks)
    balancer_sees_all_ranks(found, ranks)
    a_nan_of_one_rank_stops_a_balanced_loss_on_all(found, ranks)
    wrapping_the_loss_in_ddp_is_refused(found)
    one_download(found, hub)
    # The rank with the NaN fails by name, and the launcher ends the others.
    assert done.returncode != 0
    assert f"rank {ranks - 1}: CriticLoss(haarpsi): the value of image 1" in done.stderr


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
    balancer(sr, losses).backward()
    for rank in found:
        assert rank["balancer"] == pytest.approx({n: float(balancer.terms[n]) for n in rank["balancer"]}, rel=1e-5)


def a_nan_of_one_rank_stops_a_balanced_loss_on_all(found, ranks):
    assert all(f"on rank {ranks - 1}" in rank["ratio nan"] for rank in found)


def wrapping_the_loss_in_ddp_is_refused(found):
    assert all("doesn't have any parameter" in rank["wrapped"] for rank in found)


def one_download(found, hub):
    assert hub.downloads == 1
    assert len({rank["file"] for rank in found}) == 1


def test_a_loss_has_no_parameters_to_wrap():
    assert not list(CriticLoss("haarpsi").parameters())


def test_training_changes_the_weights():
    """So that equal weights on all ranks are not the untrained ones."""
    net = network()
    before = weights_of(net)
    assert train(net, CriticLoss("haarpsi"), 0, 1) == ""
    assert weights_of(net) != before
