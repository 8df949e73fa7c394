"""srpl convert: what it prints and where the file is put, with and without --warm-start."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from sr_perceptual_loss.critics.rqi_ahiq.network import RQIAhiq
from sr_perceptual_loss.critics.rqi_maniqa.network import RQIManiqa
from sr_perceptual_loss.weights.file import read


def test_a_published_file_is_put_into_the_store(srpl, checkpoint, tmp_path):
    result = srpl("convert", checkpoint, "--critic", "small")
    assert result.exit_code == 0, result.stderr
    path, digest = result.stdout.rstrip("\n").split("\t")
    assert path == str(tmp_path / "store" / "weights" / "small-official.safetensors")
    assert digest == read(path).sha256
    assert read(path).metadata["srpl.licence"] == "MIT"
    assert "'params'" in result.stderr
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in result.stderr


def with_hash(monkeypatch, small, sha256):
    entry = dataclasses.replace(small.card.weights["official"], sha256=sha256)
    monkeypatch.setattr(small, "card", dataclasses.replace(small.card, weights={"official": entry}))


@pytest.mark.parametrize("known", [True, False])
def test_only_a_hash_makes_a_file_the_published_one(srpl, small, checkpoint, tmp_path, monkeypatch, known):
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    if known:
        with_hash(monkeypatch, small, digest)
    result = srpl("convert", checkpoint, "--critic", "small")
    origin = read(result.stdout.split("\t")[0]).metadata["srpl.origin"]
    assert ("your word" in result.stderr) is not known
    assert (origin == "the authors") is known
    assert ("small_weights.pt" in origin and digest in origin) is not known


def test_known_hash_under_another_name_and_name_with_another_hash(srpl, small, checkpoint, tmp_path, monkeypatch):
    with_hash(monkeypatch, small, hashlib.sha256(checkpoint.read_bytes()).hexdigest())
    renamed = checkpoint.rename(tmp_path / "renamed.pt")
    assert "small-official.safetensors" in srpl("convert", renamed, "--critic", "small").stdout
    out = srpl("convert", renamed, "--critic", "small", "--out", tmp_path / "o.safetensors").stdout.split("\t")[0]
    assert read(out).metadata["srpl.origin"] == "the authors"
    torch.save({"weight": torch.tensor([5.0])}, checkpoint)
    result = srpl("convert", checkpoint, "--critic", "small")
    assert result.exit_code == 2 and small.card.weights["official"].sha256 in result.stderr
    assert float(read(tmp_path / "store" / "weights" / "small-official.safetensors").state["weight"]) == 2.0


def test_averaged_weights_are_taken_and_the_raw_ones_named(srpl, small, tmp_path):
    torch.save({"net": {"weight": torch.ones(1)}, "net_ema": {"weight": torch.zeros(1)}}, tmp_path / "x.pt")
    result = srpl("convert", tmp_path / "x.pt", "--critic", "small")
    assert "'net_ema'" in result.stderr and ": net)" in result.stderr
    assert float(read(tmp_path / "x.safetensors").state["weight"]) == 0.0


def test_a_name_that_the_terminal_cannot_show_is_printed_as_its_bytes(srpl, small, tmp_path):
    path = tmp_path / "d\udcff"
    path.mkdir()
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    (path / "x\udce9.pt").write_bytes((tmp_path / "x.pt").read_bytes())
    result = srpl("convert", path / "x\udce9.pt", "--critic", "small", "--out", tmp_path / "é.safetensors")
    assert result.stdout_bytes.startswith(os.fsencode(tmp_path / "é.safetensors") + b"\t")
    assert r"x\udce9.pt" in read(tmp_path / "é.safetensors").metadata["srpl.origin"]
    result = srpl("convert", path / "x\udce9.pt", "--critic", "small")  # safetensors opens no such name
    assert result.exit_code == 2 and "UTF-8" in result.stderr


def test_another_file_is_put_beside_it_or_at_out(srpl, checkpoint, tmp_path):
    mine = checkpoint.rename(tmp_path / "mine.pth")
    assert srpl("convert", mine, "--critic", "small").stdout.startswith(f"{tmp_path / 'mine.safetensors'}\t")
    out = tmp_path / "new" / "o.safetensors"
    assert srpl("convert", mine, "--critic", "small", "--out", out).stdout.startswith(f"{out}\t")
    assert float(read(out).state["weight"]) == 2.0
    assert not (tmp_path / "store").exists()


def test_key(srpl, small, tmp_path):
    torch.save({"params": {"weight": torch.ones(1)}, "best": {"weight": torch.zeros(1)}}, tmp_path / "x.pt")
    result = srpl("convert", tmp_path / "x.pt", "--critic", "small", "--key", "best")
    assert "'best'" in result.stderr
    assert float(read(tmp_path / "x.safetensors").state["weight"]) == 0.0


def test_config(srpl, checkpoint, tmp_path):
    result = srpl("convert", checkpoint, "--critic", "small", "--config", "mode=raw", "--config", "scale=0.5")
    assert result.stdout.startswith(f"{tmp_path / 'small_weights.safetensors'}\t"), result.stderr
    assert read(tmp_path / "small_weights.safetensors").config == {"mode": "raw", "scale": 0.5}


def test_a_checkpoint_of_another_critic_is_named(srpl, small, tmp_path):
    state = torch.nn.Sequential(torch.nn.Linear(1, 1)).state_dict()
    torch.save(state, tmp_path / "x.pt")
    result = srpl("convert", tmp_path / "x.pt", "--critic", "small")
    assert result.exit_code == 2
    assert "'small'" in result.stderr and "weight got (1, 1) expected (1,)" in result.stderr
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    result = srpl("convert", tmp_path / "x.pt", "--critic", "efficient_pban")
    assert "critic 'small'" in result.stderr


def test_the_source_is_never_overwritten(srpl, small, tmp_path):
    save_file({"weight": torch.ones(1)}, tmp_path / "x.safetensors")
    result = srpl("convert", tmp_path / "x.safetensors", "--critic", "small")
    assert result.exit_code == 2
    assert "--out" in result.stderr


def config(cls, **changes):
    """--config options that build ``cls.tiny()``."""
    arguments = {**cls.tiny().config, **changes}
    return [word for name, value in arguments.items() for word in ("--config", f"{name}={json.dumps(value)}")]


@pytest.fixture
def maniqa(tmp_path):
    path = tmp_path / "mine.pth"
    torch.save({k: v for k, v in RQIManiqa.tiny().state_dict().items() if not k.startswith("conv0_")}, path)
    return path


def test_warm_start_from_maniqa(srpl, maniqa, tmp_path):
    result = srpl("convert", maniqa, "--critic", "rqi_maniqa", "--warm-start", *config(RQIManiqa, scale=0.13))
    assert result.exit_code == 0, result.stderr
    path, digest = result.stdout.rstrip("\n").split("\t")
    assert path == str(tmp_path / "mine-warm_start.safetensors")
    assert (read(path).sha256, read(path).config["scale"]) == (digest, 0.13)
    assert "random (seed 0): conv0_x.* (2), conv0_x1.* (2), conv0_x2.* (2);" in result.stderr
    assert "--config scale=0.13" in result.stderr and "must be trained" in result.stderr
    assert not (tmp_path / "store").exists()


def test_without_warm_start_the_message_names_it(srpl, maniqa):
    result = srpl("convert", maniqa, "--critic", "rqi_maniqa", *config(RQIManiqa))
    assert result.exit_code == 2
    assert f"srpl convert {maniqa} --critic rqi_maniqa --warm-start" in result.stderr


def test_warm_start_from_ahiq_with_a_backbone(srpl, tmp_path):
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
    random = sum(key.startswith("resnet50.") for key in state)
    assert f"{len(state) - random} of {len(state)} entries" in result.stderr
    assert "regressor_model_state_dict" in result.stderr and "vit.pth" in result.stderr
    assert f"random (seed 5): resnet50.* ({random});" in result.stderr
    assert "vit_base_patch8_224.augreg_in21k_ft_in1k" in result.stderr
    assert torch.equal(read(out).state["vit.pos_embed"], state["vit.pos_embed"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--config", "dropoot=0"), "'dropout'"),
        (("--config", "raw"), "'raw'"),
        (("--warm-start", "--backbone", "vit"), "PART=FILE"),
        (("--warm-start", "--backbone", "vit=a", "--backbone", "vit=b"), "'vit=b'"),
        (("--backbone", "vit=a"), "--backbone: only with --warm-start"),
        (("--seed", "3"), "--seed: only with --warm-start"),
    ],
)
def test_options_that_are_refused(srpl, maniqa, options, words):
    result = srpl("convert", maniqa, "--critic", "rqi_maniqa", *options)
    assert result.exit_code == 2
    assert words in result.stderr
