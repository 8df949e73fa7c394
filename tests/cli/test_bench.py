"""srpl bench: the command around sr_perceptual_loss.benchmarking, on tiny networks."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner


@pytest.fixture
def bench(monkeypatch):
    """`srpl bench` on an app of its own, whether or not the command is registered."""
    import typer

    from sr_perceptual_loss.cli.app import Commands
    from sr_perceptual_loss.cli.bench import bench as command

    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer(cls=Commands)
    app.command("bench")(command)
    app.command("other")(lambda: None)
    base = ("bench", "--critic-size", "tiny", "--repeats", 2, "--no-memory", "--rivals", "none")
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in (*base, *arguments)])


def test_table_rows_and_file(bench, tmp_path):
    file = tmp_path / "bench.json"
    result = bench("--critics", "efficient_pban,haarpsi", "--sizes", "64", "--batch", "1,2", "--json", file)
    assert result.exit_code == 0, result.stderr
    content = json.loads(file.read_text())
    keys = [(r["name"], r["form"]) for r in content["rows"] if (r["side"], r["batch"]) == (64, 2)]
    assert keys == [("efficient_pban", form) for form in ("reference", "fast", "target", "bf16")] + [
        ("haarpsi", "fast")
    ]
    assert len(content["rows"]) == 5 * 2 and all(len(r["seconds"]) == 2 for r in content["rows"])
    cosines = {r["form"]: r["cosine"] for r in content["rows"] if r["name"] == "efficient_pban"}
    assert cosines["reference"] == pytest.approx(1.0, abs=1e-9)
    assert cosines["fast"] > 0.999 and cosines["target"] > 0.999 and cosines["bf16"] < 0.99999999
    assert content["setting"]["critic_size"] == "tiny" and content["setting"]["repeats"] == 2
    assert "efficient_pban bf16" in result.stdout and "Exponents of time" in result.stdout
    assert "side 64, batch 2: efficient_pban:reference" in result.stderr


def test_stopped_run_goes_on(bench, tmp_path):
    file = tmp_path / "bench.json"
    options = ("--critics", "haarpsi", "--batch", "1", "--json", file)
    assert bench(*options, "--sizes", "48").exit_code == 0
    before = json.loads(file.read_text())["rows"]
    result = bench(*options, "--sizes", "48,64")
    assert "side 48, batch 1: already there" in result.stderr
    assert json.loads(file.read_text())["rows"][:1] == before
    result = bench(*options, "--sizes", "48", "--repeats", "3")
    assert result.exit_code == 2 and "measured under another setting (repeats: 2, now 3)" in result.stderr


def test_fixed_size_adds_its_own_cell(bench):
    result = bench("--critics", "rqi_ahiq", "--sizes", "48", "--batch", "1", "--forms", "fast", "--markdown")
    assert result.exit_code == 0, result.stderr
    assert "| 32 | 1 | rqi_ahiq fast |" in result.stdout and "| 48 |" not in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--critics", "rqi_manika"), "Did you mean 'rqi_maniqa'?"),
        (("--critics", "haarpsi", "--sizes", "big"), "--sizes: got the text 'big'"),
        (("--critics", "haarpsi", "--rivals", "lpips"), "rivals: got 'lpips'"),
        (("--critics", "none"), "nothing to measure"),
        (("--critics", "haarpsi", "--forms", "slow"), "forms: got 'slow'"),
        (("--critics", "haarpsi", "--json", "/nowhere/x.json"), "the folder /nowhere does not exist"),
        (("--critics", "haarpsi", "--device", "cuda:99"), "cannot be used here"),
    ],
)
def test_refused(bench, options, message):
    result = bench(*options)
    assert result.exit_code == 2 and message in result.stderr


def test_file_of_something_else_is_not_overwritten(bench, tmp_path):
    file = tmp_path / "notes.json"
    file.write_text('{"a": 1}')
    result = bench("--critics", "haarpsi", "--json", file)
    assert result.exit_code == 2 and "is no result of a benchmark" in result.stderr
    assert file.read_text() == '{"a": 1}'
