"""neosr's contract: one weighted tensor in a slot, under autocast, channels_last and another default device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import CriticLoss, InputError, NonFiniteError, SSIMLoss, create_critic
from sr_perceptual_loss.errors import InstallError
from sr_perceptual_loss.critics.registry import list_critics
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
def test_neosr_all_losses_and_one_per_critic_are_registered_once(host):
    assert {"CriticLoss", "RQILoss", "SSIMLoss", "haarpsiLoss"} <= set(host.names)
    assert {f"{critic}Loss" for critic in list_critics()} <= set(host.names)
    assert neosr.register() == host.names


@pytest.mark.fault(68)
def test_neosr_a_name_of_the_host_is_left_to_it(monkeypatch):
    registries, _ = install(monkeypatch, "neosr", lower=False)
    theirs = type("SSIMLoss", (), {})
    registries.LOSS_REGISTRY.register(theirs)
    names = neosr.register()
    assert registries.LOSS_REGISTRY.get("SSIMLoss") is theirs
    assert "SRPLSSIMLoss" in names
    assert neosr.register() == names


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


@pytest.mark.parametrize("kind", ["SSIMLoss", "haarpsiLoss"])
def test_autocast_layout_and_default_device_change_nothing(host, kind):
    sr, hr = make_pair(2, 48, 48)
    plain = {"SSIMLoss": SSIMLoss, "haarpsiLoss": lambda: CriticLoss("haarpsi")}[kind]()
    leaf = sr.clone().requires_grad_()
    plain(leaf, hr).backward()
    torch.set_default_device("meta")  # as neosr's "cuda": what is made without a device lands elsewhere
    try:
        loss = host.LOSS_REGISTRY.build({"type": kind}).to("cpu", memory_format=torch.channels_last)
        other = sr.contiguous(memory_format=torch.channels_last).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(other, hr.contiguous(memory_format=torch.channels_last))
        value.backward()
    finally:
        torch.set_default_device(None)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, plain(sr, hr))
    torch.testing.assert_close(other.grad, leaf.grad)


def test_random_crops_survive_another_default_device(host):
    sr, hr = make_pair(2, 48, 48)
    torch.set_default_device("meta")
    try:
        loss = host.LOSS_REGISTRY.build({"type": "CriticLoss", "critic": "haarpsi", "crops": {"size": 32, "count": 2}})
        loss.step(7)
        first, second = loss(sr, hr), loss(sr, hr)
    finally:
        torch.set_default_device(None)
    alone = CriticLoss("haarpsi", crops={"size": 32, "count": 2})
    alone.step(7)
    assert float(first) == float(second) == pytest.approx(float(alone(sr, hr)))


def test_inference_tensor_as_target(host):
    sr, hr = make_pair()
    with torch.inference_mode():
        teacher = hr + 0
    for kind in ("SSIMLoss", "haarpsiLoss", "SSIMPerceptualRatioLoss"):
        options = {"critic": "haarpsi"} if kind == "SSIMPerceptualRatioLoss" else {}
        leaf = sr.clone().requires_grad_()
        host.LOSS_REGISTRY.build({"type": kind, **options})(leaf, teacher).backward()
        assert float(leaf.grad.abs().max()) > 0


@pytest.mark.fault(22)
def test_overflow_of_a_scaled_fp16_gradient_is_left_to_the_scaler(host):
    sr, hr = make_pair()
    leaf = sr.half().requires_grad_()
    (host.LOSS_REGISTRY.build({"type": "haarpsiLoss"})(leaf, hr) * 2.0**30).backward()
    assert torch.isinf(leaf.grad).any()
    plain = sr.half().requires_grad_()
    (CriticLoss("haarpsi")(plain, hr) * 2.0**30).backward()
    assert torch.equal(torch.isinf(plain.grad), torch.isinf(leaf.grad))


def test_unknown_key_and_nan_name_our_loss(host):
    with pytest.raises(InputError, match="Did you mean 'loss_weight'"):
        host.LOSS_REGISTRY.build({"type": "haarpsiLoss", "loss_wieght": 1.0})
    with pytest.raises(InputError, match="unknown key 'critic'"):
        host.LOSS_REGISTRY.build({"type": "haarpsiLoss", "critic": "efficient_pban"})
    sr, hr = make_pair()
    with pytest.raises(NonFiniteError, match=r"CriticLoss\(haarpsi\)"):
        host.LOSS_REGISTRY.build({"type": "haarpsiLoss"})(sr * float("nan"), hr)


def test_schedule_without_an_iteration_says_how_to_start(host):
    sr, hr = make_pair()
    loss = host.LOSS_REGISTRY.build({"type": "haarpsiLoss", "schedule": {"start": 3}})
    with pytest.raises(InputError, match=r'model_type = "perceptual_image"'):
        loss(sr, hr)
    loss.step(2)
    assert float(loss(sr, hr)) == 0
    loss.step(3)
    assert float(loss(sr, hr)) < 0


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


@pytest.mark.fault(70)
def test_neosr_metric_takes_bgr_bytes_in_inference_mode(host):
    generator = np.random.default_rng(0)
    hr = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    sr = np.clip(hr.astype(int) + generator.integers(-20, 21, hr.shape) * [1, 0, 0], 0, 255).astype(np.uint8)
    metric = host.METRIC_REGISTRY.get("calculate_haarpsi")
    with torch.inference_mode():
        value = metric(img=sr, img2=hr, crop_border=4, better="higher")

    def rgb(x):
        return torch.from_numpy(x[4:-4, 4:-4, ::-1].copy()).permute(2, 0, 1)[None].float() / 255

    expected = float(create_critic("haarpsi").score(rgb(sr), rgb(hr)))
    swapped = float(create_critic("haarpsi").score(rgb(sr).flip(1), rgb(hr).flip(1)))
    assert isinstance(value, float) and value == pytest.approx(expected, abs=1e-6)
    assert abs(value - swapped) > 1e-4


@pytest.mark.fault(69)
def test_neosr_runner_outside_of_a_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InstallError, match="clone of neosr"):
        neosr.main()


def test_runner_registers_before_the_script_runs(tmp_path):
    (tmp_path / "neosr" / "utils").mkdir(parents=True)
    here = Path(__file__).parent
    (tmp_path / "neosr" / "utils" / "registry.py").write_text(
        f"import sys; sys.path.insert(0, {str(here)!r})\nfrom host_standins import Registry\n"
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


@pytest.mark.fault(67)
@pytest.mark.skipif("SRPL_NEOSR" not in os.environ, reason="needs SRPL_NEOSR=<root of a clone of neosr>")
def test_neosr_real_build_loss():
    code = (
        "import sys; sys.argv = ['train.py', '-opt', 'options/train_compact.toml']\n"  # neosr reads it when imported
        "import torch; from neosr.losses import build_loss; from sr_perceptual_loss.integrations import neosr\n"
        "names = neosr.register()\n"
        "loss = build_loss({'type': 'haarpsiLoss', 'loss_weight': 0.5}).to('cpu', memory_format=torch.channels_last)\n"
        "x = torch.rand(1, 3, 32, 32); assert abs(float(loss(x, x)) + 0.5) < 1e-4, float(loss(x, x))\n"
        "print('ok', names)"
    )
    clone = os.environ["SRPL_NEOSR"]
    paths = os.pathsep.join([clone, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    environment = {**os.environ, "PYTHONPATH": paths}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=clone, capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr[-2000:]
    assert "ok" in out.stdout
