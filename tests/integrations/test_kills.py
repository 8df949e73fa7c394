"""kill -9 while our BasicSR models train and write: whole files, the newest pair complete, the same losses afterwards.

What BasicSR itself can give back ends at the epoch: it starts the epoch's data anew on resume. The long run below
therefore trains on one picture, so that every batch is the same; the rest (optimizer, schedules, crops, our losses'
averages, the guard) must then continue exactly.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from .conftest import L1
from .test_basicsr_runner import SRPL
from .test_basicsr_schedule import make, resume, steps, weights

CRITIC = {"type": "CriticLoss", "critic": "haarpsi", "loss_weight": 0.5, "crops": {"size": 48}}
TRAIN = {
    "losses": [L1, {**CRITIC, "schedule": {"start": 2, "ramp": 6}},
               {"type": "SSIMPerceptualRatioLoss", "critic": "haarpsi", "name": "ratio"}],
    "guard": {"every": 2},
}  # fmt: skip


def read_all(folder):
    """Iterations of whole checkpoints; a file that cannot be read, or a state without its partners, fails the test."""
    for path in folder.rglob("*"):
        if path.suffix in (".pth", ".state") and path.parent.name != ".part":
            torch.load(path, weights_only=True)
    states = sorted(int(path.stem) for path in (folder / "training_states").glob("*.state"))
    for iteration in states:
        assert torch.load(folder / "training_states" / f"{iteration}.state", weights_only=True)["iter"] == iteration
        assert (folder / "models" / f"net_g_{iteration}.pth").is_file()
        assert (folder / "srpl_states" / f"{iteration}.srpl.state").is_file()
    return states


def train_until_killed(build, options, folder, at_write):
    """A process of its own: six steps, saved after the third and the sixth; dies half-way through a write."""
    torch.set_num_threads(1)
    model, writes, real = make(build, options, folder, train=TRAIN), [0], torch.save

    def save(state, path):
        writes[0] += 1
        real(state, path)
        if writes[0] == at_write:
            os.truncate(path, Path(path).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save
    for last in (3, 6):
        steps(model, range(last - 2, last + 1))
        model.save(0, last)


# Writes 1 to 3 are net_g_3, the state of our losses and BasicSR's state; 4 to 6 those of iteration 6.
@pytest.mark.parametrize(("at_write", "left"), [(1, []), (2, []), (3, []), (4, [3]), (5, [3]), (6, [3]), (7, [3, 6])])
def test_a_kill_while_writing_leaves_the_checkpoint_before(build, options, tmp_path, at_write, left):
    folder = tmp_path / "run"
    child = multiprocessing.get_context("fork").Process(
        target=train_until_killed, args=(build, options, folder, at_write), daemon=True
    )
    child.start()
    child.join(120)
    assert child.exitcode == (0 if at_write == 7 else -signal.SIGKILL)
    assert read_all(folder) == left
    if at_write != 6:
        return
    whole_model = make(build, options, tmp_path / "whole", train=TRAIN)
    whole = steps(whole_model, range(1, 8))
    model = resume(build, options, folder, 3, train=TRAIN)
    assert steps(model, range(4, 8)) == {iteration: whole[iteration] for iteration in range(4, 8)}
    assert torch.equal(weights(model), weights(whole_model))
    model.save(0, 7)
    assert read_all(folder) == [3, 7]
    assert not list(folder.rglob("*.part")), "what the kill left behind was not removed"


def test_a_write_that_fails_keeps_the_older_file(build, options, tmp_path, monkeypatch, caplog):
    """BasicSR tries three times, says so and goes on; half of a file must not take the place of a whole one."""
    model = make(build, options, tmp_path, train=TRAIN)
    model.save(0, -1)
    path = tmp_path / "models" / "net_g_latest.pth"
    before = path.read_bytes()

    def full(state, place):
        Path(place).write_bytes(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr("time.sleep", lambda _: None)
    from basicsr.utils import get_root_logger

    monkeypatch.setattr(get_root_logger(), "propagate", True)
    model.save(0, -1)
    assert path.read_bytes() == before
    assert "net_g_latest.pth could not be written; an older one stays" in caplog.text
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_damaged_state_of_our_losses_is_named(build, options, tmp_path):
    from sr_perceptual_loss.errors import WeightsError

    model = make(build, options, tmp_path, train=TRAIN)
    steps(model, [1, 2])
    model.save(0, 2)
    path = tmp_path / "srpl_states" / "2.srpl.state"
    whole = path.read_bytes()
    for content, words in ((whole[: len(whole) // 2], "no state of our losses can be read"), (b"", "Delete it to go")):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=words):
            resume(build, options, tmp_path, 2, train=TRAIN)
    torch.save({"version": 1}, path)
    with pytest.raises(WeightsError, match="entries are missing"):
        resume(build, options, tmp_path, 2, train=TRAIN)


KILLS = 10
TOTAL = 240


def logged(text):
    """iteration -> all values of its log line, without times."""
    rows = re.findall(r"iter:\s*([\d,]+), .*?\] (?:\[eta.*?\] )?(?:time.*?\] )?((?:\w+: \S+ ?)+)$", text, re.MULTILINE)
    return {int(i.replace(",", "")): dict(re.findall(r"(\w+): (\S+)", values)) for i, values in rows}


def start_and_kill(command, folder, environment, after, pause):
    """What a run says until it is killed, ``pause`` seconds after the log line of an iteration."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines, killed = [], []

    def read():
        for line in process.stdout:  # to its end: what the process had said before it died counts
            lines.append(line)
            found = re.search(r"iter:\s*([\d,]+), ", line)
            if found and int(found[1].replace(",", "")) >= after and not killed:
                time.sleep(pause)
                process.send_signal(signal.SIGKILL)
                killed.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    reader.join(240)
    process.kill()
    process.stdout.close()
    process.wait(30)
    return "".join(lines)


