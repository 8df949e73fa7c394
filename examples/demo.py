"""The script of `make demo`: fine-tune a small x4 network with HaarPSI on a CPU, without any download.

`srpl basicsr` does the training (BasicSR's loop); this script makes the data, starts both stages, and compares them.
Photographs are those that scikit-image bundles; three of them are held out. Interrupted, the same command continues.
Results: runs/demo/summary.json and runs/demo/comparison.png.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sr_perceptual_loss import create_critic
from sr_perceptual_loss.integrations import basicsr_shim  # noqa: F401 - makes `import basicsr` work

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "demo"
SCALE = 4
TRAIN = ("motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "retina.jpg", "ihc.png", "hubble_deep_field.jpg",
         "camera.png", "grass.png", "gravel.png", "brick.png", "coins.png", "moon.png")  # fmt: skip
HELD_OUT = ("astronaut.png", "chelsea.png", "coffee.png")
#: Regions shown in comparison.png: held-out photograph -> (top, left) of a 96 x 96 crop.
SHOWN = {"astronaut": (60, 176), "chelsea": (96, 128), "coffee": (96, 204)}
CROP = 96
#: Side of the LR training tiles.
TILE = 48
#: Measure -> column title and format.
MEASURES = {"psnr_y": ("PSNR-Y", ".2f"), "ssim_y": ("SSIM-Y", ".4f"), "haarpsi": ("HaarPSI", ".4f")}
STAGES = {"before": "demo_cpu_pixel", "after": "demo_cpu"}


def read_bundled(name: str) -> np.ndarray:
    """One of scikit-image's own photographs, RGB uint8, cut to a multiple of the scale."""
    import skimage
    from PIL import Image

    path = Path(skimage.__file__).parent / "data" / name
    image = np.array(Image.open(path).convert("RGB"))
    height, width = (side // SCALE * SCALE for side in image.shape[:2])
    return image[:height, :width]


def prepare_data(data: Path) -> None:
    """GT and LR folders: bicubic x1/4 with MATLAB's kernel, by BasicSR's own function."""
    from basicsr.utils.matlab_functions import imresize
    from PIL import Image

    done = data / "complete"
    if done.is_file():
        return
    for part, names in (("train", TRAIN), ("val", HELD_OUT)):
        for kind in ("GT", "LR"):
            (data / part / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            gt = read_bundled(name)
            lr = imresize(gt.astype(np.float32) / 255, 1 / SCALE)
            lr = (np.clip(lr, 0, 1) * 255).round().astype(np.uint8)
            stem = Path(name).stem
            for suffix, top, left in tiles(lr.shape[:2]) if part == "train" else [("", 0, 0)]:
                window = slice(top, top + TILE if suffix else None), slice(left, left + TILE if suffix else None)
                large = tuple(slice(w.start * SCALE, w.stop and w.stop * SCALE) for w in window)
                Image.fromarray(lr[window]).save(data / part / "LR" / f"{stem}{suffix}.png")
                Image.fromarray(gt[large]).save(data / part / "GT" / f"{stem}{suffix}.png")
    done.write_text("ok\n")


def tiles(shape: tuple[int, int]) -> list[tuple[str, int, int]]:
    """Name suffix and corner of LR tiles: small files, as BasicSR recommends, so that loading costs little."""
    corners = itertools.product(*(range(0, side - TILE + 1, TILE) for side in shape))
    return [(f"_{top}_{left}", top, left) for top, left in corners]


def train(config: str, console: Console, *, name: str = "", force: Sequence[str] = ()) -> Path:
    """Run one stage through `srpl basicsr`, with a progress bar from its log; returns the network file.

    Args:
        config: a YAML of basicsr_configs/, without suffix.
        console: where progress goes.
        name: experiment name, if not that of the YAML.
        force: further `key:key=value` changes for BasicSR's --force_yml.
    """
    opt = ROOT / "basicsr_configs" / f"{config}.yml"
    total = read_yaml(config)["train"]["total_iter"]
    name = name or config
    experiment = ROOT / "experiments" / name
    network = experiment / "models" / "net_g_latest.pth"
    if network.is_file() and (experiment / "training_states" / f"{total}.state").is_file():
        console.print(f"{name}: already trained ({network.relative_to(ROOT)})")
        return network
    command = [str(Path(sys.executable).with_name("srpl")), "basicsr", "-opt", str(opt), "--auto_resume"]
    command += ["--force_yml", f"name={name}", *force]
    # Layers this small gain nothing from a second thread, and on a busy machine two threads wait for each other.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    log = OUT / f"{name}.log"
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.completed}/{task.total} it"),
               TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[last]}"))  # fmt: skip
    with (
        log.open("a", buffering=1) as file,
        Progress(*columns, console=console) as progress,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        task = progress.add_task(name, total=total, last="starting")
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            match = re.search(r"\[epoch:.*iter:\s*([\d,]+)", line)
            if match:
                done = int(match[1].replace(",", ""))
                losses = re.findall(r"((?:l|score)_\w+): ([-\d.e+]+)", line)
                shown = "  ".join(f"{key} {float(value):.4f}" for key, value in losses)
                progress.update(task, completed=done, last=shown)
                if not console.is_terminal and done % 100 == 0:
                    console.print(f"{name}: {done}/{total}  {shown}")
        if process.wait() != 0:
            console.print("".join(log.read_text().splitlines(keepends=True)[-15:]))
            raise SystemExit(f"{name}: training stopped; the whole log is {log}. The same command continues.")
    return network


def read_yaml(config: str) -> dict[str, Any]:
    """A YAML of basicsr_configs/ as BasicSR reads it."""
    return yaml.safe_load(re.sub(r"!!float ", "", (ROOT / "basicsr_configs" / f"{config}.yml").read_text()))


def load_network(config: str, path: Path) -> torch.nn.Module:
    """The averaged weights (params_ema) of a stage."""
    from basicsr.archs import build_network

    with contextlib.redirect_stdout(sys.stderr):
        network = build_network(read_yaml(config)["network_g"])
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["params_ema"])
    return network.eval()


