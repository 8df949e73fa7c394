from __future__ import annotations

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import CriticLoss, InputError, NonFiniteError, SSIMLoss
from sr_perceptual_loss.monitor.probe import probe


def linear(direction):
    """A loss whose gradient at every image is the given direction."""
    return lambda sr, hr: (sr * direction).sum()


def basis(i, size=3.0):
    d = torch.zeros(1, 3, 4, 4)
    d.view(-1)[i] = size
    return d


BATCHES = [(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))] * 3


def test_norms_cosines_and_factors_of_known_gradients():
    losses = {"a": linear(basis(0)), "b": linear(basis(1, 12.0)), "c": linear(-basis(0, 0.5))}
    report = probe(losses, BATCHES, weights={"a": 1.0, "b": 0.1})
    assert report.norms == pytest.approx({"a": 3.0, "b": 12.0, "c": 0.5})
    assert report.cosines == pytest.approx({("a", "b"): 0.0, ("a", "c"): -1.0, ("b", "c"): 0.0})
    assert report.factors == pytest.approx({"a": 1.0, "b": 0.25, "c": 6.0})
    assert report.spread == pytest.approx({"a": 1.0, "b": 1.0, "c": 1.0}) and report.batches == 3
    rows = {row["name"]: row for row in report.as_dict()["losses"]}
    assert rows["b"]["weight_proposed"] == pytest.approx(0.025)
    assert rows["c"]["weight_proposed"] is None
    assert rows["b"]["share_now"] == pytest.approx(12 / 15.5)


def test_wanted_shares_come_out():
    sr, hr = make_pair(2, 48, 48)
    losses = {
        "l1": torch.nn.L1Loss(),
        "ssim": SSIMLoss(loss_weight=0.3),
        "haarpsi": CriticLoss("haarpsi", loss_weight=7.0),
    }
    shares = {"l1": 2, "ssim": 1, "haarpsi": "1"}
    factors = probe(losses, [(sr, hr)], shares=shares).factors
    scaled = {n: (lambda s, h, n=n, f=factors[n]: f * losses[n](s, h)) for n in losses}
    after = probe(scaled, [(sr, hr)], shares=shares)
    total = sum(after.norms.values())
    assert {n: v / total for n, v in after.norms.items()} == pytest.approx({"l1": 0.5, "ssim": 0.25, "haarpsi": 0.25})
    assert after.factors == pytest.approx({"l1": 1.0, "ssim": 1.0, "haarpsi": 1.0})


def test_losses_without_a_share_get_equal_parts_of_the_rest():
    losses = {name: linear(basis(i)) for i, name in enumerate("abc")}
    assert probe(losses, BATCHES, shares={"c": "0.4"}).shares == pytest.approx({"a": 0.3, "b": 0.3, "c": 0.4})


def test_a_fixed_loss_is_measured_and_has_no_share():
    losses = {"gan": linear(basis(0)), "a": linear(basis(1)), "b": linear(basis(2, 12.0))}
    report = probe(losses, BATCHES, weights={"gan": 0.5}, fixed=["gan"])
    assert report.reference == "a" and report.shares == {"a": 0.5, "b": 0.5}
    assert report.factors == pytest.approx({"gan": 1.0, "a": 1.0, "b": 0.25})
    row = report.as_dict()["losses"][0]
    assert (row["gradient_norm"], row["share_wanted"], row["weight_proposed"]) == (pytest.approx(3.0), None, 0.5)
    with pytest.raises(InputError, match="losses"):
        probe({"gan": linear(basis(0))}, BATCHES, fixed=["gan"])


def test_a_loss_without_a_gradient_has_no_factor():
    report = probe({"a": linear(basis(0)), "dead": lambda sr, hr: sr.sum() * 0}, BATCHES)
    assert report.factors["dead"] is None
    with pytest.raises(InputError, match="'dead'"):
        probe({"a": linear(basis(0)), "dead": lambda sr, hr: sr.sum() * 0}, BATCHES, reference="dead")


def test_losses_without_a_graph_or_with_a_shape():
    sr, hr = make_pair(2, 32, 32)
    losses = {"ssim": SSIMLoss(), "constant": lambda a, b: torch.tensor(2.0)}
    report = probe(losses, [(sr, hr)])
    assert report.norms["constant"] == 0 and report.factors["constant"] is None
    with pytest.raises(InputError, match=r"per_image.*\(2,\)"):
        probe({"per_image": lambda a, b: (a - b).abs().mean((1, 2, 3))}, [(sr, hr)])


def test_bad_arguments():
    losses = {"a": linear(basis(0)), "b": linear(basis(1))}
    with pytest.raises(InputError, match="'bb'.*'b'"):
        probe(losses, BATCHES, shares={"a": 1, "bb": 1})
    for too_much in (1, 1.5):
        with pytest.raises(InputError, match=f"shares: got {too_much}.* b"):
            probe(losses, BATCHES, shares={"a": too_much})
    with pytest.raises(InputError, match="share of b.*0"):
        probe(losses, BATCHES, shares={"a": 1, "b": 0})
    with pytest.raises(InputError, match="reference.*'c'"):
        probe(losses, BATCHES, reference="c")
    with pytest.raises(InputError, match="batches"):
        probe(losses, [])
    with pytest.raises(InputError, match="losses"):
        probe({}, BATCHES)
    with pytest.raises(NonFiniteError, match="probe: b"):
        probe({"a": linear(basis(0)), "b": lambda sr, hr: sr.sum() * float("nan")}, BATCHES)


def test_the_callers_tensors_are_left_alone():
    sr, hr = make_pair(1, 32, 32)
    sr = (sr.requires_grad_() * 1.0).detach().requires_grad_()
    probe({"ssim": SSIMLoss()}, [(sr, hr)])
    assert sr.grad is None
