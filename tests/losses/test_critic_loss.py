from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from pairs import make_pair
from torch import nn

from sr_perceptual_loss import (
    Critic,
    CriticCard,
    CriticLoss,
    EfficientPBANLoss,
    GradNormBalancer,
    InputError,
    NonFiniteError,
    RQILoss,
    SizeRule,
    SSIMPerceptualRatioLoss,
    UnknownNameError,
    WeightsError,
    create_critic,
    save_weights,
)
from sr_perceptual_loss.losses.critic_loss import FORMS
from sr_perceptual_loss.losses.frozen import FrozenCritic
from sr_perceptual_loss.ops.crops import crop_pairs


class Probe(Critic):
    """score = factor * (mean(hr) - mean((sr - hr)^2)): easy to compute by hand; may be made to misbehave."""

    card = CriticCard("probe", "none", SizeRule(minimum=4), (-1.0, 1.0), relative=True, needs_weights=False)

    def __init__(self, factor=1.0, bad=None):
        super().__init__({"factor": factor})
        self.factor, self.bad, self.seen = factor, bad, []

    @classmethod
    def tiny(cls):
        return cls()

    def _encode_target(self, hr):
        return (hr.mean((1, 2, 3)),)

    def _compare(self, sr, hr, target):
        self.seen.append((sr.detach().clone(), hr.detach().clone()))
        score = self.factor * (target[0] - ((sr - hr) ** 2).mean((1, 2, 3)))
        if self.bad == "value":
            score = score * torch.tensor([1.0] * (len(sr) - 1) + [float("nan")], dtype=score.dtype)
        if self.bad == "gradient":
            score = score + 0 * (sr * 0).sum((1, 2, 3)).sqrt()
        return score


def test_linear_is_minus_the_mean_score():
    critic = create_critic("haarpsi")
    sr, hr = make_pair(3, 48, 56)
    loss = CriticLoss("haarpsi", loss_weight="1e-1")
    value = loss(sr, hr)
    torch.testing.assert_close(value, -0.1 * critic.score(sr, hr).mean())
    assert value.dim() == 0
    torch.testing.assert_close(loss.terms["score"], critic.score(sr, hr).mean())
    torch.testing.assert_close(loss.terms["loss"], value)
    assert not any(t.requires_grad for t in loss.terms.values())


def test_a_step_against_the_gradient_raises_the_score():
    sr, hr = make_pair(2, 48, 48)
    for loss in (
        CriticLoss("haarpsi"),
        CriticLoss("haarpsi", form="hinge", margin=1.0),
        CriticLoss("haarpsi", form="softplus"),
    ):
        x = sr.clone().requires_grad_()
        loss(x, hr).backward()
        before = loss.terms["score"]
        loss((x - 0.05 * x.grad / x.grad.abs().max()).detach(), hr)
        assert loss.terms["score"] > before + 1e-4


@pytest.mark.parametrize("form", ["linear", "hinge", "softplus"])
def test_forms(form):
    score = torch.tensor([-2.0, 0.4, 0.5, 3.0], dtype=torch.float64)
    expected = {
        "linear": -score,
        "hinge": torch.tensor([2.5, 0.1, 0.0, 0.0], dtype=torch.float64),
        "softplus": F.softplus(0.5 - score),
    }[form]
    torch.testing.assert_close(FORMS[form](score, 0.5), expected)


def test_hinge_pays_nothing_beyond_the_margin():
    loss = CriticLoss(Probe(), form="hinge", margin=0.2)
    hr = torch.full((1, 3, 8, 8), 0.6)
    sr = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    loss(sr, hr).backward()
    assert loss.terms["loss"] == 0 and sr.grad.abs().max() == 0
    assert loss.terms["over_gt_rate"] == 1


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions(reduction):
    sr, hr = make_pair(3, 32, 32)
    scores = create_critic("haarpsi").score(sr, hr)
    expected = {"mean": -scores.mean(), "sum": -scores.sum(), "none": -scores}[reduction]
    torch.testing.assert_close(CriticLoss("haarpsi", reduction=reduction)(sr, hr), expected)


