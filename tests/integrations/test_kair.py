"""KAIR's contract: lossfn(E, H) -> one tensor times the slot's weight, gated GAN steps, a log of plain values.

The clone itself: `SRPL_KAIR=<clone of cszn/KAIR>`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from pairs import make_pair
from torch import nn

from sr_perceptual_loss import CriticLoss, InputError, NonFiniteError, SSIMLoss
from sr_perceptual_loss.errors import UnknownNameError
from sr_perceptual_loss.integrations import kair

from .host_standins import Scale

CLONE = os.environ.get("SRPL_KAIR")
LOSSES = {"haarpsi": {"type": "haarpsiLoss", "loss_weight": 0.2}, "ssim": {"type": "SSIMLoss", "loss_weight": 0.3}}


class ModelPlain:
    """The training step, reduced to what a loss sees of it."""

    def __init__(self, opt):
        self.opt, self.opt_train = opt, opt["train"]
        self.device = torch.device("cuda" if opt["gpu_ids"] is not None else "cpu")
        self.netG = Scale()

    def init_train(self):
        self.define_loss()
        self.G_optimizer = torch.optim.SGD(self.netG.parameters(), lr=0.1)
        self.log_dict = OrderedDict()

    def define_loss(self):
        self.G_lossfn = nn.L1Loss()
        self.G_lossfn_weight = self.opt_train["G_lossfn_weight"]

    def feed_data(self, data):
        self.L, self.H = data["L"].to(self.device), data["H"].to(self.device)

    def optimize_parameters(self, current_step):
        self.G_optimizer.zero_grad()
        self.E = self.netG(self.L)
        G_loss = self.G_lossfn_weight * self.G_lossfn(self.E, self.H)
        G_loss.backward()
        self.G_optimizer.step()
        self.log_dict["G_loss"] = G_loss.item()


class ModelGAN(ModelPlain):
    """Slots of weight 0 are None and never called; gated steps call no image loss."""

    def define_loss(self):
        self.G_lossfn = self.F_lossfn = None
        for letter in "GF":
            if self.opt_train[f"{letter}_lossfn_weight"] > 0:
                setattr(self, f"{letter}_lossfn", nn.L1Loss())
                setattr(self, f"{letter}_lossfn_weight", self.opt_train[f"{letter}_lossfn_weight"])

    def optimize_parameters(self, current_step):
        self.G_optimizer.zero_grad()
        self.E = self.netG(self.L)
        if current_step % self.opt_train.get("D_update_ratio", 1) == 0:
            total = 0
            for letter in "GF":
                if self.opt_train[f"{letter}_lossfn_weight"] > 0:
                    own = getattr(self, f"{letter}_lossfn")(self.E, self.H)
                    value = getattr(self, f"{letter}_lossfn_weight") * own
                    total += value
                    self.log_dict[f"{letter}_loss"] = value.item()
            total.backward()
            self.G_optimizer.step()


def make(base=ModelPlain, **train):
    options = {"G_lossfn_weight": 1.0, "F_lossfn_weight": 0, "losses": LOSSES, **train}
    model = kair.perceptual(base)({"gpu_ids": None, "train": options})
    model.init_train()
    sr, hr = make_pair(2, 32, 32)
    model.feed_data({"L": sr, "H": hr})
    return model


def test_total_gradient_and_log_are_those_of_the_sum():
    model = make()
    parameter = next(model.netG.parameters())
    start = parameter.detach().clone()
    output = model.netG(model.L)
    ours = {"haarpsi": CriticLoss("haarpsi", loss_weight=0.2), "ssim": SSIMLoss(loss_weight=0.3)}
    values = {name: loss(output, model.H) for name, loss in ours.items()}
    pixel = (output - model.H).abs().mean()
    (wanted,) = torch.autograd.grad(pixel + sum(values.values()), [parameter])
    model.optimize_parameters(1)
    torch.testing.assert_close(parameter.detach(), start - 0.1 * wanted)
    log = model.log_dict
    assert log["l_pix"].item() == pytest.approx(pixel.item())
    for name, value in values.items():
        assert log[f"l_{name}"].item() == pytest.approx(value.item(), rel=1e-5)
    assert log["G_loss"] == pytest.approx(float(log["l_pix"] + log["l_haarpsi"] + log["l_ssim"]), rel=1e-5)
    assert log["score_haarpsi"].item() == pytest.approx(-values["haarpsi"].item() / 0.2, rel=1e-5)
    # As its main script formats them.
    assert all(f"{k:s}: {v:.3e}" for k, v in log.items())


@pytest.mark.parametrize("weight", [0.25, 40.0])
def test_the_weight_of_the_slot_does_not_reach_ours(weight):
    plain, other = make(), make(G_lossfn_weight=weight)
    for model in (plain, other):
        model.optimize_parameters(1)
    assert other.log_dict["l_haarpsi"].item() == pytest.approx(plain.log_dict["l_haarpsi"].item())
    assert other.log_dict["l_pix"].item() == pytest.approx(weight * plain.log_dict["l_pix"].item())
    assert other.log_dict["G_loss"] == pytest.approx(
        sum(other.log_dict[k].item() for k in ("l_pix", "l_haarpsi", "l_ssim")), rel=1e-5
    )


def test_feature_slot_where_there_is_no_pixel_loss():
    model = make(ModelGAN, G_lossfn_weight=0, F_lossfn_weight=0.5)
    model.optimize_parameters(1)
    assert {"F_loss", "l_feat", "l_haarpsi", "score_haarpsi"} <= set(model.log_dict)
    with pytest.raises(InputError, match="calls no image loss"):
        make(ModelGAN, G_lossfn_weight=0)


def test_gated_steps_and_schedules_follow_current_step():
    entry = {"type": "haarpsiLoss", "loss_weight": 0.2, "schedule": {"start": 6}}
    model = make(ModelGAN, D_update_ratio=2, losses={"haarpsi": entry})
    seen = {}
    for step in range(1, 9):
        model.optimize_parameters(step)
        seen[step] = [float(model.log_dict[key]) for key in ("l_pix", "l_haarpsi", "score_haarpsi")]
    assert [step for step, (pixel, _, _) in seen.items() if pixel > 0] == [2, 4, 6, 8]
    assert [step for step, (_, ours, _) in seen.items() if ours < 0] == [6, 8]
    assert [step for step, (_, _, score) in seen.items() if score > 0] == [6, 8]


def test_nan_stops_before_the_optimizer_by_name():
    model = make()
    before = next(model.netG.parameters()).detach().clone()
    model.feed_data({"L": torch.full((1, 3, 32, 32), float("nan")), "H": torch.rand(1, 3, 32, 32)})
    with pytest.raises((NonFiniteError, InputError), match=r"NaN|finite"):
        model.optimize_parameters(1)
    assert torch.equal(next(model.netG.parameters()).detach(), before)


def test_without_the_key_nothing_changes():
    model = make(losses=None)
    model.optimize_parameters(1)
    assert type(model.G_lossfn) is nn.L1Loss and list(model.log_dict) == ["G_loss"]
    assert kair.perceptual(type(model)) is type(model)


@pytest.mark.parametrize(
    ("losses", "names"),
    [
        ([{"type": "haarpsiLoss"}], "train.losses"),
        ({"x": {"type": "haarpsiloss"}}, "train.losses.x.*'haarpsiLoss'"),
        ({"x": {"loss_weight": 1}}, "train.losses.x.*None"),
        ({"x": {"type": "haarpsiLoss", "los_weight": 1}}, "'los_weight'.*'loss_weight'"),
    ],
)
def test_wrong_entries_are_named(losses, names):
    with pytest.raises((InputError, UnknownNameError), match=names):
        make(losses=losses)


MAIN = """
import argparse, json
import torch
from models.select_model import define_Model
parser = argparse.ArgumentParser()
parser.add_argument("--opt")
model = define_Model(json.load(open(parser.parse_args().opt)))
model.init_train()
for step in (1, 2):
    model.feed_data({"L": torch.full((1, 3, 32, 32), 0.4), "H": torch.full((1, 3, 32, 32), 0.5)})
    model.optimize_parameters(step)
    print("".join("{:s}: {:.3e} ".format(k, v) for k, v in model.log_dict.items()))
