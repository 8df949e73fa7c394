"""neosr's contract: one weighted tensor in a slot, micro-batches counted as iterations, BGR bytes in validation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import CriticLoss, InputError, NonFiniteError
from sr_perceptual_loss.integrations import neosr

from .host_standins import Scale, install


@pytest.fixture
def host(monkeypatch):
    registries, _ = install(monkeypatch, "neosr", lower=False)
    registries.names = neosr.register()
    return registries


class Image:
    """neosr's training step, reduced to what a loss sees of it."""

    def __init__(self, opt):
        self.opt, self.log_dict = opt, {}
        self.net_g = Scale()
        self.cri_pix = None
        self.cri_perceptual = opt["loss"]
        self.calls_per_step = opt.get("calls", 1)

    def optimize_parameters(self, current_iter):
        sr, hr = make_pair(2, 32, 32)
        for _ in range(self.calls_per_step):
            output = torch.clamp(self.net_g(sr), 1 / 255, 1)
            total = torch.zeros(1)
            total += self.cri_perceptual(output, hr)
            total.backward()
        self.log_dict = {"l_g_percep": total.item()}


Image.__name__ = "image"


@pytest.mark.fault(68)
def test_neosr_registers_once(host):
    assert {"SSIMLoss", "haarpsiLoss"} <= set(host.names) and neosr.register() == host.names
    assert "calculate_haarpsi" in host.METRIC_REGISTRY


@pytest.mark.fault(67)
def test_neosr_loss_applies_its_weight_and_returns_one_float32_tensor(host):
    sr, hr = make_pair()
    loss = host.LOSS_REGISTRY.build({"type": "haarpsiLoss", "loss_weight": "5e-1"})
    value = loss(sr, hr)
    assert value.shape == () and value.dtype == torch.float32
    torch.testing.assert_close(value, CriticLoss("haarpsi", loss_weight=0.5)(sr, hr))
    assert float(loss.terms["score"]) == pytest.approx(-2 * float(value))
    total = torch.zeros(1)
    total += value
    assert total.shape == (1,)


def test_errors_name_our_loss_and_the_model(host):
    sr, hr = make_pair()
    with pytest.raises(NonFiniteError, match=r"CriticLoss\(haarpsi\)"):
        host.LOSS_REGISTRY.build({"type": "haarpsiLoss"})(sr * float("nan"), hr)
    with pytest.raises(InputError, match=r'model_type = "perceptual_image"'):
        host.LOSS_REGISTRY.build({"type": "haarpsiLoss", "schedule": {"start": 3}})(sr, hr)


@pytest.mark.parametrize(("accumulate", "expected"), [(1, [1, 2, 3, 4]), (2, [1, 1, 2, 2]), (3, [1, 1, 1, 2])])
def test_model_tells_the_iteration_that_neosr_logs(host, accumulate, expected):
    host.MODEL_REGISTRY.register(Image)
    assert neosr.register_models() == ["perceptual_image"] == neosr.register_models()
    loss = host.LOSS_REGISTRY.build({"type": "haarpsiLoss"})
    told = []
    loss.step = told.append
    opt = {"datasets": {"train": {"accumulate": accumulate}}, "loss": loss}
    model = host.MODEL_REGISTRY.get("perceptual_image")(opt)
    for micro_batch in range(1, 5):
        model.optimize_parameters(micro_batch)
    assert told == expected
    assert model.log_dict["score_perceptual"] == pytest.approx(-model.log_dict["l_g_percep"])


@pytest.mark.fault(78)
def test_second_closure_of_sam_sees_the_same_crops(host):
    host.MODEL_REGISTRY.register(Image)
    neosr.register_models()
    loss = host.LOSS_REGISTRY.build({"type": "haarpsiLoss", "crops": {"size": 16}})
    values = []
    forward = loss.forward
    loss.forward = lambda *pair: values.append(forward(*pair)) or values[-1]
    model = host.MODEL_REGISTRY.get("perceptual_image")({"datasets": {"train": {}}, "loss": loss, "calls": 2})
    model.optimize_parameters(1)
    model.optimize_parameters(2)
    first, second, other = (value.item() for value in values[:3])
    assert first == second != other


def test_runner_registers_before_the_script_runs(tmp_path):
    (tmp_path / "neosr" / "utils").mkdir(parents=True)
    (tmp_path / "neosr" / "utils" / "registry.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom host_standins import Registry\n"
        "LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY = Registry(), Registry(), Registry()\n"
    )
    (tmp_path / "neosr" / "models.py").write_text("")
    (tmp_path / "train.py").write_text(
        "import sys\nfrom neosr.utils.registry import LOSS_REGISTRY\n"
        "assert __name__ == '__main__'\n"
        "print(type(LOSS_REGISTRY.build({'type': 'haarpsiLoss'})).__name__, sys.argv[1:])\n"
    )
    command = [sys.executable, "-m", "sr_perceptual_loss.integrations.neosr", "-opt", "x.toml"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split("\n")[0] == "haarpsiLoss ['-opt', 'x.toml']"
