"""CAMixerSR as shipped, through our runner; a stand-in with its contract, and the clone itself where there is one.

The clone: `SRPL_CAMIXERSR=<clone of icandle/CAMixerSR>`, with einops installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from sr_perceptual_loss import InputError

from .camixersr_standin import ARCH, MODEL
from .conftest import L1, settle

CONFIG = Path(__file__).parents[2] / "basicsr_configs" / "camixersr_x4_ssim_pban.yml"
CLONE = os.environ.get("SRPL_CAMIXERSR")
DATA = Path(__file__).parents[3] / "shared" / "data"
WEIGHTS = DATA / "sr_weights" / "camixersr" / "CAMixerSR_S.pth"

TRAIN = {
    "optim_g": {"type": "AdamW", "lr": 1e-3, "weight_decay": 1e-4},
    "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
    "losses": [{"type": "SSIMPerceptualRatioLoss", "name": "both", "critic": "haarpsi"}],
}


@pytest.fixture
def model(camixersr, build, options):
    opt = options("PerceptualCAModel", TRAIN, network_g={"type": "CAMixerSR", "ratio": 0.25})
    opt["val"] = {"routing_seed": 7, "routing_draws": 3}
    return build(None, None, opt=opt, lr=(16, 16))


def test_own_training_step_with_output_and_routing_term(model):
    assert model.net_g.ratio == 0.25
    assert type(model.optimizer_g) is torch.optim.AdamW
    torch.manual_seed(5)
    noise = torch.rand(())
    torch.manual_seed(5)
    before = [p.detach().clone() for p in model.net_g.parameters()]
    model.optimize_parameters(1)
    log = model.log_dict
    assert {"l_pix", "l_ratio", "l_both"} <= set(log)
    assert log["l_ratio"] == pytest.approx(float(2 * 0.25 * (noise - 0.5) ** 2))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.net_g.parameters(), strict=True))


def test_gan_training_adds_the_routing_term(camixersr, build, options):
    """The network's gradients are those of L1, GAN and routing term together."""
    opt = options("PerceptualCAMixerGANModel", {"losses": [L1]}, network_g={"type": "CAMixerSR", "ratio": 0.25})
    model = build(None, None, opt=opt)
    settle(model)
    network, routing = model.net_g, nn.Parameter(torch.tensor(2.0))
    network.register_parameter("routing", routing)
    stock, before = network._forward_hooks.popitem()
    network.register_forward_hook(lambda m, i, result: (result[0], routing**2 * result[1]) if m.training else None)
    network._forward_hooks[stock] = before
    torch.manual_seed(5)
    output, term = network.net(model.lq), 2 * 0.25 * (torch.rand(()) - 0.5) ** 2
    total = (output - model.gt).abs().mean() + 0.1 * nn.functional.softplus(-model.net_d(output)).mean()
    total = total + routing**2 * term
    expected = torch.autograd.grad(total, [*network.net.parameters(), routing])
    torch.manual_seed(5)
    model.optimize_parameters(1)
    for parameter, gradient in zip([*network.net.parameters(), routing], expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-8)
    assert model.log_dict["l_g_ratio"] == pytest.approx(float(4 * term))
    model.test()
    assert model.output.shape == model.gt.shape


def test_a_ratio_that_the_network_has_is_kept(camixersr, build, options, monkeypatch):
    from basicsr.utils.registry import ARCH_REGISTRY

    arch = ARCH_REGISTRY.get("CAMixerSR")
    stock = arch.__init__

    def repaired(self, *args, **kwargs):
        stock(self, *args, **kwargs)
        self.ratio = 0.75

    monkeypatch.setattr(arch, "__init__", repaired)
    opt = options("PerceptualCAModel", TRAIN, network_g={"type": "CAMixerSR", "ratio": 0.25})
    assert build(None, None, opt=opt).net_g.ratio == 0.75


def test_evaluation_repeats_and_leaves_the_random_state(model):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    model.test()
    first = model.output
    torch.manual_seed(2)
    model.test()
    assert torch.equal(model.output, first)
    torch.manual_seed(1)
    model.test()
    assert torch.equal(torch.get_rng_state(), state)
    model.draw = 1
    model.test()
    assert not torch.equal(model.output, first)


class Loader(list):
    """What BasicSR's validation asks a loader."""

    dataset = SimpleNamespace(opt={"name": "t"})


def test_a_metric_is_the_mean_over_images_and_draws(model):
    import numpy as np
    from basicsr.utils.registry import METRIC_REGISTRY

    def calculate_noise(img, img2, **_):
        return float(img.mean())

    METRIC_REGISTRY.register(calculate_noise)
    try:
        model.opt["val"]["metrics"] = {"noise": {"type": "calculate_noise"}}
        nn.init.zeros_(model.net_g.net[0].weight)
        nn.init.zeros_(model.net_g.net[0].bias)
        loader = Loader([{"lq": torch.zeros(1, 3, 8, 8), "gt": torch.zeros(1, 3, 32, 32), "lq_path": ["a"]}] * 2)
        model.nondist_validation(loader, 1, None, False)
    finally:
        METRIC_REGISTRY._obj_map.pop("calculate_noise")
    draws = []
    for seed in (7, 8, 9):
        torch.manual_seed(seed)
        draws.append(np.round(float(torch.rand(())) * 255))
    assert model.metric_results["noise"] == pytest.approx(np.mean(draws))
    assert model.draw == 0


