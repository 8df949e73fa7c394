"""`train.balance`: gradient shares of a list of losses at the SR output."""

from __future__ import annotations

import pytest
import torch

from sr_perceptual_loss import InputError

from .conftest import GAN, L1, settle

CRITIC = {"type": "CriticLoss", "critic": "haarpsi"}
LOSSES = [L1, {"type": "SSIMLoss"}, {**CRITIC, "loss_weight": 30.0}]
BALANCE = {"type": "grad_norm", "shares": {"l1": 2, "ssim": 1, "haarpsi": 1}}


def gradient(model, names=None):
    """What reaches the SR output in one call of the list."""
    output = model.net_g(model.lq).detach().requires_grad_()
    total, _ = model.cri_perceptual(output, model.gt)
    return torch.autograd.grad(total, output)[0], total.item()


def parts_of(model):
    """Gradient of each member alone at the same output."""
    found = {}
    output = model.net_g(model.lq).detach()
    for name, member in zip(model.cri_perceptual.names, model.cri_perceptual.members, strict=True):
        leaf = output.clone().requires_grad_()
        result = member(leaf, model.gt)
        found[name] = torch.autograd.grad(result[0] if isinstance(result, tuple) else result, leaf)[0]
    return found


def test_the_gradient_is_the_sum_of_unit_parts_in_the_wanted_shares(build):
    model = build("PerceptualSRModel", {"losses": LOSSES, "balance": BALANCE})
    model.cri_perceptual.step(1)
    balanced, value = gradient(model)
    parts = parts_of(model)
    norm = {n: g.flatten(1).norm(dim=1).mean() for n, g in parts.items()}
    shares = {"l1": 0.5, "ssim": 0.25, "haarpsi": 0.25}
    expected = sum(shares[n] * norm["l1"] / norm[n] * parts[n] for n in parts)
    torch.testing.assert_close(balanced, expected, rtol=1e-4, atol=1e-9)
    values = model.cri_perceptual.parts
    assert value == pytest.approx(sum(shares[n] * values[n].item() for n in shares), rel=1e-5)


def test_entries_without_a_share_are_added_as_they_are(build):
    model = build("PerceptualSRModel", {"losses": LOSSES, "balance": {**BALANCE, "shares": {"l1": 1, "ssim": 1}}})
    balanced, _ = gradient(model)
    parts = parts_of(model)
    norm = {n: g.flatten(1).norm(dim=1).mean() for n, g in parts.items()}
    expected = 0.5 * parts["l1"] + 0.5 * norm["l1"] / norm["ssim"] * parts["ssim"] + parts["haarpsi"]
    torch.testing.assert_close(balanced, expected, rtol=1e-4, atol=1e-9)


def test_a_schedule_acts_on_the_share(build):
    ramped = [*LOSSES[:2], {**LOSSES[2], "schedule": {"start": 10, "ramp": 10}}]
    parts = parts_of(build("PerceptualSRModel", {"losses": LOSSES}))
    norm = {n: g.flatten(1).norm(dim=1).mean() for n, g in parts.items()}
    keys = []
    for iteration, factor in ((1, 0.0), (15, 0.5), (30, 1.0)):
        model = build("PerceptualSRModel", {"losses": ramped, "balance": BALANCE})
        model.cri_perceptual.step(iteration)
        balanced, _ = gradient(model)
        keys.append(sorted(model.cri_perceptual.terms()))
        shares = {"l1": 0.5, "ssim": 0.25, "haarpsi": 0.25 * factor}
        expected = sum(shares[n] * norm["l1"] / norm[n] * parts[n] for n in parts)
        torch.testing.assert_close(balanced, expected, rtol=1e-4, atol=1e-9)
    assert keys[0] == keys[1] == keys[2]


def test_one_step_logs_norms_weights_and_cosines(build):
    model = build("PerceptualSRModel", {"losses": LOSSES, "balance": BALANCE})
    before = [p.detach().clone() for p in model.net_g.parameters()]
    model.optimize_parameters(1)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.net_g.parameters(), strict=True))
    assert {"l_l1", "l_ssim", "l_haarpsi", "balance_norm_l1", "balance_weight_haarpsi", "balance_cos_l1_ssim"} <= set(
        model.log_dict
    )
    assert model.log_dict["balance_weight_l1"] == 1.0
    assert list(model.cri_perceptual.training_state()) == ["train.balance"]


@pytest.mark.parametrize("weight", [5.0, 20.0])
def test_a_gan_term_is_added_with_its_plain_weight(build, monkeypatch, weight):
    train = {"losses": LOSSES, "balance": BALANCE, "gan_opt": {**GAN, "loss_weight": weight}}
    model = build("PerceptualSRGANModel", train)
    settle(model)
    model.cri_perceptual.step(1)
    balanced, value = gradient(model)
    output = model.net_g(model.lq).detach().requires_grad_()
    gan = weight * torch.nn.functional.softplus(-model.net_d(output)).mean()
    adversarial = torch.autograd.grad(gan, output)[0]
    assert 0.1 < adversarial.norm() / balanced.norm() < 10, "one of them would hide the other"
    gradients, totals, backward = [], [], torch.Tensor.backward
    model.net_g.register_forward_hook(lambda m, i, o: o.register_hook(gradients.append) and None)
    monkeypatch.setattr(torch.Tensor, "backward", lambda total: (totals.append(total.item()), backward(total)))
    model.optimize_parameters(1)
    torch.testing.assert_close(gradients[0], balanced + adversarial, rtol=1e-4, atol=1e-9)
    assert totals[0] == pytest.approx(value + gan.item(), rel=1e-5)
    assert model.log_dict["l_g_gan"] == pytest.approx(gan.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["gan", "l_g_gan", "gan_opt"])
def test_a_share_for_the_gan_term_is_refused(build, options, name):
    """By the model, and by the check of the runner, which exits with 2."""
    from sr_perceptual_loss.integrations.basicsr.projects import check_losses

    train = {"losses": LOSSES, "balance": {"shares": {"l1": 1, name: 1}}}
    for construct in (build, lambda *given: check_losses(options(*given))):
        with pytest.raises(InputError, match=rf"balance\.shares\.{name}: .*gan_opt.*loss_weight"):
            construct("PerceptualSRGANModel", train)


def test_an_entry_may_have_the_name_gan_where_there_is_none(build):
    named = [L1, {"type": "SSIMLoss", "name": "gan"}]
    model = build("PerceptualSRModel", {"losses": named, "balance": {"shares": {"l1": 1, "gan": 1}}})
    assert model.cri_perceptual.balancer.shares == {"l1": 0.5, "gan": 0.5}


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ({"losses": LOSSES, "balance": {"shares": {"l1": 1, "sim": 1}}}, "'sim'.*'ssim'"),
        ({"losses": LOSSES, "balance": {"type": "grad_nrm", "shares": {"l1": 1}}}, "'grad_nrm'.*'grad_norm'"),
        ({"losses": LOSSES, "balance": {"shares": {"l1": 1}, "ema_decay": 0.5}}, "'ema_decay'"),
        ({"losses": LOSSES, "balance": {"type": "grad_norm"}}, "balance.shares: got None"),
        ({"losses": LOSSES, "balance": [1]}, r"balance: got \[1\]"),
        ({"pixel_opt": L1, "balance": BALANCE}, "train.balance.*`losses`"),
    ],
)
def test_bad_balance(build, train, names):
    with pytest.raises(InputError, match=names):
        build("PerceptualSRModel", train)
