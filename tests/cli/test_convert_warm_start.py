"""srpl convert --warm-start: what it prints and where the file lands."""

from __future__ import annotations

import json

import pytest
import torch

from sr_perceptual_loss.critics.rqi_ahiq.network import RQIAhiq
from sr_perceptual_loss.critics.rqi_maniqa.network import RQIManiqa
from sr_perceptual_loss.weights.container import read


def config(cls, **changes):
    """--config options that build ``cls.tiny()``."""
    arguments = {**cls.tiny().config, **changes}
    return [word for name, value in arguments.items() for word in ("--config", f"{name}={json.dumps(value)}")]


@pytest.fixture
def maniqa(tmp_path):
    path = tmp_path / "mine.pth"
    torch.save({k: v for k, v in RQIManiqa.tiny().state_dict().items() if not k.startswith("conv0_")}, path)
    return path


def test_maniqa(srpl, maniqa, tmp_path):
    result = srpl("convert", maniqa, "--critic", "rqi_maniqa", "--warm-start", *config(RQIManiqa, scale=0.13))
    assert result.exit_code == 0, result.stderr
    path, digest = result.stdout.rstrip("\n").split("\t")
    assert path == str(tmp_path / "mine-warm_start.safetensors")
    assert (read(path).sha256, read(path).config["scale"]) == (digest, 0.13)
    assert "random (seed 0): conv0_x.* (2), conv0_x1.* (2), conv0_x2.* (2);" in result.stderr
    assert "add --config scale=0.13" in result.stderr
    assert "not RQI-trained: must be trained." in result.stderr
    assert not (tmp_path / "store").exists()


def test_without_the_flag_the_message_names_it(srpl, maniqa):
    result = srpl("convert", maniqa, "--critic", "rqi_maniqa", *config(RQIManiqa))
    assert result.exit_code == 2
    assert f"srpl convert {maniqa} --critic rqi_maniqa --warm-start\n" in result.stderr


def test_ahiq_with_backbones(srpl, tmp_path):
    state = RQIAhiq.tiny().state_dict()

    def part(name):
        return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}

    checkpoint = {f"{name}_model_state_dict": part(name) for name in ("regressor", "deform_net")}
    torch.save(checkpoint, tmp_path / "a.pth")
    torch.save(part("vit"), tmp_path / "vit.pth")
    out = tmp_path / "o.safetensors"
    options = ("--critic", "rqi_ahiq", "--warm-start", "--seed", 5, "--out", out, *config(RQIAhiq))
    result = srpl("convert", tmp_path / "a.pth", *options, "--backbone", f"vit={tmp_path / 'vit.pth'}")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{out}\t")
    left = sum(key.startswith("resnet50.") for key in state)
    assert f"{len(state) - left} of {len(state)} entries taken, from 'regressor_model_state_dict" in result.stderr
    assert f"random (seed 5): resnet50.* ({left});" in result.stderr
    assert "vit_base_patch8_224.augreg_in21k_ft_in1k" in result.stderr
    assert torch.equal(read(out).state["vit.pos_embed"], state["vit.pos_embed"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--warm-start", "--backbone", "vit"), "--backbone: got 'vit', expected PART=FILE"),
        (("--warm-start", "--backbone", "vit=a", "--backbone", "vit=b"), "each part once"),
        (("--backbone", "vit=a"), "--backbone: acts with --warm-start only"),
        (("--seed", "3"), "--seed: acts with --warm-start only"),
    ],
)
def test_wrong_options(srpl, maniqa, options, words):
    result = srpl("convert", maniqa, "--critic", "rqi_maniqa", *options)
    assert result.exit_code == 2
    assert words in result.stderr
