"""The script of `make demo`: a small x4 network, fine-tuned on a CPU with L1, a critic and a GAN, without any download.

    python examples/demo.py [--control [SEED ...]]

`srpl basicsr` does the training (BasicSR's loop, basicsr_configs/demo_cpu.yml). It starts from a network that was
trained with L1 (examples/start_network). Photographs are those that scikit-image bundles; three of them are held out.
`--control` also trains with L1 alone for as many steps. Interrupted, the same command continues.
Results: runs/demo/comparison.png and runs/demo/summary.json.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sr_perceptual_loss.integrations import basicsr_shim  # noqa: F401 - makes `import basicsr` work

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "demo"
CONFIG = ROOT / "basicsr_configs" / "demo_cpu.yml"
START = ROOT / "examples" / "start_network" / "srvgg_x4.pth"
SCALE = 4
TRAIN = ("motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "retina.jpg", "ihc.png", "hubble_deep_field.jpg",
         "camera.png", "grass.png", "gravel.png", "brick.png", "coins.png", "moon.png")  # fmt: skip
HELD_OUT = ("astronaut.png", "chelsea.png", "coffee.png")
#: Regions shown in comparison.png: held-out photograph -> (top, left) of a 96 x 96 crop.
SHOWN = {"astronaut": (10, 170), "chelsea": (30, 200), "coffee": (288, 16)}
CROP = 96
#: Side of the LR training tiles, and the most that one photograph gives.
TILE, TILES = 48, 6
#: Measure -> title, format, and whether it is better when it is higher. The loss optimises none but the last.
MEASURES = {
    "psnr": ("PSNR-Y, dB", ".2f", True),
    "ssim": ("SSIM-Y", ".4f", True),
    "lpips": ("LPIPS score", ".4f", True),
    "dists": ("DISTS score", ".4f", True),
    "ssimulacra2": ("SSIMULACRA2", ".2f", True),
    "niqe": ("NIQE", ".2f", False),
    "dots": ("dots, share of area", ".4f", False),
    "colour": ("change of colour, of 255", ".2f", False),
    "texture_stats": ("texture_stats (in the loss)", ".4f", True),
}
#: Lowest and highest change by L1 alone, seeds 0, 1, 2 (`--control 0 1 2`).
L1_ALONE = {
    "psnr": [-0.06552, -0.047413],
    "ssim": [-0.0016452, -0.0013159],
    "lpips": [-0.0058019, -0.0033008],
    "dists": [-0.0033013, -0.0024466],
    "ssimulacra2": [-0.51857, -0.4205],
    "niqe": [-0.32577, -0.21983],
    "dots": [0.0026575, 0.0034345],
    "colour": [-0.052198, -0.048969],
    "texture_stats": [-0.0038288, -0.003207],
}
PERCEPTUAL = ("lpips", "dists", "ssimulacra2", "niqe")


def read_bundled(name: str) -> np.ndarray:
    """One of scikit-image's own photographs, RGB uint8, cut to a multiple of the scale."""
    import skimage
    from PIL import Image

    path = Path(skimage.__file__).parent / "data" / name
    image = np.array(Image.open(path).convert("RGB"))
    height, width = (side // SCALE * SCALE for side in image.shape[:2])
    return image[:height, :width]


def reduced(gt: np.ndarray) -> np.ndarray:
    """The LR image: bicubic x1/4 with MATLAB's kernel, by BasicSR's own function."""
    from basicsr.utils.matlab_functions import imresize

    return (np.clip(imresize(gt.astype(np.float32) / 255, 1 / SCALE), 0, 1) * 255).round().astype(np.uint8)


def prepare_data(folder: Path) -> None:
    """Folders GT and LR with tiles of the training photographs."""
    from PIL import Image

    done = folder / "complete"
    if done.is_file():
        return
    for kind in ("GT", "LR"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name in TRAIN:
        gt = read_bundled(name)
        lr = reduced(gt)
        for top, left in tiles(lr.shape[:2]):
            for kind, image, scale in (("LR", lr, 1), ("GT", gt, SCALE)):
                cut = image[top * scale : (top + TILE) * scale, left * scale : (left + TILE) * scale]
                Image.fromarray(cut).save(folder / kind / f"{Path(name).stem}_{top}_{left}.png")
    done.write_text("ok\n")


def tiles(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Corners of LR tiles: small files load fast, and a large photograph does not dominate."""
    corners = list(itertools.product(*(range(0, side - TILE + 1, TILE) for side in shape)))
    return corners[:: -(-len(corners) // TILES)]


def write_control(seed: int) -> Path:
    """The YAML of the same training with L1 alone."""
    opt = yaml.safe_load(CONFIG.read_text())
    opt.update(name=f"demo_cpu_control_{seed}", model_type="PerceptualSRModel", manual_seed=seed)
    del opt["network_d"]
    for key in ("optim_d", "gan_opt", "losses", "net_d_iters", "net_d_init_iters"):
        del opt["train"][key]
    path = OUT / f"{opt['name']}.yml"
    path.write_text(yaml.safe_dump(opt))
    return path


def train(config: Path, console: Console) -> Path:
    """Train through `srpl basicsr`, with a progress bar from its log; returns the network file."""
    opt = yaml.safe_load(config.read_text())
    name, total = opt["name"], opt["train"]["total_iter"]
    experiment = ROOT / "experiments" / name
    network = experiment / "models" / "net_g_latest.pth"
    if network.is_file() and (experiment / "training_states" / f"{total}.state").is_file():
        console.print(f"{name}: already trained ({network.relative_to(ROOT)})")
        return network
    command = [str(Path(sys.executable).with_name("srpl")), "basicsr", "-opt", str(config), "--auto_resume"]
    command += ["--import", "examples.patch_discriminator"]
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
                losses = re.findall(r"((?:l_g|l|score)_(?:pix|gan|texture_stats)): ([-\d.e+]+)", line)
                shown = "  ".join(f"{key} {float(value):.4f}" for key, value in losses)
                progress.update(task, completed=done, last=shown)
                if not console.is_terminal and done % 100 == 0:
                    console.print(f"{name}: {done}/{total}  {shown}")
        if process.wait() != 0:
            console.print("".join(log.read_text().splitlines(keepends=True)[-15:]))
            raise SystemExit(f"{name}: training stopped; the whole log is {log}. The same command continues.")
    return network


def load_network(path: Path, key: str = "params_ema") -> torch.nn.Module:
    """The network of demo_cpu.yml with the weights of a file; averaged ones by default."""
    from basicsr.archs import build_network

    with contextlib.redirect_stdout(sys.stderr):
        network = build_network(yaml.safe_load(CONFIG.read_text())["network_g"])
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)[key])
    return network.eval()


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def restore(network: torch.nn.Module, lr: np.ndarray) -> np.ndarray:
    """RGB uint8 output for an LR image."""
    return (network(to_tensor(lr))[0].clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()


def measure(sr: np.ndarray, hr: np.ndarray) -> dict[str, float]:
    """All of MEASURES; border 4 is left out."""
    from basicsr.metrics import calculate_niqe, calculate_psnr, calculate_ssim

    from sr_perceptual_loss.integrations.metrics import critic_metrics
    from sr_perceptual_loss.monitor.dots import dot_maps, dotted_share
    from sr_perceptual_loss.monitor.measures import colour_shift

    bgr = [np.ascontiguousarray(x[:, :, ::-1]) for x in (sr, hr)]
    x, y = (to_tensor(image[SCALE:-SCALE, SCALE:-SCALE]) for image in (sr, hr))
    values = {
        "psnr": calculate_psnr(*bgr, crop_border=SCALE, test_y_channel=True),
        "ssim": calculate_ssim(*bgr, crop_border=SCALE, test_y_channel=True),
        "niqe": calculate_niqe(bgr[0], crop_border=SCALE),
        "dots": dotted_share(dot_maps(x, y)),
        "colour": colour_shift(x, y),
    }
    critics = critic_metrics("rgb")
    values |= {n: critics[f"calculate_{n}"](sr, hr, crop_border=SCALE) for n in MEASURES if n not in values}
    return {name: float(values[name]) for name in MEASURES}


def save_comparison(images: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> None:
    """One row per photograph, one column per version, pixels enlarged three times."""
    from PIL import Image, ImageDraw, ImageFont

    gap, head, side = 6, 26, CROP * 3
    columns = len(next(iter(images.values())))
    sheet = Image.new("RGB", (columns * (side + gap) + gap, len(images) * (side + gap) + gap + head), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for row, (name, versions) in enumerate(images.items()):
        for column, (title, image) in enumerate(versions.items()):
            corner = gap + column * (side + gap), head + row * (side + gap)
            step = CROP * image.shape[0] // versions["GT"].shape[0]
            top, left = (place * step // CROP for place in SHOWN[name])
            tile = Image.fromarray(image[top : top + step, left : left + step])
            sheet.paste(tile.resize((side, side), Image.Resampling.NEAREST), corner)
            if row == 0:
                draw.text((corner[0], 5), title, fill="black", font=font)
    sheet.save(path)


def compare(networks: Mapping[str, torch.nn.Module]) -> dict[str, dict[str, float]]:
    """Means of all measures over the held-out photographs for each network; the first three are in comparison.png."""
    rows: dict[str, list[dict[str, float]]] = {title: [] for title in networks}
    shown: dict[str, dict[str, np.ndarray]] = {}
    for name in HELD_OUT:
        gt = read_bundled(name)
        lr = reduced(gt)
        versions = {title: restore(network, lr) for title, network in networks.items()}
        for title, image in versions.items():
            rows[title].append(measure(image, gt))
        shown[Path(name).stem] = {"LR": lr, **dict(list(versions.items())[:3]), "GT": gt}
    save_comparison(shown, OUT / "comparison.png")
    return {title: {m: float(np.mean([r[m] for r in each])) for m in MEASURES} for title, each in rows.items()}


def report(means: Mapping[str, Mapping[str, float]], console: Console) -> dict[str, list[float]]:
    """The table and how to read it; returns the lowest and highest change by L1 alone."""
    before, after, *controls = means.values()
    table = Table("held out, means", "better", "before", "after", "change", "by L1 alone", "against L1 alone")
    spread: dict[str, list[float]] = {}
    changed: dict[str, list[str]] = {"better": [], "worse": [], "as L1": []}
    for name, (label, form, higher) in MEASURES.items():
        known = [*L1_ALONE[name], *(control[name] - before[name] for control in controls)]
        change, spread[name] = after[name] - before[name], [min(known), max(known)]
        low, high = spread[name]
        verdict = "as L1" if low <= change <= high else "better" if (change > high) == higher else "worse"
        changed[verdict] += [label] if name in PERCEPTUAL else []
        cells = [f"{before[name]:{form}}", f"{after[name]:{form}}", f"{change:+{form}}"]
        cells += [f"{low:+{form}} to {high:+{form}}", verdict]
        table.add_row(label, "higher" if higher else "lower", *cells, style="bold" if verdict == "better" else None)
    console.print(table)
    cost = after["psnr"] - before["psnr"]
    better, worse = (", ".join(changed[verdict]) or "none" for verdict in ("better", "worse"))
    console.print(
        "How to read it: of the perceptual measures that the loss does not contain, these improved by more than "
        f"with L1 alone: {better}; these got worse: {worse}. PSNR changed by {cost:+.2f} dB: detail that the LR image "
        "does not determine is not where GT has it."
    )
    return spread


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--control", type=int, nargs="*", metavar="SEED", help="train with L1 alone too; seed 0 if none"
    )
    options = parser.parse_args(argv)
    seeds = [] if options.control is None else options.control or [0]
    console = Console()
    OUT.mkdir(parents=True, exist_ok=True)
    prepare_data(OUT / "train")
    networks = {"before: L1": load_network(START, "params")}
    networks["after: L1 + critic + GAN"] = load_network(train(CONFIG, console))
    for seed in seeds:
        networks[f"control: more L1 ({seed})"] = load_network(train(write_control(seed), console))
    means = compare(networks)
    summary = {"means": means, "change by L1 alone": report(means, console)}
    (OUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    console.print(f"wrote {OUT / 'comparison.png'} and {OUT / 'summary.json'}")


if __name__ == "__main__":
    main()
