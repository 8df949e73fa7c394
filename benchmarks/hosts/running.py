"""Start trainings as a user starts them, with their output in a log file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from host_data import ROOT

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def basicsr(
    config: str, name: str, force: Mapping[str, object], log: Path, *, cwd: Path, imports: Sequence[str] = ()
) -> Path:
    """One training of BasicSR through our runner, unless its network is there already.

    Args:
        config: file of basicsr_configs.
        name: of the run; its files are in <cwd>/experiments/<name>.
        force: what differs from the file, in the form of BasicSR's --force_yml.
        log: file for its output.
        cwd: working directory: the clone, or any.
        imports: of the project.

    Returns:
        The last network.
    """
    network = cwd / "experiments" / name / "models" / "net_g_latest.pth"
    if network.is_file():
        return network
    command = [sys.executable, "-m", "sr_perceptual_loss.integrations.basicsr_runner"]
    command += [part for module in imports for part in ("--import", module)]
    command += ["-opt", str(ROOT / "basicsr_configs" / config), "--auto_resume", "--force_yml", f"name={name}"]
    command += [f"{key}={value}" for key, value in {**STEADY, **force}.items()]
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("w") as file:
        file.write(" ".join(command) + "\n")
        file.flush()
        subprocess.run(command, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, check=True, env=ENVIRONMENT)
    print(f"{name}: {time.monotonic() - start:.0f} s, {log}", flush=True)
    return network


#: What every small run on a CPU sets.
STEADY: dict[str, object] = {
    "num_gpu": 0,
    "datasets:train:num_worker_per_gpu": 0,
    "datasets:train:dataset_enlarge_ratio": 20,
    "logger:use_tb_logger": "false",
    "logger:print_freq": 25,
    "logger:save_checkpoint_freq": 100000,
    "val:val_freq": 100000,
}


def folders(train: tuple[Path, Path], val: tuple[Path, Path]) -> dict[str, object]:
    """--force_yml keys of (HR folder, LR folder) pairs."""
    pairs = {"train": train, "val": val}
    return {
        f"datasets:{phase}:dataroot_{kind}": folder
        for phase, pair in pairs.items()
        for kind, folder in zip(("gt", "lq"), pair, strict=True)
    }


def until(command: Sequence[str], pattern: str, log: Path, *, cwd: Path) -> None:
    """Run a training that never stops by itself until a line of its output matches; then end it.

    Args:
        command: to start.
        pattern: regular expression for the last line that is wanted.
        log: file for its output.
        cwd: working directory.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with log.open("w") as file, subprocess.Popen(command, cwd=cwd, text=True, env=ENVIRONMENT, **pipe) as process:
        for line in process.stdout or ():
            file.write(line)
            if re.search(pattern, line):
                process.terminate()
                return
    raise SystemExit(f"{command}: ended before a line matched {pattern!r}; see {log}")
