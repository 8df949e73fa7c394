"""srpl evaluate from the command line to its files."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from pairs import make_pair
from PIL import Image


@pytest.fixture
def run(srpl):
    return lambda *arguments: srpl("evaluate", *arguments)


def save(path, image):
    Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def table(tmp_path):
    """Four references with three noise levels each; people agree with any sensible metric except for s3."""
    root = tmp_path / "set"
    root.mkdir()
    lines = ["ref,dist,score,distortion,official_split"]
    for number in range(4):
        _, hr = make_pair(1, 32, 32, seed=number)
        save(root / f"s{number}.png", hr[0])
        for level in range(3):
            noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(level))
            save(root / f"s{number}_{level}.png", (hr[0] + 0.08 * (level + 1) * noise).clamp(0, 1))
            score = level + 1 if number == 3 else 3 - level
            lines.append(f"s{number}.png,s{number}_{level}.png,{score},noise,{'test' if number > 1 else 'train'}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def rows(result):
    assert result.exit_code == 0, result.stderr
    head, *lines = result.stdout.splitlines()
    assert head == "number\tvalue\tlow\thigh\tcount\tmeaning"
    return {cells[0]: [float(c) for c in cells[1:5]] for cells in (line.split("\t") for line in lines)}


def test_numbers_files_and_a_second_run(run, table, tmp_path):
    out = tmp_path / "out"
    result = run("haarpsi", "--data", "table", "--root", table, "--out", out, "--bootstrap", 10)
    numbers = rows(result)
    assert numbers["srcc_mean"][0] == pytest.approx((1 + 1 + 1 - 1) / 4)
    assert numbers["win_rate"][0] == pytest.approx(3 / 4)
    assert numbers["pairwise_accuracy"][0] == pytest.approx(9 / 12)
    assert numbers["srcc_mean"][1] <= 0.5 <= numbers["srcc_mean"][2]
    assert "protocol: full" in result.stderr and "12 image(s) to score" in result.stderr
    assert len((out / "scores.csv").read_text().splitlines()) == 13
    written = json.loads((out / "result.json").read_text())
    assert written["numbers"]["srcc_mean"]["value"] == pytest.approx(0.5)
    assert written["settings"]["protocol"]["name"] == "full"
    assert written["srcc_per_reference"]["s3"] == pytest.approx(-1.0)
    assert "s3_2.png" in (out / "report.html").read_text()
    again = run("haarpsi", "--data", "table", "--root", table, "--out", out, "--bootstrap", 10)
    assert again.stdout == result.stdout
    assert "0 image(s) to score" in again.stderr
    other = run("haarpsi", "--data", "table", "--root", table, "--out", out, "--bootstrap", 0, "--crop-size", 24)
    assert "12 image(s) to score" in other.stderr and "protocol: paper" in other.stderr


def test_several_critics_are_compared(run, table, tmp_path):
    out = tmp_path / "out"
    arguments = ("--data", "table", "--root", table, "--out", out, "--bootstrap", 20)
    result = run("haarpsi", "dists", *arguments)
    assert result.exit_code == 0, result.stderr
    head, *lines = (line.split("\t") for line in result.stdout.splitlines())
    assert head == ["critic", "number", "value", "low", "high", "count", "meaning"]
    values = {(critic, number): float(value) for critic, number, value, *_ in lines}
    expected = values["haarpsi", "srcc_mean"] - values["dists", "srcc_mean"]
    assert values["haarpsi - dists", "srcc_mean"] == pytest.approx(expected, abs=2e-6)
    assert len((out / "scores.csv").read_text().splitlines()) == 25
    assert "haarpsi, dists on table" in (out / "report.html").read_text()
    assert json.loads((out / "result.json").read_text())["critics"].keys() == {"haarpsi", "dists"}


@pytest.mark.parametrize("arguments", [("haarpsi", "haarpsi"), ("haarpsi", "--weights", "local", "--weights", "local")])
def test_critics_and_weights_that_do_not_belong_together(run, table, arguments):
    result = run(*arguments, "--data", "table", "--root", table)
    assert result.exit_code == 2 and result.stdout == ""
    assert "haarpsi (local)" in result.stderr or "--weights: got 2 for 1" in result.stderr


def test_splits_and_limit(run, table):
    base = ("haarpsi", "--data", "table", "--root", table, "--bootstrap", 0)
    official = run(*base, "--split", "train")
    assert rows(official)["srcc_mean"][0] == pytest.approx(1.0) and rows(official)["srcc_mean"][3] == 2
    assert rows(run(*base, "--split", "test"))["srcc_mean"][0] == pytest.approx(0.0)
    seeded = run(*base, "--split", "train", "--train-share", 0.75)
    assert rows(seeded)["srcc"][3] == 9
    assert "3 + 1" in seeded.stderr
    assert rows(run(*base, "--split", "val"))["srcc"][3] == 3
    limited = run(*base, "--limit", 6)
    assert rows(limited)["srcc_mean"][3] == 2
    assert "Limited to 6 of 12 images" in limited.stderr


def test_random_weights_are_called_meaningless(run, table, tmp_path):
    arguments = ("tiny_efficient_pban", "--data", "table", "--root", table, "--weights", "random", "--bootstrap", 0)
    result = run(*arguments, "--limit", 3, "--out", tmp_path / "out", "--worst", 0)
    assert result.exit_code == 0, result.stderr
    assert "warning: The weights are random" in result.stderr
    assert "weights are random" in (tmp_path / "out" / "report.html").read_text()
    torch.manual_seed(5)
    assert run(*arguments, "--limit", 3).stdout == result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--split", "tests"), "(train, test)"),
        (("--protocol", "papr"), "'paper'"),
        (("--device", "toaster"), "'toaster'"),
        (("--limit", "0"), "--limit"),
        (("--weights", "official"), "haarpsi"),
        (("--crop-size", "8"), "crop_size"),
    ],
)
def test_options_that_are_refused(run, table, arguments, words):
    result = run("haarpsi", "--data", "table", "--root", table, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""


@pytest.mark.fault(69)
def test_missing_package_is_said_before_the_work(run, table, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    result = run("haarpsi", "--data", "table", "--root", table, "--out", table / "out")
    assert result.exit_code == 2
    assert "pip install 'sr_perceptual_loss[lab]'" in result.stderr
    assert not (table / "out").exists()


@pytest.mark.fault(71)
def test_the_scales_of_the_images_are_recorded(run, table, tmp_path):
    """Of 12 images of 32 pixels, crops of 16 fit at 1/2 too, crops of 32 do not."""
    for crop, expected in ((16, {"1, 0.5": 12}), (32, {"1": 12})):
        out = tmp_path / f"out{crop}"
        arguments = ("haarpsi", "--data", "table", "--root", table, "--protocol", "paper", "--crop-size", crop)
        done = run(*arguments, "--out", out, "--bootstrap", "0")
        assert done.exit_code == 0, done.output
        settings = json.loads((out / "result.json").read_text())["settings"]
        assert settings["images_by_scales"] == expected
