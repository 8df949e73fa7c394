"""Parts of the host scripts: photographs in the folders that hosts read, trainings with a log, measured results."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sr_perceptual_loss import create_critic
from sr_perceptual_loss.integrations.basicsr_shim import install_shims

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "runs" / "hosts"
sys.path.insert(0, str(ROOT / "examples"))

import small_sr  # noqa: E402 - the examples' test sets, crops and measures

SCALE = small_sr.SCALE
#: Test set -> folder below --data.
SETS = {"Set5": "Set5", "Set14": "Set14_x4", "BSD100": "BSD100_x4"}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
#: What every small BasicSR run on a CPU sets.
BASICSR: dict[str, object] = {
    "num_gpu": 0,
    "datasets:train:num_worker_per_gpu": 0,
    "datasets:train:dataset_enlarge_ratio": 20,
    "logger:use_tb_logger": "false",
    "logger:print_freq": 25,
    "logger:save_checkpoint_freq": 100000,
    "val:val_freq": 100000,
}


def parser(doc: str, iterations: int, *, clone: bool = True) -> argparse.ArgumentParser:
    """Options that the scripts have in common."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if clone:
        made.add_argument("--clone", type=Path, required=True, help="clone of the host's repository")
        made.add_argument("--path", type=Path, help="further folder to import from")
    made.add_argument("--data", type=Path, required=True, help="folder with cid22_512_train and the test sets")
    if iterations:
        made.add_argument("--iterations", type=int, default=iterations)
    return made


def test_set(data: Path, title: str) -> tuple[Path, Path]:
    """(HR folder, LR folder) of a x4 test set: links with equal file names in both."""
    folder, out = data / SETS[title], OUT / "data" / title
    pairs = [(p, p.with_name(p.name.replace("_HR", "_LR"))) for p in sorted(folder.glob("*_SRF_4_HR.png"))]
    pairs += [(p, folder / "LR_bicubic" / "X4" / f"{p.stem}x4.png") for p in sorted(folder.glob("HR/*.png"))]
    if not pairs:
        raise SystemExit(f"{folder}: no x4 pairs found")
    for hr, lr in pairs:
        _link(hr, out / "HR" / hr.name)
        _link(lr, out / "LR" / hr.name)
    return out / "HR", out / "LR"


