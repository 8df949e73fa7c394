"""The demo's network on real data: fine-tuned on CID22, measured on Set5, Set14 and BSD100 (x4), before and after.

    python benchmarks/real_data.py --data DIR

DIR contains cid22_512_train, Set5, Set14_x4 and BSD100_x4 (docs/hosts/plain_pytorch.md, Data). `before` is the first
stage of `make demo`. `after` continues it with the pixel loss and the critic of demo_cpu.yml, and `control` with the
pixel loss alone, for the same number of iterations on the same crops. Y channel, border 4. Prints a
table and writes runs/real_data/summary.json. Resumable.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "examples"))

import demo  # noqa: E402 - its network, training and measures
from small_sr import image_pairs  # noqa: E402

SETS = {"Set5": "Set5", "Set14": "Set14_x4", "BSD100": "BSD100_x4"}


def prepare(source: Path, out: Path) -> None:
    """512-pixel photographs -> LR and GT tiles, as the demo makes them."""
    from basicsr.utils.matlab_functions import imresize

    if (out / "complete").is_file():
        return
    for kind in ("GT", "LR"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    for path in track(sorted(source.glob("*.png")), "tiles of CID22"):
        gt = np.array(Image.open(path).convert("RGB"))
        lr = (np.clip(imresize(gt.astype(np.float32) / 255, 0.25), 0, 1) * 255).round().astype(np.uint8)
        for suffix, top, left in demo.tiles(lr.shape[:2]):
            tile = lr[top : top + demo.TILE, left : left + demo.TILE]
            large = gt[top * 4 : (top + demo.TILE) * 4, left * 4 : (left + demo.TILE) * 4]
            Image.fromarray(tile).save(out / "LR" / f"{path.stem}{suffix}.png")
            Image.fromarray(large).save(out / "GT" / f"{path.stem}{suffix}.png")
    (out / "complete").write_text("ok\n")


def evaluate(network: Path, sets: dict[str, list]) -> dict[str, dict[str, float]]:
    """Mean measures per test set."""
    loaded = demo.load_network("demo_cpu", network)
    means = {}
    for name, pairs in sets.items():
        rows = []
        for _, lr, hr in pairs:
            with torch.no_grad():
                sr = loaded(lr)[..., : hr.shape[-2], : hr.shape[-1]]
            rows.append(demo.measure(*(image_bytes(image) for image in (sr, hr))))
        means[name] = {key: float(np.mean([r[key] for r in rows])) for key in demo.MEASURES}
    return means


def image_bytes(image: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return (image[0].clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cid22_512_train and the test sets")
    arguments = parser.parse_args()
    console = Console()
    demo.OUT.mkdir(parents=True, exist_ok=True)
    demo.prepare_data(demo.OUT / "data")
    out = ROOT / "runs" / "real_data"
    prepare(arguments.data / "cid22_512_train", out / "train")
    folders = [f"datasets:train:dataroot_{k}={out / 'train' / v}" for k, v in (("gt", "GT"), ("lq", "LR"))]
    folders.append("datasets:train:dataset_enlarge_ratio=5")
    networks = {"before": demo.train("demo_cpu_pixel", console)}
    networks["after"] = demo.train("demo_cpu", console, name="real_data_critic", force=folders)
    pixel_only = [*folders, "train:losses=[{'type':'L1Loss','loss_weight':1.0,'reduction':'mean'}]"]
    networks["control"] = demo.train("demo_cpu", console, name="real_data_control", force=pixel_only)
    sets = {name: image_pairs(arguments.data / folder) for name, folder in SETS.items()}
    results = {stage: evaluate(path, sets) for stage, path in networks.items()}
    table = Table("test set", *(f"{title} {stage}" for title, _ in demo.MEASURES.values() for stage in results))
    for name, files in sets.items():
        cells = (f"{results[s][name][m]:{form}}" for m, (_, form) in demo.MEASURES.items() for s in results)
        table.add_row(f"{name} ({len(files)})", *cells)
    console.print(table)
    (out / "summary.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"wrote {out / 'summary.json'}")


if __name__ == "__main__":
    main()
