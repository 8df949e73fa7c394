from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sr_perceptual_loss import InputError
from sr_perceptual_loss.cli.probe import _line

from .conftest import L1, settle

CRITIC = {"type": "CriticLoss", "critic": "haarpsi", "loss_weight": 0.5}


@pytest.mark.parametrize("model_type", ["PerceptualSRGANModel", "PerceptualESRGANModel"])
def test_the_probe_sees_the_gradients_that_the_training_step_uses(build, model_type):
    """The sum of the probed losses has the gradient that BasicSR's own step sends back from the SR output."""
    from sr_perceptual_loss.integrations.basicsr.probe import losses_of

    model = build(model_type, {"pixel_opt": L1, "losses": [CRITIC, {"type": "SSIMLoss"}]})
    settle(model)
    functions, weights = losses_of(model)
    assert list(functions) == ["pix", "haarpsi", "ssim", "gan"]
    assert weights == {"pix": 1.0, "haarpsi": 0.5, "ssim": 1.0, "gan": 0.1}
    with torch.no_grad():
        output = model.net_g(model.lq)
    probed = torch.zeros_like(output)
    for function in functions.values():
        leaf = output.clone().requires_grad_()
        probed += torch.autograd.grad(function(leaf, model.gt), leaf)[0]
    seen = []
    model.net_g.register_forward_hook(lambda m, i, o: o.register_hook(seen.append) and None)
    model.optimize_parameters(1)
    torch.testing.assert_close(seen[0], probed, rtol=1e-4, atol=1e-9)


def test_probing_trains_nothing_and_reaches_the_wanted_shares(build):
    from sr_perceptual_loss.integrations.basicsr.probe import probe_model

    model = build("PerceptualSRModel", {"losses": [L1, CRITIC]})
    before = [p.detach().clone() for p in model.net_g.parameters()]
    batch = {"lq": model.lq, "gt": model.gt}
    report = probe_model(model, iter([batch, batch]), iteration=10, shares={"l1": 3, "haarpsi": 1})
    assert report.batches == 2 and report.spread == pytest.approx({"l1": 1.0, "haarpsi": 1.0})
    assert all(torch.equal(a, b) for a, b in zip(before, model.net_g.parameters(), strict=True))
    proposed = 0.5 * report.factors["haarpsi"]
    again = build("PerceptualSRModel", {"losses": [L1, {**CRITIC, "loss_weight": proposed}]})
    norms = probe_model(again, iter([batch]), iteration=10).norms
    assert norms["l1"] / norms["haarpsi"] == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize(
    ("shares", "wanted"),
    [
        ({"pix": 0.5}, (0.5, 0.25, 0.25)),
        ({"pixel_opt": 2, "l_haarpsi": 1, "SSIMLoss": 1}, (0.5, 0.25, 0.25)),
        ({"l_pix": 0.2, "CriticLoss": 0.2}, (0.2, 0.2, 0.6)),
    ],
)
def test_losses_are_named_as_in_the_log_or_the_yaml(build, shares, wanted):
    from sr_perceptual_loss.integrations.basicsr.probe import probe_model

    model = build("PerceptualSRModel", {"pixel_opt": L1, "losses": [CRITIC, {"type": "SSIMLoss"}]})
    batch = {"lq": model.lq, "gt": model.gt}
    report = probe_model(model, iter([batch]), iteration=1, shares=shares, reference="SSIMLoss")
    assert report.reference == "ssim"
    assert report.shares == pytest.approx(dict(zip(("pix", "haarpsi", "ssim"), wanted, strict=True)))
    with pytest.raises(InputError, match="pix, pixel_opt"):
        probe_model(model, iter([batch]), iteration=1, shares={"pix": 0.1, "pixel_opt": 0.2})
    with pytest.raises(InputError, match="'percep'.*haarpsi, pix, ssim"):
        probe_model(model, iter([batch]), iteration=1, shares={"percep": 0.1})


def test_the_gan_term_is_measured_and_keeps_its_weight(build):
    from sr_perceptual_loss.integrations.basicsr.probe import probe_model

    model = build("PerceptualSRGANModel", {"pixel_opt": L1, "losses": [CRITIC]})
    batch = {"lq": model.lq, "gt": model.gt}
    report = probe_model(model, iter([batch]), iteration=1, shares={"haarpsi": 0.25})
    assert report.shares == pytest.approx({"pix": 0.75, "haarpsi": 0.25})
    assert report.norms["gan"] > 0 and report.factors["gan"] == 1
    lines = {row["name"]: _line(row) for row in report.as_dict()["losses"]}
    assert lines["gan"][-3:] == ("-", "0.1", "0.1") and lines["pix"][-3] == "75%"
    for asked in ({"shares": {"GANLoss": 0.1}}, {"reference": "gan_opt"}):
        with pytest.raises(InputError, match=r"(GANLoss|gan_opt): .*loss_weight"):
            probe_model(model, iter([batch]), iteration=1, **asked)


def test_a_stock_model_can_be_probed(build):
    from sr_perceptual_loss.integrations.basicsr.probe import losses_of

    model = build("SRModel", {"pixel_opt": L1, "perceptual_opt": CRITIC})
    functions, weights = losses_of(model)
    assert list(functions) == ["pix", "percep"] and weights == {"pix": 1.0, "percep": 0.5}
    assert functions["percep"](model.gt, model.gt).item() == pytest.approx(-0.5, abs=1e-5)


def test_the_command(project):
    folder, write = project
    opt = write("probe")
    command = [str(Path(sys.executable).with_name("srpl")), "probe", "-opt", str(opt), "--batches", "3"]
    done = subprocess.run(
        [*command, "--share", "l1=1", "--share", "haarpsi=2", "--json"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["batches"] == 3 and report["reference"] == "l1"
    rows = {row["name"]: row for row in report["losses"]}
    assert rows["l1"]["share_wanted"] == pytest.approx(1 / 3) and rows["l1"]["factor"] == 1
    ratio = rows["haarpsi"]["gradient_norm"] * rows["haarpsi"]["factor"] / rows["l1"]["gradient_norm"]
    assert ratio == pytest.approx(2)
    assert not (folder / "experiments").exists(), "the probe writes nothing"
    done = subprocess.run([*command, "--share", "l1"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--share l1: expected NAME=NUMBER" in done.stderr
