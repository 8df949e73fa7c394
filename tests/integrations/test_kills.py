"""kill -9 while our BasicSR models train and write: our state is whole, and an older checkpoint resumes by hand.

BasicSR writes its own files under their final names, so a kill may leave half of one. Our state is written first and
atomically, so every state file of BasicSR that is whole has one of ours beside it.

BasicSR starts the epoch's data anew on resume. The long run below therefore trains on one image, so that every batch is
the same; optimizer, schedules, crops, our losses' averages and the guard must then continue exactly.
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


def readable(path):
    try:
        return torch.load(path, weights_only=True)
    except Exception:  # half a file may raise anything
        return None


def whole_checkpoints(folder):
    """Iterations whose three files can be read; every file of ours must be readable."""
    for path in folder.rglob("*.srpl.state"):
        assert readable(path) is not None, path
    iterations = []
    for path in (folder / "training_states").glob("*.state"):
        state, network = readable(path), readable(folder / "models" / f"net_g_{path.stem}.pth")
        if state is not None:
            assert network is not None and (folder / "srpl_states" / f"{path.stem}.srpl.state").is_file()
            iterations.append(state["iter"])
    return sorted(iterations)


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
@pytest.mark.parametrize(("at_write", "left"), [(2, []), (4, [3]), (5, [3]), (6, [3]), (7, [3, 6])])
def test_a_kill_while_writing_leaves_the_checkpoint_before(build, options, tmp_path, at_write, left):
    folder = tmp_path / "run"
    child = multiprocessing.get_context("fork").Process(
        target=train_until_killed, args=(build, options, folder, at_write), daemon=True
    )
    child.start()
    child.join(120)
    assert child.exitcode == (0 if at_write == 7 else -signal.SIGKILL)
    assert whole_checkpoints(folder) == left
    if at_write != 6:
        return
    assert readable(folder / "training_states" / "6.state") is None, "the kill was in BasicSR's own write"
    whole_model = make(build, options, tmp_path / "whole", train=TRAIN)
    whole = steps(whole_model, range(1, 8))
    model = resume(build, options, folder, 3, train=TRAIN)
    assert steps(model, range(4, 8)) == {iteration: whole[iteration] for iteration in range(4, 8)}
    assert torch.equal(weights(model), weights(whole_model))
    model.save(0, 7)
    assert whole_checkpoints(folder) == [3, 7]
    assert not list(folder.rglob("*.part")), "what the kill left behind was not removed"


def test_a_damaged_state_of_our_losses_is_named(build, options, tmp_path):
    from sr_perceptual_loss.errors import WeightsError

    model = make(build, options, tmp_path, train=TRAIN)
    steps(model, [1, 2])
    model.save(0, 2)
    path = tmp_path / "srpl_states" / "2.srpl.state"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"2\.srpl\.state.*damaged"):
            resume(build, options, tmp_path, 2, train=TRAIN)
    torch.save({"version": 1}, path)
    with pytest.raises(WeightsError, match="another version"):
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
    """240 iterations, a checkpoint every second one; ten kills at random moments, each resumed by hand."""
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
    config = write("broken", total=TOTAL, train=TRAIN, logger=frequent)
    command = [*SRPL, "-opt", str(config)]
    experiment, chance, seen, kills = folder / "experiments" / "broken", random.Random(5), {}, 0
    newest = 0
    while kills < KILLS:
        output = start_and_kill(
            command, folder, environment, newest + chance.randint(2, TOTAL // KILLS), chance.random() * 0.2
        )
        values = logged(output)
        assert values, output[-3000:]
        kills += 1
        states = whole_checkpoints(experiment)
        assert states and states[-1] >= newest, "a checkpoint was lost"
        assert min(values) == newest + 1
        newest = states[-1]
        seen |= values
        # By hand: --auto_resume would take the newest file, which may be half of one.
        path = {"pretrain_network_g": None, "strict_load_g": True}
        path["resume_state"] = str(experiment / "training_states" / f"{newest}.state")
        write("broken", total=TOTAL, train=TRAIN, logger=frequent, path=path)
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