def test_crops_are_averaged_per_image():
    sr, hr = make_pair(2, 64, 80)
    loss = CriticLoss("haarpsi", crops={"size": 32, "count": 3, "seed": 5}, reduction="none")
    value = loss(sr, hr)
    generator = torch.Generator().manual_seed(5)
    pairs = crop_pairs(sr, hr, loss.crops, 32, generator)
    scores = torch.stack([create_critic("haarpsi").score(a, b) for a, b in pairs])
    assert scores.shape == (3, 2)
    torch.testing.assert_close(value, -scores.mean(0))
    assert not torch.equal(loss(sr, hr), value), "the second call should draw other boxes"


@pytest.mark.fault(40, 42)
def test_crops_follow_the_global_iteration_after_an_interruption():
    sr, hr = make_pair(2, 64, 80)
    options = {"crops": {"size": 24, "count": 2}}

    def run(iterations):
        loss, values = CriticLoss("haarpsi", **options), []
        for i in iterations:
            loss.step(i)
            values.append(loss(sr, hr).item())
        return values

    CriticLoss("haarpsi", crops={"size": 24, "seed": 10**18}).step(1)
    whole = run(range(1, 9))
    assert len(set(whole)) == 8
    assert run(range(1, 4)) + run(range(4, 9)) == whole


@pytest.mark.fault(13)
def test_a_critic_of_fixed_size_sees_crops_of_it():
    critic = create_critic("tiny_rqi_maniqa", weights=None)
    side = critic.input_size.fixed
    loss = CriticLoss(critic)
    sr, hr = make_pair(2, side + 9, side + 4)
    sr.requires_grad_()
    loss(sr, hr).backward()
    touched = (sr.grad != 0).any(1)
    assert touched[0].any(1).sum() <= side and touched[0].any(0).sum() <= side
    small = make_pair(1, side - 8, side - 8)
    with pytest.raises(InputError, match=f"{side}x{side}.*gt_size: {side}"):
        loss(*small)
    assert torch.isfinite(CriticLoss(critic, crops={"small": "resize"})(*small))


@pytest.mark.fault(13)
def test_a_crop_that_the_critic_cannot_take_fails_at_construction():
    critic = create_critic("tiny_rqi_maniqa", weights=None)
    with pytest.raises(InputError, match="takes exactly"):
        CriticLoss(critic, crops=24)
    with pytest.raises(InputError, match="haarpsi: got 8x8.*16"):
        CriticLoss("haarpsi", crops={"size": 8})


@pytest.mark.fault(19, 27)
def test_no_gradient_reaches_hr_and_half_inputs_get_half_gradients():
    sr, hr = make_pair(2, 32, 32)
    sr, hr = sr.bfloat16().requires_grad_(), hr.requires_grad_()
    value = CriticLoss("haarpsi")(sr, hr)
    value.backward()
    assert value.dtype == torch.float32 and sr.grad.dtype == torch.bfloat16
    assert sr.grad.abs().sum() > 0 and hr.grad is None


@pytest.mark.fault(20)
def test_autocast_changes_nothing():
    sr, hr = make_pair(2, 32, 32)
    loss = CriticLoss("tiny_efficient_pban", weights=None)
    expected = loss(sr, hr)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(sr, hr)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, expected)


@pytest.mark.fault(29)
def test_under_no_grad_and_inference_mode():
    sr, hr = make_pair(1, 32, 32)
    loss = CriticLoss("haarpsi")
    expected = loss(sr, hr)
    with torch.no_grad():
        assert torch.equal(loss(sr, hr), expected)
    with torch.inference_mode():
        assert torch.equal(loss(sr, hr), expected)


@pytest.mark.fault(15)
def test_an_empty_batch_is_a_zero_on_the_graph():
    sr, hr = make_pair(1, 32, 32)
    sr = sr[:0].requires_grad_()
    value = CriticLoss("haarpsi")(sr, hr[:0])
    value.backward()
    assert value.item() == 0 and sr.grad.shape == sr.shape