@pytest.mark.slow
def test_ten_random_kills_of_a_training(project):
    """240 iterations, a checkpoint every second one; ten kills at random moments between and while writing."""
    folder, write = project
    for kind in ("GT", "LR"):
        for number in (1, 2, 3):
            (folder / "data" / kind / f"{number}.png").unlink()
    frequent = {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False, "wandb": {"project": None}}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    whole = write("whole", total=TOTAL, train=TRAIN, logger=frequent)
    done = subprocess.run(
        [*SRPL, "-opt", str(whole)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = logged(done.stdout + done.stderr)
    assert sorted(expected) == list(range(1, TOTAL + 1))
    command = [*SRPL, "-opt", str(write("broken", total=TOTAL, train=TRAIN, logger=frequent)), "--auto_resume"]
    experiment, chance, seen, kills = folder / "experiments" / "broken", random.Random(5), {}, 0
    newest = 0
    while kills < KILLS:
        output = start_and_kill(
            command, folder, environment, newest + chance.randint(2, TOTAL // KILLS), chance.random() * 0.2
        )
        values = logged(output)
        assert values, output[-3000:]
        kills += 1
        states = read_all(experiment)
        assert states and states[-1] >= newest, "a checkpoint was lost"
        assert min(values) == newest + 1
        newest = states[-1]
        seen |= values
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    seen |= logged(done.stdout + done.stderr)
    assert sorted(seen) == sorted(expected)
    for iteration, values in seen.items():
        for name, text in values.items():
            if name not in ("eta",):
                assert float(text) == pytest.approx(float(expected[iteration][name]), rel=2e-4, abs=1e-8), name
    one, other = (
        torch.load(folder / "experiments" / name / "models" / "net_g_latest.pth", weights_only=True)["params"]
        for name in ("whole", "broken")
    )
    for key in one:
        torch.testing.assert_close(other[key], one[key], rtol=1e-5, atol=1e-7)