def _link(source: Path, name: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    if not name.exists():
        name.symlink_to(source.resolve())


def training_set(data: Path) -> tuple[Path, Path]:
    """(HR folder, LR folder) of CID22's photographs; LR by BasicSR's MATLAB-like bicubic reduction, made once."""
    install_shims()
    from basicsr.utils.matlab_functions import imresize

    out = OUT / "data" / "cid22"
    for path in sorted((data / "cid22_512_train").glob("*.png")):
        target = out / "LR" / path.name
        _link(path, out / "HR" / path.name)
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        small = imresize(np.array(Image.open(path).convert("RGB")).astype(np.float32) / 255, 1 / SCALE)
        Image.fromarray((np.clip(small, 0, 1) * 255).round().astype(np.uint8)).save(target)
    return out / "HR", out / "LR"


def basicsr_data(data: Path) -> dict[str, object]:
    """--force_yml keys of the training set and of Set5 for validation."""
    pairs = {"train": training_set(data), "val": test_set(data, "Set5")}
    return {
        f"datasets:{phase}:dataroot_{kind}": folder
        for phase, pair in pairs.items()
        for kind, folder in zip(("gt", "lq"), pair, strict=True)
    }


def basicsr(config: str, name: str, force: Mapping[str, object], log: Path, *, cwd: Path, imports: str = "") -> Path:
    """One training through our BasicSR runner, unless its network exists already.

    Args:
        config: file of basicsr_configs.
        name: of the run; its files are in <cwd>/experiments/<name>.
        force: what differs from the file, in the form of BasicSR's --force_yml.
        log: file for its output.
        cwd: working directory: the clone, or any.
        imports: modules of the project, separated by spaces.

    Returns:
        The last network.
    """
    network = cwd / "experiments" / name / "models" / "net_g_latest.pth"
    if network.is_file():
        return network
    command = [sys.executable, "-m", "sr_perceptual_loss.integrations.basicsr_runner"]
    command += [part for module in imports.split() for part in ("--import", module)]
    command += ["-opt", str(ROOT / "basicsr_configs" / config), "--auto_resume", "--force_yml", f"name={name}"]
    command += [f"{key}={value}" for key, value in {**BASICSR, **force}.items()]
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("w") as file:
        file.write(" ".join(command) + "\n")
        file.flush()
        subprocess.run(command, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, check=True, env=ENVIRONMENT)
    print(f"{name}: {time.monotonic() - start:.0f} s, {log}", flush=True)
    return network


def run_until(command: Sequence[str], pattern: str, log: Path, *, cwd: Path) -> None:
    """Run a training that never stops by itself until a line of its output matches the pattern; then end it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with log.open("w") as file, subprocess.Popen(command, cwd=cwd, text=True, env=ENVIRONMENT, **pipe) as process:
        for line in process.stdout or ():
            file.write(line)
            if re.search(pattern, line):
                process.terminate()
                return
    raise SystemExit(f"{command}: ended before a line matched {pattern!r}; see {log}")


def photographs(data: Path, count: int) -> list[Tensor]:
    """Some photographs of CID22, (3, H, W) each."""
    return [small_sr.read(p) for p in sorted((data / "cid22_512_train").glob("*.png"))[:count]]


def batches(images: Sequence[Tensor], size: int, side: int, count: int) -> Iterator[dict[str, Tensor]]:
    """Batches of crops with the keys ``lq`` and ``gt``."""
    crops = small_sr.Crops(images, size * count, side)
    for number in range(count):
        items = [crops[number * size + i] for i in range(size)]
        yield dict(zip(("lq", "gt"), map(torch.stack, zip(*items, strict=True)), strict=True))


@torch.no_grad()
def restore(network: nn.Module, pairs: Sequence[small_sr.Pair], seed: int = 0) -> dict[str, Tensor]:
    """SR images in 8-bit steps; random networks start from the same seed at every image, like our validation."""
    images = {}
    for name, lr, hr in pairs:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sr = network(lr)[..., : hr.shape[-2], : hr.shape[-1]]
        images[name] = (sr.clamp(0, 1) * 255).round() / 255
    return images


@torch.no_grad()
def measure(
    images: Mapping[str, Tensor], pairs: Sequence[small_sr.Pair], critics: Mapping[str, str] | None = None
) -> dict[str, float]:
    """PSNR-Y, SSIM-Y, HaarPSI, and the scores of further critics (name -> weights file), border 4."""
    means = small_sr.measure(images, pairs)
    cut = slice(SCALE, -SCALE)
    for name, weights in (critics or {}).items():
        critic = create_critic(name, weights=weights)
        scores = [float(critic.score(images[n][..., cut, cut], hr[..., cut, cut])) for n, _, hr in pairs]
        means[name] = float(np.mean(scores))
    return means


def show(results: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Print set x stage x measure as a table, and write the numbers as JSON."""
    measures = list(next(iter(next(iter(results.values())).values())))
    table = Table("set", "stage", *measures)
    for title, stages in results.items():
        for stage, row in stages.items():
            table.add_row(title, stage, *(f"{row[m]:{'.2f' if m == 'psnr_y' else '.4f'}}" for m in measures))
    Console().print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


def save_comparison(path: Path, pair: small_sr.Pair, shots: Mapping[str, Mapping[str, Tensor]]) -> None:
    """The same region of LR, the images of all stages, and HR."""
    name, lr, hr = pair
    small_sr.save_comparison(path, {"LR": lr, **{stage: images[name] for stage, images in shots.items()}, "HR": hr})