@pytest.mark.fault(4, 6)
def test_non_finite_values_and_gradients_stop_by_name():
    sr, hr = make_pair(2, 16, 16)
    sr.requires_grad_()
    for x in (sr, sr.detach()):
        with pytest.raises(NonFiniteError, match=r"CriticLoss\(probe\).*value of image 1 .*nan"):
            CriticLoss(Probe(bad="value"))(x, hr).backward()
    loss = CriticLoss(Probe(bad="gradient"))(sr, hr)
    with pytest.raises(NonFiniteError, match=r"CriticLoss\(probe\): .*gradient"):
        loss.backward()
    bad = sr.detach().clone()
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="sr holds NaN"):
        CriticLoss("haarpsi")(bad, hr)


@pytest.mark.fault(4, 6)
def test_ignore_checks_nothing():
    sr, hr = make_pair(2, 16, 16)
    loss = CriticLoss(Probe(bad="value"))
    loss.on_nonfinite = "ignore"
    value = loss(sr.requires_grad_(), hr)
    value.backward()
    assert torch.isnan(value)


@pytest.mark.fault(31)
def test_gradients_of_two_losses_add():
    sr, hr = make_pair(1, 32, 32)
    sr.requires_grad_()
    one, two = CriticLoss("haarpsi", loss_weight=2.0), CriticLoss(Probe(), loss_weight=3.0)
    gradients = [torch.autograd.grad(loss(sr, hr), sr)[0] for loss in (one, two)]
    (one(sr, hr) + two(sr, hr)).backward()
    torch.testing.assert_close(sr.grad, gradients[0] + gradients[1])


@pytest.mark.fault(42, 44)
def test_construction_touches_no_global_state():
    state, benchmark = torch.get_rng_state(), torch.backends.cudnn.benchmark
    CriticLoss("tiny_efficient_pban", weights=None)
    RQILoss("tiny_rqi_maniqa", weights=None)
    assert torch.equal(state, torch.get_rng_state()) and torch.backends.cudnn.benchmark == benchmark


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"critic": "harpsi"}, UnknownNameError, "Did you mean 'haarpsi'"),
        ({"critic": 3}, InputError, "3|int"),
        ({}, InputError, "`critic`.*haarpsi"),
        ({"critic": "haarpsi", "loss_weight": "heavy"}, InputError, "loss_weight: .*heavy"),
        ({"critic": "haarpsi", "form": "log"}, InputError, "form: got 'log'"),
        ({"critic": "haarpsi", "reduction": "avg"}, InputError, "reduction: got 'avg'"),
        ({"critic": "haarpsi", "crops": {"sise": 1}}, InputError, "unknown key 'sise'"),
        ({"critic": "rqi_maniqa"}, WeightsError, "weights"),
        ({"critic": "rqi_maniqa", "weights": "/nowhere/x.safetensors"}, WeightsError, "/nowhere/x.safetensors"),
        ({"critic": "haarpsi", "margn": 1}, TypeError, "margn"),
        ({"critic": "haarpsi", "form": "hinge"}, InputError, r"margin: got 0 .*haarpsi .*\[0, 1\].*0\.9"),
        ({"critic": "haarpsi", "form": "hinge", "margin": "-1"}, InputError, "margin: got -1"),
        ({"critic": "efficient_pban", "form": "hinge", "margin": 0}, InputError, r"margin: got 0 .*\[1, 5\]"),
        ({"critic": "haarpsi", "form": "softplus", "margin": -100}, InputError, "margin: got -100"),
        ({"critic": "HaarPSI"}, UnknownNameError, "Did you mean 'haarpsi'"),
        ({"critic": "rqi_maniqa", "form": "hinge", "margin": -1}, InputError, "margin: got -1 .*such as 0"),
        ({"critic": "haarpsi", "margin": 0.5}, InputError, "margin: got 0.5.*linear"),
        ({"critic": "haarpsi", "crops": {"count": 4}}, InputError, "crops.count: got 4.*haarpsi.*size"),
        ({"critic": "haarpsi", "crops": {"small": "resize"}}, InputError, "crops.small: got 'resize'"),
        ({"critic": "haarpsi", "crops": {"seed": 3, "scales": [1, 2]}}, InputError, "crops.seed: got 3"),
    ],
)
def test_bad_options_fail_at_construction(options, error, words):
    with pytest.raises(error, match=words):
        CriticLoss(**options)


