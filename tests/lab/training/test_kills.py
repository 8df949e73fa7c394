"""kill -9 while a critic is trained: no half-written state, no lost best weights, the same losses afterwards."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

from sr_perceptual_loss.lab.training import loop, run_folder
from sr_perceptual_loss.lab.training.loop import train
from sr_perceptual_loss.lab.training.run_folder import History, newest_state, read_progress
from sr_perceptual_loss.weights.file import read

SRPL = str(Path(sys.executable).with_name("srpl"))


def entries(out):
    return {(e["step"], "loss" in e): e for e in History(out / "history.jsonl").entries()}


def check_whole(out):
    """Everything below its final name can be read; returns the step of the newest state."""
    for path in out.rglob("*.safetensors"):
        if not path.name.startswith(".") and not path.parent.name.startswith("."):
            read(path)
    state = newest_state(out)
    if state is None:
        return 0
    progress = read_progress(state)
    if progress.best is not None:
        summary = json.loads(read(out / "best.safetensors").metadata["srpl.training"])
        # Better weights may have been found since the state was written, never worse ones.
        assert summary["step"] >= progress.best_step
        assert math.isfinite(summary["validation"]["srcc"])
    for path in state.rglob("*.bin"):
        torch.load(path, weights_only=True)
    return progress.step


def _at_a_step(here):
    real = loop._Training._step
    loop._Training._step = lambda self, batch: (here(), real(self, batch))[1]


def _writing_the_state(here):
    real = run_folder._flush
    run_folder._flush = lambda folder: (here(), real(folder))[1]


def _removing_old_states(here):
    real = shutil.rmtree

    def remove(path, *args, **options):
        if Path(path).name.startswith("step_"):
            here(next(p for p in Path(path).iterdir() if p.is_file()).unlink)
        return real(path, *args, **options)

    run_folder.shutil.rmtree = remove


def _writing_the_best_weights(here):
    real = os.fsync

    def sync(number):
        if "best.safetensors" in Path(f"/proc/self/fd/{number}").readlink().name:
            here(lambda: os.truncate(number, 100))
        real(number)

    os.fsync = sync


def _writing_the_history(here):
    real = History.add

    def add(self, step, values):
        real(self, step, values)
        here(lambda: os.truncate(self.path, self.path.stat().st_size - 20))

    History.add = add


#: Where a process can be made to die; each patches the process that it is called in, a forked child.
POINTS = {
    "step": _at_a_step,
    "writing the state": _writing_the_state,
    "removing old states": _removing_old_states,
    "writing the best weights": _writing_the_best_weights,
    "writing the history": _writing_the_history,
}


def die_at(point, count):
    """Let this process kill itself at the ``count``-th pass of a point."""
    passed = [0]

    def here(damage=lambda: None):
        passed[0] += 1
        if passed[0] == count:
            damage()
            os.kill(os.getpid(), signal.SIGKILL)

    POINTS[point](here)


def killed(config, point, count):
    torch.set_num_threads(1)
    die_at(point, count)
    train(config, resume=True, verbose=False)


@pytest.mark.parametrize(
    ("point", "count"),
    [
        pytest.param("step", 1, marks=pytest.mark.slow),
        pytest.param("step", 12, marks=pytest.mark.slow),
        ("writing the state", 2),
        pytest.param("removing old states", 1, marks=pytest.mark.slow),
        ("writing the best weights", 1),
        pytest.param("writing the history", 9, marks=pytest.mark.slow),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at /proc to see which file is written")
def test_a_killed_training_goes_on_as_if_nothing_had_happened(settings, tmp_path, whole, point, count):
    config = settings(f"out={tmp_path}/broken", **SECTIONS)
    child = multiprocessing.get_context("fork").Process(target=killed, args=(config, point, count), daemon=True)
    child.start()
    child.join(240)
    assert child.exitcode == -signal.SIGKILL
    check_whole(config.out)
    result = train(config, resume=True, verbose=False)
    assert entries(config.out) == entries(whole.out)
    assert check_whole(config.out) == result.step
    one, other = (read(out / "best.safetensors") for out in (whole.out, config.out))
    assert one.metadata["srpl.training"] == other.metadata["srpl.training"]
    assert all(torch.equal(one.state[key], other.state[key]) for key in one.state)
    assert {path.name for path in config.out.rglob("*") if "tmp" in path.name} == set()


SECTIONS = {"checkpoint": {"every": 4}, "schedule": {"type": "cosine", "t_max": 5}}
_WHOLE = {}


@pytest.fixture
def whole(settings, tmp_path_factory):
    """The uninterrupted run, made once."""
    if "config" not in _WHOLE:
        config = settings(f"out={tmp_path_factory.mktemp('whole')}/run", **SECTIONS)
        train(config, verbose=False)
        _WHOLE["config"] = config
    return _WHOLE["config"]


KILLS = 10


def start_and_kill(command, after, pause):
    """Start a training and kill it ``pause`` seconds after its history has an entry of step ``after``."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    messages = []
    reader = threading.Thread(target=lambda: messages.append(process.stderr.read()))
    reader.start()
    path = Path(re.search(r"out=(\S+)", " ".join(command))[1]) / "history.jsonl"
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        if any(e["step"] >= after for e in History(path).entries()):
            time.sleep(pause)
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    reader.join(30)
    assert process.returncode == -signal.SIGKILL, messages


@pytest.mark.slow
def test_ten_random_kills_of_srpl_train(settings, tmp_path):
    """180 steps, a state every second one, ten kills at random moments."""
    content = settings(epochs=20, checkpoint={"every": 2}, schedule={"type": "cosine", "t_max": 50}).as_dict()
    path = tmp_path / "train.yml"
    path.write_text(yaml.safe_dump(content))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(out, *more):
        return [SRPL, "train", "-c", str(path), "--set", f"out={out}", *more]

    done = subprocess.run(
        command(tmp_path / "whole"), env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out, chance, reached = tmp_path / "broken", random.Random(7), 0
    steps = max(step for step, _ in entries(tmp_path / "whole"))
    for _ in range(KILLS):
        after = reached + chance.randint(2, steps // KILLS - 2)
        start_and_kill(command(out, "--resume"), after, chance.random() * 0.1)
        now = check_whole(out)
        assert now >= reached, "a state was lost"
        reached = now
    done = subprocess.run(
        command(out, "--resume"), env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert entries(out) == entries(tmp_path / "whole")
    one, other = (read(folder / "best.safetensors") for folder in (tmp_path / "whole", out))
    assert one.metadata["srpl.training"] == other.metadata["srpl.training"]
    assert all(torch.equal(one.state[key], other.state[key]) for key in one.state)