def restore(network: torch.nn.Module, lr: Path) -> np.ndarray:
    """RGB uint8 output for one LR file."""
    from PIL import Image

    image = torch.from_numpy(np.array(Image.open(lr).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        output = network(image)[0].clamp(0, 1)
    return (output.permute(1, 2, 0) * 255).round().byte().numpy()


def measure(sr: np.ndarray, hr: np.ndarray) -> dict[str, float]:
    """PSNR-Y, SSIM-Y by BasicSR (border 4), HaarPSI of the same region by the critic."""
    from basicsr.metrics import calculate_psnr, calculate_ssim

    bgr = [np.ascontiguousarray(x[:, :, ::-1]) for x in (sr, hr)]
    a, b = (
        torch.from_numpy(x[SCALE:-SCALE, SCALE:-SCALE].copy()).permute(2, 0, 1)[None].float() / 255 for x in (sr, hr)
    )
    return {
        "psnr_y": float(calculate_psnr(*bgr, crop_border=SCALE, test_y_channel=True)),
        "ssim_y": float(calculate_ssim(*bgr, crop_border=SCALE, test_y_channel=True)),
        "haarpsi": float(create_critic("haarpsi").score(a, b)),
    }


def save_comparison(images: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """One row per photograph: LR (pixels shown as they are), before, after, HR."""
    from PIL import Image, ImageDraw, ImageFont

    zoom, gap, head = 2, 6, 26
    side = CROP * zoom
    titles = ("LR (x4 smaller)", "before: pixel loss", "after: + critic", "HR")
    sheet = Image.new("RGB", (4 * (side + gap) + gap, len(images) * (side + gap) + gap + head), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for column, title in enumerate(titles):
        draw.text((gap + column * (side + gap), 5), title, fill="black", font=font)
    for row, (name, versions) in enumerate(images.items()):
        top, left = SHOWN[name]
        for column, kind in enumerate(("lr", "before", "after", "hr")):
            step = SCALE if kind == "lr" else 1
            cut = versions[kind][top // step : (top + CROP) // step, left // step : (left + CROP) // step]
            tile = Image.fromarray(cut).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (gap + column * (side + gap), head + row * (side + gap)))
    sheet.save(path)


def compare(networks: Mapping[str, Path], data: Path, console: Console) -> dict[str, dict[str, dict[str, float]]]:
    """Table on the terminal, summary.json, comparison.png."""
    from PIL import Image

    loaded = {stage: load_network(STAGES[stage], path) for stage, path in networks.items()}
    results: dict[str, dict[str, dict[str, float]]] = {stage: {} for stage in loaded}
    images: dict[str, dict[str, np.ndarray]] = {}
    for name in HELD_OUT:
        stem = Path(name).stem
        lr_file = data / "val" / "LR" / f"{stem}.png"
        hr = np.array(Image.open(data / "val" / "GT" / f"{stem}.png"))
        images[stem] = {"lr": np.array(Image.open(lr_file)), "hr": hr}
        for stage, network in loaded.items():
            images[stem][stage] = restore(network, lr_file)
            results[stage][stem] = measure(images[stem][stage], hr)
    for rows in results.values():
        rows["mean"] = {key: float(np.mean([r[key] for r in rows.values()])) for key in MEASURES}
    table = Table("held out", *(f"{title} {stage}" for title, _ in MEASURES.values() for stage in results))
    for row in [*images, "mean"]:
        cells = (f"{results[s][row][m]:{form}}" for m, (_, form) in MEASURES.items() for s in results)
        table.add_row(row, *cells, style="bold" if row == "mean" else None)
    console.print(table)
    save_comparison(images, OUT / "comparison.png")
    return results


def main() -> None:
    console = Console()
    OUT.mkdir(parents=True, exist_ok=True)
    data = OUT / "data"
    prepare_data(data)
    networks = {stage: train(config, console) for stage, config in STAGES.items()}
    results = compare(networks, data, console)
    summary = {"scale": SCALE, "border": SCALE, "configs": STAGES, "results": results}
    (OUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    console.print(f"wrote {OUT / 'summary.json'} and {OUT / 'comparison.png'}")


if __name__ == "__main__":
    main()