def test_data_parallel_is_refused(camixersr, build, options):
    from basicsr.utils.registry import MODEL_REGISTRY

    class Several(MODEL_REGISTRY.get("PerceptualCAModel")):
        def model_to_device(self, net):
            return nn.DataParallel(net)

    opt = options("PerceptualCAModel", TRAIN, network_g={"type": "CAMixerSR"})
    with pytest.raises(InputError, match="num_gpu: got 4"):
        Several({**opt, "num_gpu": 4})


def start(folder, opt, **extra):
    command = [sys.executable, "-m", "sr_perceptual_loss.integrations.basicsr_runner"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--import", "archs", "--import", "models", "-opt", str(opt)],
        cwd=folder, capture_output=True, text=True, check=False, env=env, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def small_config(data, **top):
    """The shipped YAML with HaarPSI, which needs no weights, on a few tiny images."""
    from basicsr.utils.options import ordered_yaml

    opt = yaml.load(CONFIG.read_text(), Loader=ordered_yaml()[0])
    opt = yaml.safe_load(yaml.dump(dict(opt), Dumper=ordered_yaml()[1]).replace("!!omap", ""))
    for dataset in opt["datasets"].values():
        dataset.update(dataroot_gt=str(data / "GT"), dataroot_lq=str(data / "LR"))
    opt["datasets"]["train"].update(gt_size=64, num_worker_per_gpu=0, batch_size_per_gpu=2)
    opt["logger"].update(print_freq=1, use_tb_logger=False)
    opt["train"]["total_iter"] = 2
    opt["train"]["losses"] = [{"type": "SSIMPerceptualRatioLoss", "name": "ssim_haarpsi", "critic": "haarpsi"}]
    opt.update(num_gpu=0, **top)
    return opt


def check_log(log):
    values = re.findall(r"iter:\s*(\d+).*?l_pix: (\S+) l_ratio: (\S+) l_ssim_haarpsi: (\S+)", log)
    assert [int(v[0]) for v in values] == [1, 2], log[-3000:]
    assert "Model [PerceptualCAModel] is created" in log
    assert re.search(r"# haarpsi: \d\.\d{4}", log)


def test_an_unmodified_clone_through_the_runner(project):
    """The layout of the clone: archs and models are found in codes/basicsr, which does not hide BasicSR."""
    folder, _ = project
    codes = folder / "codes"
    for name, source in (("archs", ARCH), ("models", MODEL)):
        (codes / "basicsr" / name).mkdir(parents=True)
        (codes / "basicsr" / name / "__init__.py").write_text(source)
    (codes / "basicsr" / "__init__.py").write_text("from .archs import *\nfrom .models import *\n")
    opt = small_config(folder / "data")
    opt["path"]["pretrain_network_g"] = None
    (codes / "x.yml").write_text(yaml.safe_dump(opt))
    check_log(start(codes, "x.yml"))
    assert (codes / "experiments" / "camixersr_x4_ssim_pban" / "models" / "net_g_latest.pth").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not CLONE, reason="SRPL_CAMIXERSR names no clone of icandle/CAMixerSR")
@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"{WEIGHTS} is missing")
def test_the_real_clone_with_its_weights(project):
    """Two steps, and before them the published 32.28 dB on Set5."""
    folder, _ = project
    opt = small_config(folder / "data", name="pytest_camixersr")
    opt["path"]["pretrain_network_g"] = str(WEIGHTS)
    (folder / "x.yml").write_text(yaml.safe_dump(opt))
    check_log(start(Path(CLONE) / "codes", folder / "x.yml"))
    for kind, tail, source in (("GT", "", DATA / "Set5" / "HR"), ("LR", "x4", DATA / "Set5" / "LR_bicubic" / "X4")):
        (folder / "set5" / kind).mkdir(parents=True)
        for image in sorted(source.glob("*.png")):
            (folder / "set5" / kind / f"{image.stem.removesuffix(tail)}.png").symlink_to(image)
    opt = small_config(folder / "set5", name="pytest_camixersr")
    opt["path"]["pretrain_network_g"] = str(WEIGHTS)
    opt["train"]["total_iter"] = 0
    (folder / "y.yml").write_text(yaml.safe_dump(opt))
    log = start(Path(CLONE) / "codes", folder / "y.yml")
    assert abs(float(re.search(r"# psnr: (\d+\.\d+)", log)[1]) - 32.28) <= 0.02