"""


def start(folder, *command):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "sr_perceptual_loss.integrations.kair", *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=env, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_start_script_unedited(tmp_path):
    """Its layout: the script takes define_Model from models.select_model, which imports the class that it names."""
    (tmp_path / "models").mkdir()
    source = Path(__file__).read_text()
    stand_in = source[source.index("class ModelPlain:") : source.index("class ModelGAN")]
    head = "from collections import OrderedDict\nimport torch\nfrom torch import nn\n"
    scale = "class Scale(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    scale += "        self.w = nn.Parameter(torch.ones(()))\n    def forward(self, x):\n        return self.w * x\n"
    (tmp_path / "models" / "model_plain.py").write_text(head + scale + stand_in)
    (tmp_path / "models" / "select_model.py").write_text("def define_Model(opt):\n    raise SystemExit('KAIR own')\n")
    (tmp_path / "main_train_psnr.py").write_text(MAIN)
    options = {"model": "plain", "gpu_ids": [], "train": {"G_lossfn_weight": 1, "losses": LOSSES}}
    (tmp_path / "x.json").write_text(json.dumps(options))
    log = start(tmp_path, "main_train_psnr.py", "--opt", "x.json")
    assert log.count("score_haarpsi: ") == 2 and log.count("l_ssim: ") == 2


def test_a_command_without_start_script_is_explained(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kair", "--opt", "x.json"])
    with pytest.raises(InputError, match="expected a start script of KAIR"):
        kair.main()


@pytest.mark.skipif(not CLONE, reason="SRPL_KAIR names no clone of cszn/KAIR")
@pytest.mark.parametrize("kind", ["plain", "gan"])
def test_the_real_model_classes(kind, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(CLONE)
    for name in [n for n in sys.modules if n.split(".")[0] in ("models", "utils", "data")]:
        monkeypatch.delitem(sys.modules, name)
    net = {"net_type": "msrresnet1", "in_nc": 3, "out_nc": 3, "nc": 8, "nb": 1, "act_mode": "R"}
    net |= {"upsample_mode": "upconv", "scale": 4, "init_type": "orthogonal", "init_bn_type": "uniform"}
    net["init_gain"] = 0.2
    train = {"G_lossfn_type": "l1", "G_lossfn_weight": 2.0, "losses": LOSSES, "E_decay": 0, "D_init_iters": 0}
    train |= {"G_optimizer_type": "adam", "G_optimizer_lr": 1e-3, "G_optimizer_betas": [0.9, 0.99]}
    train |= {"G_optimizer_wd": 0, "G_optimizer_reuse": False, "G_optimizer_clipgrad": None, "D_update_ratio": 2}
    train |= {"G_regularizer_orthstep": None, "G_regularizer_clipstep": None, "F_lossfn_weight": 0}
    train |= {"gan_type": "gan", "D_lossfn_weight": 0.1, "D_optimizer_lr": 1e-3, "D_optimizer_reuse": False}
    for letter in "GD":
        train |= {f"{letter}_scheduler_type": "MultiStepLR", f"{letter}_scheduler_milestones": [100]}
        train |= {f"{letter}_scheduler_gamma": 0.5}
    path = dict.fromkeys(("pretrained_netG", "pretrained_netE", "pretrained_netD", "pretrained_optimizerG"))
    path |= {"pretrained_optimizerD": None, "models": str(tmp_path)}
    opt = {"model": kind, "gpu_ids": [], "is_train": True, "dist": False, "scale": 4, "path": path, "netG": net}
    opt["netD"] = {"net_type": "discriminator_unet", "in_nc": 3, "base_nc": 8, "n_layers": 3, "norm_type": "spectral"}
    opt["netD"] |= {"init_type": "orthogonal", "init_bn_type": "uniform", "init_gain": 0.2}
    opt["train"] = train
    model = kair.define_model(opt)
    model.init_train()
    assert type(model).__mro__[2].__module__ == f"models.model_{kind}"
    for step in (1, 2):
        model.update_learning_rate(step)
        model.feed_data({"L": torch.rand(2, 3, 16, 16), "H": torch.rand(2, 3, 64, 64)})
        model.optimize_parameters(step)
    log = model.current_log()
    assert {"G_loss", "l_pix", "l_haarpsi", "score_haarpsi", "l_ssim"} <= set(log)
    assert log["G_loss"] == pytest.approx(sum(float(log[k]) for k in ("l_pix", "l_haarpsi", "l_ssim")), rel=1e-4)
    assert ("D_loss" in log) == (kind == "gan")
