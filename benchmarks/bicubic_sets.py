"""`srpl metrics` on bicubic enlargements of Set5 and Set14 (x4): known numbers, so a check of the whole command.

    python benchmarks/bicubic_sets.py --data ../shared/data
    python benchmarks/bicubic_sets.py --sets Set14 --metrics psnr_y,ssim_y,psnr_rgb,ssim_rgb,sf,sn,sfsn --critic haarpsi

The LR files are enlarged with the MATLAB bicubic kernel (a = -0.5, symmetric border; BasicSR's imresize), rounded and
cut to 8 bits, and written with their references into runs/bicubic_sets/NAME/{SR,HR,LR} under names that pair up. Then
the command runs and writes runs/bicubic_sets/NAME/metrics.csv. Expected PSNR-Y: Set5 28.43 dB, Set14 26.09 dB.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

import sr_perceptual_loss.integrations.basicsr_shim  # noqa: F401 - first, so that basicsr can be imported

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "bicubic_sets"
SCALE = 4


def pairs(data: Path, name: str) -> list[tuple[str, Path, Path]]:
    """(name, LR, HR) of a test set; both layouts in ../shared/data."""
    if name == "Set5":
        folder = data / "Set5"
        return [
            (hr.stem, folder / "LR_bicubic" / "X4" / f"{hr.stem}x4.png", hr)
            for hr in sorted((folder / "HR").glob("*.png"))
        ]
    files = sorted((data / f"{name}_x4").glob("*_SRF_4_HR.png"))
    return [(hr.name.split("_SRF")[0], hr.with_name(hr.name.replace("_HR", "_LR")), hr) for hr in files]


def prepare(data: Path, name: str) -> Path:
    """Folders SR, HR and LR of equal file names."""
    from basicsr.utils.matlab_functions import imresize

    folder = OUT / name
    found = pairs(data, name)
    if not found:
        raise SystemExit(f"{data}: no x4 images of {name}")
    for kind in ("SR", "HR", "LR"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for stem, lr, hr in track(found, f"{name}: enlarging", transient=True):
        # RGB, since some HR files are gray while their LR files are not.
        image = np.array(Image.open(lr).convert("RGB")).astype(np.float64) / 255
        large = (np.clip(imresize(image, SCALE), 0, 1) * 255).round().astype(np.uint8)
        Image.fromarray(large).save(folder / "SR" / f"{stem}.png")
        shutil.copyfile(hr, folder / "HR" / f"{stem}.png")
        shutil.copyfile(lr, folder / "LR" / f"{stem}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
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
