"""traiNNer-redux's contract: unweighted tensor, `loss_weight` for the trainer, one iteration per optimizer step."""

from __future__ import annotations

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import CriticLoss, InputError, NonFiniteError
from sr_perceptual_loss.integrations import trainner

from .host_standins import Scale, install


class SRModel:
    """The training step, reduced to what a loss sees of it: the trainer weights, and drops parts of a dict <= 0."""

    def __init__(self, options, build, accumulate=1):
        self.losses, self.log_dict, self.gt = {}, {}, None
        for entry in options:
            if float(entry["loss_weight"]) != 0:
                label = "l_g_" + entry["type"].lower().replace("loss", "")
                self.losses[label] = build(entry)
        self.net_g, self.accumulate = Scale(), accumulate

    def optimize_parameters(self, current_iter, current_accum_iter, apply_gradient):
        sr, hr = make_pair(2, 32, 32)
        self.gt, total = hr, torch.tensor(0.0)
        output = self.net_g(sr)
        for label, loss in self.losses.items():
            assert loss.loss_weight >= 0
            value = loss(output, self.gt)
            parts = value if isinstance(value, dict) else None
            assert parts is None, "a dict would lose its negative parts"
            weighted = value * abs(loss.loss_weight)
            total += weighted / self.accumulate
            self.log_dict[label] = self.log_dict.get(label, 0) + weighted.detach() * len(hr)
        total.backward()


@pytest.fixture
def host(monkeypatch):
    registries, models = install(monkeypatch, "traiNNer", lower=True)
    registries.names = trainner.register()
    models.SRModel = SRModel
    registries.models = models
    return registries


def entry(**options):
    return {"type": "haarpsiLoss", "loss_weight": 0.5, **options}


@pytest.mark.fault(67)
def test_trainner_applies_the_weight(host):
    sr, hr = make_pair()
    loss = host.LOSS_REGISTRY.build(entry(loss_weight="25e-2"))
    assert loss.loss_weight == 0.25
    torch.testing.assert_close(loss(sr, hr), CriticLoss("haarpsi", loss_weight=1.0)(sr, hr))
    assert loss(sr, hr).shape == () and float(loss(sr, hr)) < 0


@pytest.mark.fault(68)
def test_trainner_names_in_lower_case_and_ours_beside_its_ssim(host):
    assert "SRPLSSIMLoss" in host.names and "SSIMLoss" not in host.names
    assert "rqi_maniqaloss" in host.LOSS_REGISTRY.map and "criticloss" in host.LOSS_REGISTRY.map
    assert "calculate_haarpsi" in host.METRIC_REGISTRY
    assert trainner.register() == host.names


@pytest.mark.fault(67)
def test_trainner_negative_weight_is_refused_with_the_reason(host):
    with pytest.raises(InputError, match="loss_weight: got -0.1"):
        host.LOSS_REGISTRY.build(entry(loss_weight=-0.1))


def test_two_critics_have_two_labels(host):
    model = SRModel([entry(), entry(type="tiny_efficient_pbanLoss", weights=None)], host.LOSS_REGISTRY.build)
    assert list(model.losses) == ["l_g_haarpsi", "l_g_tiny_efficient_pban"]


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_all_micro_batches_of_a_step_hear_of_one_iteration(host, accumulate):
    assert trainner.install_models() == list(trainner.MODELS)
    first = host.models.SRModel
    trainner.install_models()
    assert host.models.SRModel is first and first is not SRModel
    model = first([entry()], host.LOSS_REGISTRY.build, accumulate)
    told = []
    model.losses["l_g_haarpsi"].step = told.append
    current_iter = current_accum = 0
    for _ in range(3 * accumulate):  # as its train.py counts
        current_accum += 1
        apply_gradient = current_accum >= accumulate
        if apply_gradient:
            current_accum, current_iter = 0, current_iter + 1
        model.optimize_parameters(current_iter, current_accum, apply_gradient)
    assert told == [1 + i // accumulate for i in range(3 * accumulate)]


def test_schedule_acts_and_scores_are_logged_per_sample(host):
    trainner.install_models()
    model = host.models.SRModel([entry(schedule={"start": 2})], host.LOSS_REGISTRY.build)
    model.optimize_parameters(1, 0, True)
    assert float(model.log_dict["l_g_haarpsi"]) == 0 and float(model.net_g.gain.grad) == 0
    model.log_dict.clear()
    model.optimize_parameters(2, 0, True)
    assert model.log_dict["score_haarpsi"] == pytest.approx(-2 * float(model.log_dict["l_g_haarpsi"]))
    assert float(model.net_g.gain.grad) != 0


def test_schedule_without_the_runner_and_nan(host):
    sr, hr = make_pair()
    loss = host.LOSS_REGISTRY.build(entry(schedule={"start": 2}))
    with pytest.raises(InputError, match=r"integrations\.trainner"):
        loss(sr, hr)
    with pytest.raises(NonFiniteError, match="haarpsi"):
        host.LOSS_REGISTRY.build(entry())(sr * float("inf"), hr)
