"""The demo's parts: its start network, its data, what it runs, its table and picture; and that it continues."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

import sr_perceptual_loss.integrations.basicsr_shim  # noqa: F401 - first, so that basicsr can be imported

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("basicsr")


@pytest.fixture
def demo(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    module = importlib.import_module("demo")
    monkeypatch.setattr(module, "OUT", tmp_path)
    return module


def test_the_start_network_is_that_of_its_card(demo):
    card = yaml.safe_load(demo.START.with_name("card.yml").read_text())
    data = demo.START.read_bytes()
    assert demo.START.name == card["file"]
    assert len(data) == card["bytes"] <= 1_500_000
    assert hashlib.sha256(data).hexdigest() == card["sha256"]
    assert yaml.safe_load(demo.CONFIG.read_text())["network_g"] == card["network_g"]
    network = demo.load_network(demo.START, "params")  # strict
    assert sum(p.numel() for p in network.parameters()) == card["parameters"]


def test_tiles_are_whole_and_no_photograph_dominates(demo):
    for shape in ((352, 352), (106, 160), (48, 100)):
        found = demo.tiles(shape)
        assert 1 <= len(found) <= demo.TILES
        assert all(top + demo.TILE <= shape[0] and left + demo.TILE <= shape[1] for top, left in found)


def test_the_control_is_the_same_training_with_l1_alone(demo):
    full, control = (yaml.safe_load(path.read_text()) for path in (demo.CONFIG, demo.write_control(3)))
    assert control["manual_seed"] == 3 and "network_d" not in control
    assert control["train"]["total_iter"] == full["train"]["total_iter"]
    assert not {"losses", "gan_opt"} & set(control["train"])
    assert control["train"]["optim_g"]["lr"] == full["train"]["optim_g"]["lr"] > 0


def test_table_names_what_improved_beyond_the_control(demo, monkeypatch, capsys):
    monkeypatch.setattr(demo, "L1_ALONE", {name: [0.0, 0.0] for name in demo.MEASURES})
    before = dict.fromkeys(demo.MEASURES, 1.0)
    after = {**before, "psnr": 0.7, "lpips": 1.2, "niqe": 0.9, "dists": 1.05}
    controls = {"control 0": {**before, "dists": 1.1}, "control 1": {**before, "dists": 0.9, "niqe": 0.95}}
    spread = demo.report({"before": before, "after": after, **controls}, Console(width=200))
    assert spread["dists"] == pytest.approx([-0.1, 0.1]) and spread["psnr"] == [0, 0]
    text = capsys.readouterr().out
    assert "than with L1 alone: LPIPS score, NIQE; these got worse: " in text.replace("\n", " ") and "-0.30 dB" in text


def test_comparison_of_two_networks(demo, monkeypatch):
    """A photograph goes through data, networks, measures and picture; the same network gives the same numbers."""
    monkeypatch.setattr(demo, "HELD_OUT", ("coffee.png",))
    whole = demo.read_bundled("coffee.png")
    monkeypatch.setattr(demo, "read_bundled", lambda name: whole[:256, :304])
    monkeypatch.setattr(demo, "SHOWN", {"coffee": (96, 204)})
    network = demo.load_network(demo.START, "params")
    means = demo.compare({"a": network, "b": network, "bicubic": torch.nn.Upsample(scale_factor=4, mode="bicubic")})
    assert means["a"] == means["b"]
    assert means["a"]["psnr"] > means["bicubic"]["psnr"] + 0.3
    assert means["a"]["lpips"] > means["bicubic"]["lpips"]
    from PIL import Image

    picture = np.array(Image.open(demo.OUT / "comparison.png"))
    assert picture.shape[1] > 5 * 3 * demo.CROP
    assert (picture != 255).any()


@pytest.mark.slow
def test_interrupted_it_continues(demo, monkeypatch, tmp_path, capsys):
    """Whole and tiny: the second call starts where the first one stopped, the third one does nothing."""
    monkeypatch.setattr(demo, "TRAIN", ("coins.png",))
    demo.prepare_data(tmp_path / "train")
    opt = yaml.safe_load(demo.CONFIG.read_text())
    opt["name"] = "test_demo"
    opt["path"]["pretrain_network_g"] = str(demo.START)
    for key, kind in (("dataroot_gt", "GT"), ("dataroot_lq", "LR")):
        opt["datasets"]["train"][key] = str(tmp_path / "train" / kind)
    opt["train"]["net_d_init_iters"] = 1
    opt["logger"].update(print_freq=1, save_checkpoint_freq=2)
    config = tmp_path / "tiny.yml"
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for total in (2, 4):
        opt["train"]["total_iter"] = total
        config.write_text(yaml.safe_dump(opt))
        network = demo.train(config, Console())
    log = (tmp_path / "test_demo.log").read_text()
    assert "iter: 2." in log.split("Resuming training")[1]
    assert demo.load_network(network) is not None
    monkeypatch.setattr(subprocess, "Popen", None)
    assert demo.train(config, Console()) == network
