"""srpl list and fetch: what they print, where the file is put."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_critics import CRITICS

from sr_perceptual_loss import get_card, list_critics
from sr_perceptual_loss.critics import registry

ROOT = Path(__file__).parents[2]


def rows(srpl):
    lines = [line.split("\t") for line in srpl("list").stdout.splitlines()]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines}


def test_list_has_a_line_per_critic(srpl, small):
    table = rows(srpl)
    for name, weights in (
        ("haarpsi", "formula"),
        ("ssimulacra2", "formula"),
        ("lpips", "bundled"),
        ("dists_vgg", "download"),
        ("rqi_topiq", "none published"),
    ):
        assert table[name]["weights"] == weights
    expected = {"critic": "small", "weights": "download", "scores": "-1..0", "symmetric": "no", "cost": "not measured"}
    assert table["small"] == {
        **expected, "licence": "MIT", "learned from": "PIPAL", "good at": "not stated", "bad at": "its scale"
    }  # fmt: skip
    assert "CID22" in table["ssimulacra2"]["learned from"] and "ImageNet" in table["lpips"]["learned from"]
    assert (table["texture_stats"]["learned from"], table["haarpsi"]["symmetric"]) == ("nothing", "yes")
    assert (table["rqi_maniqa"]["licence"], table["haarpsi"]["licence"]) == ("not stated", "of this package")


def test_the_readme_has_the_same_table(srpl):
    section = (ROOT / "README.md").read_text("utf-8").partition("\n## Critics\n")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    shown = {line[0].partition("`")[2].partition("`")[0]: dict(zip(lines[0], line, strict=True)) for line in lines}
    table = rows(srpl)
    for name in CRITICS:
        line = table[name]
        assert line.pop("critic") == name
        assert {head: shown[name][head] for head in line} == line
        assert shown[name]["size"] == get_card(name).input_size.describe().removeprefix("exactly ")


def test_a_file_in_torchs_folder_needs_no_download(srpl, tmp_path):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "vgg16-397923af.pth").touch()
    table = rows(srpl)
    assert (table["lpips_vgg"]["weights"], table["lpips_alex"]["weights"]) == ("on this machine", "download")
    assert "imagenet: on this machine, in torch's folder" in srpl("list", "dists_vgg").stdout


@pytest.mark.parametrize(("columns", "blocks"), [(80, 4), (120, 2)])
def test_list_fits_the_terminal(srpl, small, monkeypatch, columns, blocks):
    """Every critic has one line in each block: no cell is so long that it is wrapped."""
    kept = {name: critic for name, critic in registry._CRITICS.items() if not name.startswith("tiny_")}
    monkeypatch.setattr(registry, "_CRITICS", kept)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda self: True)
    lines = srpl("list").stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert sum(line.startswith("small ") for line in lines) == blocks
    assert len(lines) == blocks * (1 + len(list_critics()))


def test_list_text(srpl, small):
    text = srpl("list", "haarpsi", "small", "efficient_pban").stdout
    assert "learned  from PIPAL\n  cost     not measured: time" in text and "bad at   its scale" in text
    assert "as loss" not in text and "as loss  not recommended: Beside L1 it draws" in srpl("list", "lpips").stdout
    assert "haarpsi\n  paper    Reisenhofer et al." in text
    assert (
        "sizes    sides >= 16\n  scores   0 to 1, absolute; higher is better; symmetric\n  weights  none needed" in text
    )
    assert "small\n  paper    Nobody, 2026\n  sizes    exactly 8x8\n  scores   -1 to 0, relative to the ref" in text
    assert "weights  official: not on this machine (srpl fetch small)" in text
    assert "licence: MIT; commercial use: not stated" in text
    assert "trained on: PIPAL; 1 MB" in text
    assert "none published" in text


def test_list_json_knows_what_is_here(srpl, small, tmp_path, hub):
    def entry():
        critics = {c["name"]: c for c in json.loads(srpl("list", "--json").stdout)}
        assert {"efficient_pban", "haarpsi", "rqi_maniqa"} <= set(critics)
        assert critics["haarpsi"]["weights"] == []
        assert critics["haarpsi"]["needs_weights"] is False
        assert critics["small"]["score_range"] == [-1.0, 0.0]
        assert critics["small"]["relative"] is True
        return critics["small"]["weights"][0]

    assert (entry()["on_this_machine"], entry()["known_origin"]) == (False, "")
    assert entry()["url"] == "https://huggingface.co/someone/small/resolve/main/small_weights.pt"
    path = srpl("fetch", "small").stdout.strip()
    assert entry()["on_this_machine"] is True and "SHA-256" in entry()["known_origin"]
    assert rows(srpl)["small"]["weights"] == "on this machine"
    assert f"on this machine, {entry()['known_origin']}" in srpl("list", "small").stdout
    assert entry()["path"] == path == str(tmp_path / "store" / "weights" / "small-official.safetensors")


def test_list_of_one_has_its_notes(srpl):
    text = srpl("list", "texture_stats").stdout
    assert text.startswith("texture_stats\n") and "efficient_pban" not in text
    assert "  note     " in text and max(map(len, text.splitlines())) <= 130


def test_fetch_prints_the_path_on_stdout_and_messages_on_stderr(srpl, small, hub, tmp_path):
    result = srpl("fetch", "small", "--weights", "official")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'store' / 'weights' / 'small-official.safetensors'}\n"
    assert "https://huggingface.co/someone/small" in result.stderr
    assert "licence: MIT" in result.stderr
    again = srpl("fetch", "small")
    assert again.stdout == result.stdout
    assert again.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("small", "--weights", "best"), "official"), (("efficient_pban",), "published")],
)
def test_fetch_of_what_is_not_published(srpl, small, arguments, words):
    result = srpl("fetch", *arguments)
    assert result.exit_code == 2 and words in result.stderr


def test_offline_fetch_names_the_way_by_hand(srpl, small, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = srpl("fetch", "small")
    assert result.exit_code == 2
    assert "HF_HUB_OFFLINE" in result.stderr
    assert "srpl convert small_weights.pt --critic small" in result.stderr
