"""Every shipped YAML: loadable, complete, with legal sizes, and one optimizer step with tiny networks and critics."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch
import yaml

CONFIGS = sorted((Path(__file__).parents[2] / "basicsr_configs").glob("*.yml"))
SMALL = {
    "SwinIR": {"depths": [1], "embed_dim": 12, "num_heads": [2], "img_size": 16},
    "RRDBNet": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "UNetDiscriminatorSN": {"num_feat": 4},
    "PatchDiscriminator": {"num_feat": 4},
}


def load(path):
    from basicsr.utils.options import ordered_yaml

    return yaml.load(path.read_text(), Loader=ordered_yaml()[0])


def critic_entries(opt):
    entries = list(opt["train"].get("losses", []))
    if opt["train"].get("perceptual_opt"):
        entries.append(opt["train"]["perceptual_opt"])
    kinds = ("CriticLoss", "RQILoss", "EfficientPBANLoss", "SSIMPerceptualRatioLoss")
    return [e for e in entries if e["type"] in kinds]


@pytest.fixture(params=CONFIGS, ids=lambda p: p.stem)
def config(request, camixersr, monkeypatch):
    from sr_perceptual_loss.integrations.basicsr.projects import ensure_model

    opt = load(request.param)
    monkeypatch.syspath_prepend(str(CONFIGS[0].parents[1]))
    for module in re.findall(r"--import (examples\.\S+)", request.param.read_text()):
        importlib.import_module(module)
    ensure_model(opt["model_type"])
    return request.param, opt


def test_there_are_the_promised_ones():
    promised = {"demo_cpu", "demo_cpu_texture", "demo_cpu_ratio", "demo_cpu_balance"}
    promised |= {"swinir_x4_pixel", "swinir_x4_rqi_gan", "swinir_x4_ratio", "swinir_x4_texture_gan", "esrgan_x4_rqi"}
    promised |= {"esrgan_x4_texture_gan", "camixersr_x4_ssim_pban", "camixersr_x4_texture_gan"}
    assert promised <= {p.stem for p in CONFIGS}


def test_first_line_is_the_command_and_names_agree(config):
    path, opt = config
    assert path.read_text().startswith(f"# srpl basicsr -opt basicsr_configs/{path.name}")
    assert opt["name"] == path.stem


def test_numbers_are_numbers(config):
    """YAML reads 1e-4 as text; BasicSR's optimizers and schedulers would get a string."""
    path, _ = config
    assert not re.search(r":\s*(?!.*!!float)[-+]?\d*\.?\d+e[-+]?\d+", path.read_text())


def test_keys_exist_in_the_constructors(config):
    from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY

    _, opt = config
    assert opt["model_type"] in MODEL_REGISTRY
    for key in ("network_g", "network_d"):
        if key in opt:
            arch = ARCH_REGISTRY.get(opt[key]["type"])
            known = set(inspect.signature(arch.__init__).parameters)
            assert set(opt[key]) - {"type"} <= known | {"resi_connection"}, key
    for dataset in opt["datasets"].values():
        assert dataset["type"] in DATASET_REGISTRY


def test_patches_are_legal(config):
    """The critic's crop fits into gt_size, and the LR patch into the network's windows."""
    from sr_perceptual_loss import CropPlan, get_card

    _, opt = config
    gt = opt["datasets"]["train"]["gt_size"]
    assert gt % opt["scale"] == 0
    window = opt["network_g"].get("window_size", 1)
    assert gt // opt["scale"] % window == 0
    for entry in critic_entries(opt):
        name = entry.get("critic", {"RQILoss": "rqi_maniqa", "EfficientPBANLoss": "efficient_pban"}.get(entry["type"]))
        rule, plan = get_card(name).input_size, CropPlan.from_config(entry.get("crops"))
        side = plan.size or rule.fixed or gt
        assert side <= gt and rule.accepts(side, side)


def test_metrics_run(config):
    from basicsr.utils.registry import METRIC_REGISTRY

    _, opt = config
    for metric in (opt.get("val") or {}).get("metrics", {}).values():
        function = METRIC_REGISTRY.get(metric["type"])
        inspect.signature(function).bind(img=None, img2=None, **{k: v for k, v in metric.items() if k != "type"})


def test_one_step_with_tiny_critics(config, small_vgg, tmp_path, monkeypatch):
    from basicsr.models import build_model

    from sr_perceptual_loss import get_card

    _, opt = config
    opt = copy.deepcopy(opt)
    monkeypatch.chdir(tmp_path)
    opt.update(num_gpu=0, dist=False, rank=0, world_size=1, is_train=True)
    opt["path"]["pretrain_network_g"] = None
    opt.pop("val", None)  # metrics of critics would need the published weights
    for key in ("network_g", "network_d"):
        if key in opt:
            opt[key].update(SMALL.get(opt[key]["type"], {}))
    for entry in critic_entries(opt):
        name = entry.get("critic", "rqi_maniqa" if entry["type"] == "RQILoss" else "efficient_pban")
        if not get_card(name).needs_weights:
            continue
        entry.update(critic=f"tiny_{name}", weights=None)
        fixed = get_card(f"tiny_{name}").input_size.fixed
        if entry.get("crops") and fixed:
            entry["crops"]["size"] = fixed
    expected = {f"l_g_{n}" if "GAN" in opt["model_type"] else f"l_{n}" for n in entry_names(opt)}
    torch.manual_seed(0)
    model = build_model(opt)
    before = [p.detach().clone() for p in model.net_g.parameters()]
    lq = torch.rand(2, 3, 16, 16)
    model.feed_data({"lq": lq, "gt": torch.nn.functional.interpolate(lq, scale_factor=4)})
    model.update_learning_rate(1)
    # Past every start and ramp of the schedules.
    model.optimize_parameters(50_000)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.net_g.parameters(), strict=True))
    assert expected <= set(model.log_dict)
    assert all(abs(v) < 1e6 for v in model.log_dict.values())


def entry_names(opt):
    from sr_perceptual_loss.integrations.basicsr.entries import entry_name

    return [entry_name(e) for e in opt["train"].get("losses", [])]
