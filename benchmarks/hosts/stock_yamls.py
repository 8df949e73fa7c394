"""The stock YAMLs of BasicSR, Real-ESRGAN and HAT with a critic: three changed lines, 20 iterations, resumed from 10.

    python benchmarks/hosts/stock_yamls.py --clone CLONE --data DIR [--only WORD]

CLONE is an unmodified clone of one of the three, which is copied. DIR contains the folder
cid22_512_train; eight of its photographs are used. What fits a run to a CPU (data, num_gpu, small networks, few
iterations) is passed by --force_yml. A YAML that starts from another one's network gets the small network of that run.
VGG19 has random weights, since BasicSR would download the trained ones.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from runs import ENVIRONMENT, OUT, SCALE, parser
from torchvision.models import vgg19

HERE = Path(__file__).resolve().parent
LOSS = "  losses:\n    - {type: CriticLoss, critic: haarpsi, loss_weight: 0.1}\n"
#: What a check on a CPU sets in every YAML.
CHECK: dict[str, object] = {
    "num_gpu": 0,
    "datasets:train:num_worker_per_gpu": 0,
    "datasets:train:batch_size_per_gpu": 2,
    "datasets:train:dataset_enlarge_ratio": 20,
    "train:total_iter": 20,
    "logger:print_freq": 5,
    "logger:save_checkpoint_freq": 10,
}
RRDB = {"network_g:num_feat": 8, "network_g:num_block": 1}
SWIN = {"network_g:depths": "[1,1]", "network_g:embed_dim": 12, "network_g:num_heads": "[2,2]"}
HAT = {**SWIN, "network_g:squeeze_factor": 4, "datasets:train:gt_size": 64}
#: Their pool of pairs is full after four iterations.
REAL = {"gt_size": 64, "queue_size": 4, "datasets:train:batch_size_per_gpu": 1}
DISCRIMINATOR = {"network_d:num_feat": 8}


@dataclass(frozen=True)
class Stock:
    """A YAML of a clone, what makes its networks small, its validation sets, the YAML whose network it needs."""

    file: str
    small: Mapping[str, object]
    val: tuple[str, ...] = ()
    start: str | None = None
    extra: tuple[str, ...] = ()


REAL_PARTS = ("--import", "cuda_on_cpu")
#: Package of the clone -> its YAMLs.
STOCK: dict[str, list[Stock]] = {
    "hat": [
        Stock("train_HAT_SRx4_ImageNet_from_scratch", HAT, ("val_1", "val_2")),
        Stock(
            "train_HAT_SRx4_finetune_from_ImageNet_pretrain",
            HAT,
            ("val_1", "val_2"),
            "train_HAT_SRx4_ImageNet_from_scratch",
        ),
        Stock("train_Real_HAT_SRx4_mse_model", {**HAT, **REAL}, extra=REAL_PARTS),
        Stock(
            "train_Real_HAT_GAN_SRx4_finetune_from_mse_model",
            {**HAT, **REAL, **DISCRIMINATOR},
            start="train_Real_HAT_SRx4_mse_model",
            extra=REAL_PARTS,
        ),
    ],
    "realesrgan": [
        Stock("train_realesrnet_x4plus", {**RRDB, **REAL}, extra=REAL_PARTS),
        Stock(
            "train_realesrgan_x4plus",
            {**RRDB, **REAL, **DISCRIMINATOR},
            start="train_realesrnet_x4plus",
            extra=REAL_PARTS,
        ),
    ],
    "basicsr": [
        Stock("SRResNet_SRGAN/train_MSRResNet_x4", RRDB, ("val", "val_2")),
        Stock("SwinIR/train_SwinIR_SRx4_scratch", {**SWIN, "datasets:train:gt_size": 64}, ("val",)),
        Stock("ESRGAN/train_RRDBNet_PSNR_x4", RRDB, ("val",)),
        Stock("ESRGAN/train_ESRGAN_x4", {**RRDB, **DISCRIMINATOR}, ("val",), "train_RRDBNet_PSNR_x4"),
    ],
}


def make_data(data: Path, out: Path) -> None:
    """Eight photographs as HR and LR folders, two small ones for validation, and a meta info file."""
    for number, path in enumerate(sorted((data / "cid22_512_train").glob("*.png"))[:8]):
        photograph = Image.open(path).convert("RGB")
        for phase, (width, height) in {"train": (400, 400), "val": (208, 160)}.items():
            if phase == "val" and number > 1:
                continue
            hr = photograph.crop((0, 0, width, height))
            lr = hr.resize((width // SCALE, height // SCALE), Image.Resampling.BICUBIC)
            for kind, image in {"gt": hr, "lq": lr}.items():
                (out / phase / kind).mkdir(parents=True, exist_ok=True)
                image.save(out / phase / kind / f"{number}.png")
    (out / "meta_info.txt").write_text("".join(f"{number}.png (400,400,3)\n" for number in range(8)))


def make_vgg19(path: Path) -> None:
    """A random VGG19 where BasicSR looks for the trained one; its unused classifier is stored as one zero each."""
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = vgg19().state_dict()
    features = vgg19().features.state_dict(prefix="features.")
    rest = {name: torch.zeros(1).expand(value.shape) for name, value in shapes.items() if name not in features}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**features, **rest}, path)


def three_lines(text: str) -> str:
    """The YAML with our model type and one entry of ``losses``."""
    text, models = re.subn(r"^model_type: (\w+)", r"model_type: Perceptual\1", text, flags=re.MULTILINE)
    text, trains = re.subn(r"^train:\n", "train:\n" + LOSS, text, flags=re.MULTILINE)
    if (models, trains) != (1, 1):
        raise SystemExit(f"found {models} model_type and {trains} train, expected one each")
    return text


def forced(stock: Stock, text: str, folder: Path, data: Path) -> dict[str, object]:
    """The --force_yml of a YAML: data, start network and size."""
    force = {**CHECK, **stock.small, "path:pretrain_network_g": "~"}
    for phase in ("train", *stock.val):
        for kind in ("gt", "lq"):
            force[f"datasets:{phase}:dataroot_{kind}"] = data / phase.split("_")[0] / kind
    for key in re.findall(r"^    (meta_info\w*):", text, flags=re.MULTILINE):
        force[f"datasets:train:{key}"] = data / "meta_info.txt"
    if stock.val:
        force["val:val_freq"] = 20
    if stock.start:
        network = folder / "experiments" / stock.start / "models" / "net_g_20.pth"
        force |= {"path:pretrain_network_g": network, "path:param_key_g": "params_ema"}
    return {**force, "name": Path(stock.file).name}


def run(command: list[str], folder: Path) -> None:
    """Run and print the lines of the log that tell how the training went."""
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(HERE), ENVIRONMENT.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    log = done.stdout + done.stderr
    if done.returncode:
        raise SystemExit(log[-4000:])
    for line in log.splitlines():
        if re.search(r"Model \[|Resuming|\]\[epoch:|\t # |Saving models", line):
            print("   ", re.sub(r"^.*INFO: |\[eta.*?\)\] ", "", line).strip())


def main() -> None:
    command_line = parser(__doc__ or "", 0)
    command_line.add_argument("--only", default="", help="word in the names of the YAMLs to run")
    given: argparse.Namespace = command_line.parse_args()
    package = next(name for name in STOCK if (given.clone / name).is_dir())
    folder, data = OUT / "stock_yamls" / package, OUT / "stock_yamls" / "data"
    left_out = shutil.ignore_patterns(".git", "experiments", "tb_logger")
    shutil.copytree(given.clone, folder, ignore=left_out, dirs_exist_ok=True)
    make_data(given.data, data)
    make_vgg19(folder / "experiments" / "pretrained_models" / "vgg19-dcbb9e9d.pth")
    start = [str(Path(sys.executable).with_name("srpl")), "basicsr"]
    start += [] if package == "basicsr" else ["--script", f"{package}/train.py"]
    for stock in STOCK[package]:
        if given.only not in stock.file:
            continue
        own = f"options/train/{stock.file}.yml" if package != "realesrgan" else f"options/{stock.file}.yml"
        before = (folder / own).read_text()
        file = folder / f"{Path(stock.file).name}.yml"
        file.write_text(three_lines(before))
        force = [f"{key}={value}" for key, value in forced(stock, before, folder, data).items()]
        command = [*start, *stock.extra, "-opt", file.name]
        print(f"\n## {own}\n")
        changes = difflib.unified_diff(before.splitlines(), file.read_text().splitlines(), n=0, lineterm="")
        print("\n".join(line for line in changes if line[0] in "+-" and line[:3] not in ("+++", "---")))
        print("\n$", shlex.join(["srpl", *command[1:], "--force_yml", "..."]), flush=True)
        run([*command, "--force_yml", *force], folder)
        # As a kill after iteration 10 leaves it.
        states = folder / "experiments" / Path(stock.file).name / "training_states"
        (states / "20.state").unlink()
        print("\n$", shlex.join(["srpl", *command[1:], "--auto_resume", "--force_yml", "..."]), flush=True)
        run([*command, "--auto_resume", "--force_yml", *force], folder)


if __name__ == "__main__":
    main()
