"""Peak memory and time of `srpl score` and `srpl metrics` on a photograph of 24 megapixels.

    python benchmarks/speed/large_images.py [--width 6000 --height 4000] [--critic haarpsi --critic texture_stats]

Each command runs in its own process, and the peak is that of the whole process. The pair is drawn with a fixed seed:
smooth structure of several sizes as the reference; blurred and with noise as the SR image.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

#: Size in pixels and amplitude of each layer of structure.
LAYERS = ((512, 0.5), (64, 0.3), (16, 0.15), (4, 0.08))
PROGRAM = "from sr_perceptual_loss.cli.app import main; main()"


def write_pair(folder: Path, width: int, height: int) -> tuple[Path, Path]:
    """Write sr/photo.png and hr/photo.png below ``folder``; returns their paths."""
    generator = torch.Generator().manual_seed(0)
    hr = torch.full((1, 3, height, width), 0.5)
    for side, amplitude in LAYERS:
        low = torch.rand(1, 3, height // side + 2, width // side + 2, generator=generator) - 0.5
        hr += amplitude * F.interpolate(low, size=(height, width), mode="bilinear", align_corners=False)
    sr = F.avg_pool2d(hr, 3, 1, padding=1, count_include_pad=False)
    sr += 0.02 * torch.randn(hr.shape, generator=generator)
    paths = folder / "sr" / "photo.png", folder / "hr" / "photo.png"
    for path, image in zip(paths, (sr, hr), strict=True):
        path.parent.mkdir(parents=True)
        pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(path, compress_level=1)
    return paths


def measure(arguments: list[str]) -> tuple[float, float, float]:
    """Run one command: (peak in GB, seconds, seconds of the processors)."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"srpl {' '.join(arguments)}: exit status {os.waitstatus_to_exitcode(status)}")
    return _gigabytes(usage), time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def _gigabytes(usage: resource.struct_rusage) -> float:
    """Linux counts in 1024 bytes, macOS in bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def main() -> None:
    """Print one line per command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=6000)
    parser.add_argument("--height", type=int, default=4000)
    parser.add_argument("--critic", action="append", help="default: haarpsi and texture_stats")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own: on Linux a child's peak starts with the memory of the process that started it.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            sr, hr = pool.submit(write_pair, Path(name), options.width, options.height).result()
        commands = [["score", str(sr), str(hr), "--critic", c] for c in options.critic or ("haarpsi", "texture_stats")]
        commands.append(["metrics", str(sr.parent), str(hr.parent)])
        for command in commands:
            peak, seconds, processor = measure(command)
            label = f"{command[0]} {command[-1] if command[0] == 'score' else 'psnr_y,ssim_y'}"
            print(f"{label:24} {peak:5.2f} GB {seconds:7.1f} s {processor:7.1f} s of processor time", flush=True)


if __name__ == "__main__":
    main()
