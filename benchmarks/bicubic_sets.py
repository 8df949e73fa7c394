"""`srpl metrics` on bicubic enlargements of Set5 and Set14 (x4): known numbers, so a check of the whole command.

    python benchmarks/bicubic_sets.py --data DIR
    python benchmarks/bicubic_sets.py --data DIR --sets Set14 --metrics psnr_y,ssim_y,sf,sn,sfsn --critic haarpsi

DIR contains Set5 and Set14_x4 (docs/data.md). The LR files are enlarged with the MATLAB bicubic
kernel (a = -0.5, symmetric border; BasicSR's imresize), rounded and cut to 8 bits, and written with their references
into runs/bicubic_sets/NAME/{SR,HR,LR} under equal names. Then the command runs and writes
runs/bicubic_sets/NAME/metrics.csv. Expected PSNR-Y: Set5 28.43 dB, Set14 26.09 dB.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track

import sr_perceptual_loss.integrations.basicsr_shim  # noqa: F401 - first, so that basicsr can be imported

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "examples"))

from small_sr import image_pairs  # noqa: E402

OUT = ROOT / "runs" / "bicubic_sets"
SCALE = 4


def prepare(data: Path, name: str) -> Path:
    """Folders SR, HR and LR of equal file names."""
    from basicsr.utils.matlab_functions import imresize

    folder = OUT / name
    for kind in ("SR", "HR", "LR"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for stem, lr, hr in track(image_pairs(data / (name if name == "Set5" else f"{name}_x4")), f"{name}: enlarging"):
        large = torch.from_numpy(imresize(lr[0].permute(1, 2, 0).double().numpy(), SCALE)).permute(2, 0, 1)[None]
        for kind, image in {"SR": large, "HR": hr, "LR": lr}.items():
            pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / kind / f"{stem}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the test sets")
    parser.add_argument("--sets", nargs="+", default=["Set5", "Set14"], choices=["Set5", "Set14", "BSD100", "Urban100"])
    parser.add_argument("--metrics", default="psnr_y,ssim_y,psnr_rgb,ssim_rgb")
    parser.add_argument("--critic", action="append", default=[])
    arguments = parser.parse_args()
    console = Console(stderr=True)
    for name in arguments.sets:
        folder = prepare(arguments.data, name)
        csv = folder / "metrics.csv"
        command = ["metrics", str(folder / "SR"), str(folder / "HR"), "--scale", str(SCALE), "--out", str(csv)]
        command += ["--metrics", arguments.metrics, *(x for critic in arguments.critic for x in ("--critic", critic))]
        console.print(f"srpl {shlex.join(command)}", soft_wrap=True)
        # The measures are part of a table's settings; another choice starts a new one.
        csv.unlink(missing_ok=True)
        subprocess.run([sys.executable, "-m", "sr_perceptual_loss.cli.app", *command], check=True)


if __name__ == "__main__":
    main()