def test_a_margin_above_every_score_is_the_linear_form():
    sr, hr = make_pair(1, 32, 32)
    hinge, linear = CriticLoss("haarpsi", form="hinge", margin=1.5), CriticLoss("haarpsi")
    torch.testing.assert_close(hinge(sr, hr), 1.5 + linear(sr, hr))


def test_random_weights_warn_at_every_construction():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")  # Python's own: the same warning from the same line once
        for _ in range(2):
            loss = CriticLoss("tiny_efficient_pban", weights=None)
        CriticLoss("haarpsi", weights=None)
    assert [w.category for w in seen] == [UserWarning] * 2 and "tiny_efficient_pban" in str(seen[0].message)
    assert loss.frozen.random_weights and not CriticLoss("haarpsi").frozen.random_weights
    with pytest.warns(UserWarning, match="tiny_rqi_topiq"):
        loss = SSIMPerceptualRatioLoss(create_critic("tiny_rqi_topiq", weights=None))
    loss.critic.load_state_dict(loss.critic.state_dict())
    assert not loss.perceptual.frozen.random_weights


def test_a_critic_that_is_no_loss_warns_as_a_loss_only():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        frozen = FrozenCritic("lpips")  # as validation metrics and `srpl score` build it
        assert not seen
        for build in (CriticLoss, SSIMPerceptualRatioLoss):
            build(frozen.critic)
        CriticLoss("haarpsi")
    assert [w.category for w in seen] == [UserWarning] * 2
    assert all("lpips is not recommended as a loss: " in str(w.message) for w in seen)
    assert seen[0].filename == __file__


def test_one_line_tells_what_a_loss_is(tmp_path):
    path = tmp_path / "w.safetensors"
    sha = save_weights(create_critic("tiny_rqi_maniqa", weights=None), path)
    loss = RQILoss("tiny_rqi_maniqa", weights=path, loss_weight="1e-1", form="hinge", margin=0.2, precision="bf16")
    for text in ("RQILoss(tiny_rqi_maniqa", f"weights='{path}' [sha {sha[:8]}]", "loss_weight=0.1", "size=32"):
        assert text in repr(loss)
    for text in ("form=hinge", "margin=0.2", "precision=bf16"):
        assert text in repr(loss)
    assert repr(loss) in repr(nn.ModuleList([loss])) and "\n" not in repr(loss)
    haarpsi = CriticLoss("haarpsi", schedule={"start": 7})
    assert "formula" in repr(haarpsi) and "start=7" in repr(haarpsi) and "whole images" in repr(haarpsi)
    assert "random weights" in repr(CriticLoss("tiny_rqi_topiq", weights=None))
    ratio = repr(SSIMPerceptualRatioLoss("haarpsi", alpha=0.3, beta=0.7))
    assert "0.3 ssim : 0.7 CriticLoss(haarpsi" in ratio and "grad_norm" in ratio
    assert repr(GradNormBalancer({"a": 1, "b": 3})) == "GradNormBalancer(a=0.25, b=0.75)"


def test_named_forms():
    sr, hr = make_pair(1, 48, 48)
    loss = EfficientPBANLoss("tiny_efficient_pban", weights=None, loss_weight=0.5)
    torch.testing.assert_close(loss(sr, hr), -0.5 * loss.critic.score(sr, hr).mean())
    rqi = RQILoss("tiny_rqi_maniqa", weights=None, loss_weight=0.1)
    side = rqi.critic.input_size.fixed
    sr, hr = make_pair(2, side, side)
    torch.testing.assert_close(rqi(sr, hr), -0.1 * rqi.critic.score(sr, hr).mean())
    assert rqi.term_names == ("score", "over_gt_rate") and set(rqi.terms) == {"loss", *rqi.term_names}
    with pytest.raises(InputError, match="haarpsi.*rqi_maniqa"):
        RQILoss("haarpsi")
    with pytest.raises(InputError, match="haarpsi"):
        EfficientPBANLoss("haarpsi")
    with pytest.raises(WeightsError):
        EfficientPBANLoss()
    with pytest.raises(WeightsError):
        RQILoss()
