"""srpl list, fetch and convert: what they print, where the file lands."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from sr_perceptual_loss.weights.container import read


def test_list_text(srpl, small):
    text = srpl("list").stdout
    assert "haarpsi\n  paper    Reisenhofer et al." in text
    assert "  sizes    sides >= 16\n  scores   0 to 1, absolute; higher is better\n  weights  none needed" in text
    assert "small\n  paper    Nobody, 2026\n  sizes    exactly 8x8\n  scores   -1 to 0, relative to the ref" in text
    assert "weights  official: not on this machine (srpl fetch small)" in text
    assert "licence: MIT; commercial use: nobody has said" in text
    assert "trained on: PIPAL; 1 MB" in text


def test_list_json_knows_what_is_here(srpl, small, tmp_path, hub):
    def entry():
        critics = {c["name"]: c for c in json.loads(srpl("list", "--json").stdout)}
        assert critics["haarpsi"]["weights"] == []
        assert critics["haarpsi"]["needs_weights"] is False
        assert critics["small"]["score_range"] == [-1.0, 0.0]
        assert critics["small"]["relative"] is True
        return critics["small"]["weights"][0]

    assert entry()["on_this_machine"] is False
    assert entry()["url"] == "https://huggingface.co/someone/small/resolve/main/small_weights.pt"
    path = srpl("fetch", "small").stdout.strip()
    assert entry()["on_this_machine"] is True
    assert entry()["path"] == path == str(tmp_path / "store" / "weights" / "small-official.safetensors")


def test_list_of_the_real_critics(srpl):
    critics = {c["name"]: c for c in json.loads(srpl("list", "--json").stdout)}
    assert {"efficient_pban", "haarpsi", "rqi_maniqa"} <= set(critics)
    assert "none published" in srpl("list").stdout and "note" not in srpl("list").stdout
    assert any("neither RQI" in note for note in critics["rqi_lite"]["notes"]) and critics["rqi_lite"]["capped"]


def test_list_of_one_has_its_notes(srpl):
    text = srpl("list", "rqi_lite").stdout
    assert text.startswith("rqi_lite\n") and "efficient_pban" not in text
    assert "note     It is neither RQI nor Efficient-PBAN" in text and "form: hinge" in " ".join(text.split())
    wrong = srpl("list", "rqi_light")
    assert wrong.exit_code == 2 and "Did you mean 'rqi_lite'" in wrong.stderr


def test_fetch_prints_the_path_and_talks_on_stderr(srpl, small, hub, tmp_path):
    result = srpl("fetch", "small", "--weights", "official")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'store' / 'weights' / 'small-official.safetensors'}\n"
    assert "downloading https://huggingface.co/someone/small" in result.stderr
    assert "licence: MIT" in result.stderr
    again = srpl("fetch", "small")
    assert again.stdout == result.stdout
    assert again.stderr == ""


def test_fetch_of_what_is_not_published(srpl, small):
    assert "no weights 'best'. Known: official." in srpl("fetch", "small", "--weights", "best").stderr
    result = srpl("fetch", "efficient_pban")
    assert result.exit_code == 2
    assert "nobody has published weights" in result.stderr


def test_offline_fetch_names_the_way_by_hand(srpl, small, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = srpl("fetch", "small")
    assert result.exit_code == 2
    assert "HF_HUB_OFFLINE is set" in result.stderr
    assert "srpl convert small_weights.pt --critic small" in result.stderr


def test_convert_of_a_published_file_lands_in_the_store(srpl, checkpoint, tmp_path):
    result = srpl("convert", checkpoint, "--critic", "small")
    assert result.exit_code == 0, result.stderr
    path, digest = result.stdout.rstrip("\n").split("\t")
    assert path == str(tmp_path / "store" / "weights" / "small-official.safetensors")
    assert digest == read(path).sha256
    assert read(path).metadata["srpl.licence"] == "MIT"
    assert "1 entries, taken from 'params'" in result.stderr
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in result.stderr


def test_convert_of_another_file_lands_beside_it_or_at_out(srpl, checkpoint, tmp_path):
    mine = checkpoint.rename(tmp_path / "mine.pth")
    assert srpl("convert", mine, "--critic", "small").stdout.startswith(f"{tmp_path / 'mine.safetensors'}\t")
    out = tmp_path / "new" / "o.safetensors"
    assert srpl("convert", mine, "--critic", "small", "--out", out).stdout.startswith(f"{out}\t")
    assert float(read(out).state["weight"]) == 2.0
    assert not (tmp_path / "store").exists()


def test_convert_key(srpl, small, tmp_path):
    torch.save({"params": {"weight": torch.ones(1)}, "best": {"weight": torch.zeros(1)}}, tmp_path / "x.pt")
    result = srpl("convert", tmp_path / "x.pt", "--critic", "small", "--key", "best")
    assert "taken from 'best'" in result.stderr
    assert float(read(tmp_path / "x.safetensors").state["weight"]) == 0.0


def test_convert_config(srpl, checkpoint, tmp_path):
    result = srpl("convert", checkpoint, "--critic", "small", "--config", "mode=raw", "--config", "scale=0.5")
    assert result.stdout.startswith(f"{tmp_path / 'small_weights.safetensors'}\t"), result.stderr
    assert read(tmp_path / "small_weights.safetensors").config == {"mode": "raw", "scale": 0.5}


@pytest.mark.parametrize(
    ("config", "words"),
    [("modes=raw", "unknown key 'modes'. Did you mean 'mode'?"), ("raw", "got 'raw', expected key=value")],
)
def test_convert_config_refuses(srpl, checkpoint, config, words):
    result = srpl("convert", checkpoint, "--critic", "small", "--config", config)
    assert result.exit_code == 2
    assert words in result.stderr


def test_convert_says_which_critic_it_looks_like(srpl, small, tmp_path):
    state = torch.nn.Sequential(torch.nn.Linear(1, 1)).state_dict()
    torch.save(state, tmp_path / "x.pt")
    result = srpl("convert", tmp_path / "x.pt", "--critic", "small")
    assert result.exit_code == 2
    assert "does not fit the critic 'small' (1 entries expected, 2 found). 1 missing: weight; 2 extra:" in result.stderr
    torch.save({"weight": torch.ones(1)}, tmp_path / "x.pt")
    result = srpl("convert", tmp_path / "x.pt", "--critic", "efficient_pban")
    assert "look like the critic 'small'" in result.stderr


def test_convert_never_overwrites_its_source(srpl, small, tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(1)}, tmp_path / "x.safetensors")
    result = srpl("convert", tmp_path / "x.safetensors", "--critic", "small")
    assert result.exit_code == 2
    assert "--out FILE" in result.stderr
