"""KAIR's own start scripts with our losses from the JSON: a tiny MSRResNet1 on CID22, measured on Set5.

    python benchmarks/hosts/kair.py --clone <clone of cszn/KAIR> --data DIR

main_train_psnr.py, unedited, with HaarPSI from the second half on; `before` is half-way, `control` the same without the
critic. Then some steps of main_train_gan.py, for its log. KAIR never stops by itself: its processes are ended after the
last line that is wanted.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from runs import OUT, SETS, measure, parser, restore, run_until, save_comparison, show, small_sr, test_set, training_set

LOSS = {"type": "haarpsiLoss", "loss_weight": 0.2}
NET = {"net_type": "msrresnet1", "in_nc": 3, "out_nc": 3, "nc": 32, "nb": 4, "act_mode": "R"}
INIT = {"init_type": "orthogonal", "init_bn_type": "uniform", "init_gain": 0.2}
RUN = [sys.executable, "-m", "sr_perceptual_loss.integrations.kair"]


def options(task: str, data: Path, iterations: int, losses: dict[str, Any] | None, **train: Any) -> dict[str, Any]:
    """What KAIR reads from a JSON file."""
    high, low = training_set(data)
    test_high, test_low = test_set(data, "Set5")
    loader = {"dataloader_shuffle": True, "dataloader_num_workers": 0, "dataloader_batch_size": 8}
    steps = {"checkpoint_print": max(1, iterations // 12), "checkpoint_save": iterations // 2}
    return {
        "task": task, "model": "plain", "gpu_ids": [], "scale": 4, "n_channels": 3,
        "path": {"root": str(OUT / "kair"), "pretrained_netG": None, "pretrained_netE": None, "pretrained_netD": None},
        "datasets": {
            "train": {"name": "cid22", "dataset_type": "sr", "dataroot_H": str(high), "dataroot_L": str(low),
                      "H_size": 96, **loader},
            "test": {"name": "Set5", "dataset_type": "sr", "dataroot_H": str(test_high), "dataroot_L": str(test_low)},
        },
        "netG": {**NET, "upsample_mode": "pixelshuffle", **INIT, "init_gain": 0.5},
        "train": {
            "manual_seed": 0, "G_lossfn_type": "l1", "G_lossfn_weight": 1.0, "losses": losses,
            "G_optimizer_type": "adam", "G_optimizer_lr": 5e-4, "G_optimizer_clipgrad": None,
            "G_scheduler_type": "MultiStepLR", "G_scheduler_milestones": [1000000], "G_scheduler_gamma": 0.5,
            "G_regularizer_orthstep": None, "G_regularizer_clipstep": None,
            "checkpoint_test": iterations // 2, **steps, **train,
        },
    }  # fmt: skip


def run(clone: Path, script: str, opt: dict[str, Any], last: str) -> Path:
    """Start the script on a fresh task; the folder of its networks."""
    task = OUT / "kair" / opt["task"]
    shutil.rmtree(task, ignore_errors=True)
    task.parent.mkdir(parents=True, exist_ok=True)
    file = task.parent / f"{opt['task']}.json"
    file.write_text(json.dumps(opt, indent=1))
    run_until([*RUN, script, "--opt", str(file)], last, task.parent / f"{opt['task']}.log", cwd=clone)
    return task / "models"


def gan(data: Path, iterations: int, loss: dict[str, Any]) -> dict[str, Any]:
    """The same with a U-Net discriminator; no VGG, whose weights KAIR would download."""
    train: dict[str, Any] = {"F_lossfn_weight": 0, "gan_type": "gan", "D_lossfn_weight": 0.1, "D_init_iters": 0}
    train |= {"D_optimizer_lr": 1e-4, "D_scheduler_milestones": [1000000], "D_scheduler_gamma": 0.5}
    opt = options("gan", data, iterations, {"haarpsi": loss}, **train, E_decay=0.99)
    opt["model"] = "gan"
    opt["netD"] = {"net_type": "discriminator_unet", "in_nc": 3, "base_nc": 16, "n_layers": 3, **INIT}
    return opt


def load(path: Path) -> torch.nn.Module:
    """KAIR's network; its clone is on the path."""
    from models.network_msrresnet import MSRResNet1

    network = MSRResNet1(in_nc=3, out_nc=3, nc=32, nb=4, upscale=4, act_mode="R", upsample_mode="pixelshuffle")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def main() -> None:
    command_line = parser(__doc__, 600)
    command_line.add_argument("--gan-iterations", type=int, default=24)
    given = command_line.parse_args()
    torch.set_num_threads(1)
    half, whole = given.iterations // 2, given.iterations
    loss = {**LOSS, "schedule": {"start": half + 1}}
    end = rf"iter:\s+{whole:,d}, Average PSNR"
    networks = {}
    for stage, losses in {"after": {"haarpsi": loss}, "control": None}.items():
        opt = options(f"plain_{stage}", given.data, whole, losses)
        folder = run(given.clone, "main_train_psnr.py", opt, end)
        networks.setdefault("before", folder / f"{half}_G.pth")
        networks[stage] = folder / f"{whole}_G.pth"
    last = given.gan_iterations
    run(given.clone, "main_train_gan.py", gan(given.data, last, LOSS), rf"iter:\s+{last:,d}, lr")
    sys.path.insert(0, str(given.clone.resolve()))
    pairs = small_sr.image_pairs(given.data / SETS["Set5"])
    shots = {stage: restore(load(path), pairs) for stage, path in networks.items()}
    show({"Set5": {stage: measure(images, pairs) for stage, images in shots.items()}}, OUT / "kair" / "Set5.json")
    save_comparison(OUT / "kair" / "kair.png", pairs[2], shots)


if __name__ == "__main__":
    main()
