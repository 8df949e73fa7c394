"""srpl report."""

from __future__ import annotations

import sys

import pytest


def test_report_is_written_beside_the_run(srpl, tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    assert srpl("report", folder).exit_code == 2
    row = '{"iter": 2, "values": {"losses/l_pix": 0.5}}'
    (folder / "metrics.jsonl").write_text(f'{{"start": 0, "total": 2, "losses": {{}}, "versions": {{}}}}\n{row}\n')
    result = srpl("report", folder)
    assert result.exit_code == 0 and result.stdout.strip() == str(folder / "report.html")
    assert "complete: iteration 2 of 2" in (folder / "report.html").read_text()


@pytest.mark.parametrize(("command", "extra"), [("report", "report"), ("evaluate", "lab")])
def test_a_missing_package_is_named_with_its_extra(srpl, tmp_path, monkeypatch, command, extra):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for module in ("page", "run_page", "evaluation_page"):
        monkeypatch.delitem(sys.modules, f"sr_perceptual_loss.lab.report.{module}", raising=False)
    options = ("haarpsi", "--data", "table", "--root", tmp_path, "--out", tmp_path / "out")
    result = srpl(command, *(options if command == "evaluate" else (tmp_path,)))
    assert result.exit_code == 2 and f"pip install 'sr_perceptual_loss[{extra}]'" in result.stderr
