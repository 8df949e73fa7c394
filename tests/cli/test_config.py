"""``srpl config``: the YAMLs are listed, shown byte for byte, and copied without replacing anything."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sr_perceptual_loss.cli import config

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("basicsr_configs/*.yml"), *ROOT.glob("examples/critics/*.yml")]


@pytest.fixture(params=["repository", "installed"], autouse=True)
def package(request, monkeypatch, tmp_path):
    if request.param == "installed":  # as setup.py lays it out
        (tmp_path / "package" / "configs").mkdir(parents=True)
        for path in FILES:
            shutil.copy(path, tmp_path / "package" / "configs")
        monkeypatch.setattr(config, "PACKAGE", tmp_path / "package")


def test_list_has_each_file_with_its_command_and_what_it_is(srpl):
    rows = [line.split("\t") for line in srpl("config", "list").stdout.splitlines()[1:]]
    assert sorted(name for name, *_ in rows) == sorted(path.stem for path in FILES)  # no name stands for two files
    for name, command, sentence in rows:
        assert command == ("srpl basicsr" if (ROOT / "basicsr_configs" / f"{name}.yml").is_file() else "srpl train")
        assert len(sentence) > 30 and not sentence.startswith(("or:", "after:"))


def test_show_and_copy_give_the_file_itself(srpl, tmp_path):
    for name in ("basicsr_configs/demo_cpu", "examples/critics/rqi_topiq"):
        assert srpl("config", "show", Path(name).stem).stdout_bytes == (ROOT / f"{name}.yml").read_bytes()
    result = srpl("config", "copy", "rqi_topiq", tmp_path / "new" / "a folder")
    target = tmp_path / "new" / "a folder" / "rqi_topiq.yml"
    assert result.stdout == f"{target}\n"
    assert result.stderr == f"srpl train -c '{target}' --set data.root=/data/kadid10k\n"
    assert target.read_bytes() == (ROOT / "examples" / "critics" / "rqi_topiq.yml").read_bytes()


@pytest.mark.parametrize("there", ["file", "dangling link", "folder"])
def test_copy_never_replaces(srpl, tmp_path, there):
    target = tmp_path / "demo_cpu.yml"
    if there == "file":
        target.write_text("mine")
    elif there == "folder":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "nowhere")
    result = srpl("config", "copy", "demo_cpu", tmp_path)
    assert result.exit_code == 2 and str(target) in result.stderr and result.stdout == ""
    assert there != "file" or target.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_unknown_name_names_the_nearest(srpl, tmp_path):
    result = srpl("config", "copy", "rqi_topik", tmp_path / "new")
    assert result.exit_code == 2 and "'rqi_topiq'" in result.stderr
    assert not (tmp_path / "new").exists()
