"""A state on disk is complete or not there; the history ends where the state does."""

from __future__ import annotations

import json

import pytest

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.lab.training.config import read_config
from sr_perceptual_loss.lab.training.run_folder import (
    History,
    Progress,
    check_same_run,
    newest_state,
    read_progress,
    save_state,
)


def write(out, step, content="x", fail=False):
    def write_content(folder):
        (folder / "state").write_text(content)
        if fail:
            raise KeyboardInterrupt

    save_state(out, Progress(step=step, best=0.5), write_content, main=True, wait=lambda: None)


def test_the_newest_state_wins_and_older_ones_are_removed(tmp_path):
    assert newest_state(tmp_path) is None
    write(tmp_path, 5)
    write(tmp_path, 100)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000100"]
    assert read_progress(newest_state(tmp_path)) == Progress(step=100, best=0.5)


def test_an_interrupted_write_leaves_the_state_before(tmp_path):
    write(tmp_path, 5, "old")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 6, "half", fail=True)
    assert newest_state(tmp_path).name == "step_00000005" and (newest_state(tmp_path) / "state").read_text() == "old"
    for content in ("whole", "again"):  # a state may be written twice
        write(tmp_path, 6, content)
        assert (newest_state(tmp_path) / "state").read_text() == content
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_only_our_own_leftovers_are_removed(tmp_path):
    ours = [".best.safetensors.12-0a1b2c3d.tmp", ".config.yml.7-ffffffff.tmp", "checkpoints/.step_00000003.tmp/x"]
    users = [".notes.tmp", ".best.safetensors.tmp", "checkpoints/mine.tmp/x", "checkpoints/step_00000003_keep/x"]
    for name in (*ours, *users):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    write(tmp_path, 5)
    assert all((tmp_path / name).exists() for name in users) and not any((tmp_path / name).exists() for name in ours)


@pytest.mark.parametrize("content", [b"out: [", b"\xff\xfe\x00", b"", b"- a\n", None])
def test_a_damaged_record_of_the_run_is_named(tmp_path, content):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "config.yml"
    path.mkdir() if content is None else path.write_bytes(content)
    (tmp_path / "t.yml").write_text(f"out: {tmp_path}/run\ncritic: {{name: x}}\ndata: {{dataset: table, root: b}}\n")
    with pytest.raises(InputError, match=r"config\.yml"):
        check_same_run(read_config(tmp_path / "t.yml"))


def test_steps_are_compared_as_numbers(tmp_path):
    for step in (99_999_999, 100_000_000):
        (tmp_path / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    assert newest_state(tmp_path).name == "step_100000000"


def test_a_folder_that_is_no_state_is_named(tmp_path):
    folder = tmp_path / "checkpoints" / "step_00000001"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match="step_00000001"):
        read_progress(folder)
    (folder / "progress.json").write_text(json.dumps({"stepp": 1}))
    with pytest.raises(InputError, match="stepp"):
        read_progress(folder)


def test_history_is_cut_back_and_survives_a_torn_line(tmp_path):
    history = History(tmp_path / "history.jsonl")
    history.cut_back(0)
    for step in (1, 2, 3):
        history.add(step, {"loss": step / 2})
    with history.path.open("ab") as file:
        file.write(b'{"step": 4, "lo\xff')
    assert [e["step"] for e in history.entries()] == [1, 2, 3]
    history.cut_back(2)
    assert history.entries() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}]
    assert history.path.read_text().count("\n") == 2
