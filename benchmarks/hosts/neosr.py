"""neosr's own model class with our loss in `dists_opt`, on a CPU; what docs/hosts/neosr.md shows.

    python benchmarks/hosts/neosr.py --clone <clone of neosr> [--path <folder with what neosr imports>]

Its train.py refuses a machine without CUDA, so the loop is ours; options, registries, `build_loss`, `build_model` and
`optimize_parameters` are neosr's. `compact` with 24 features; HaarPSI from the second half on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from host_data import OUT, ROOT, SETS, small_sr
from judging import measure, restore, show

OPTIONS = """
name = "cpu"
model_type = "perceptual_image"
scale = 4
num_gpu = 0
manual_seed = 1
[datasets.train]
type = "paired"
dataroot_gt = "/nowhere"
dataroot_lq = "/nowhere"
patch_size = 24
batch_size = 4
[network_g]
type = "compact"
num_feat = 24
num_conv = 4
[path]
[train]
ema = -1
grad_clip = true
clamp = true
optim_g = {{type = "adamw", lr = 5e-4}}
scheduler = {{type = "multisteplr", milestones = [100000], gamma = 0.5}}
pixel_opt = {{type = "L1Loss", loss_weight = 1.0}}
dists_opt = {{type = "haarpsiLoss", loss_weight = 0.2, schedule = {{start = {start}, ramp = 20}}}}
[logger]
total_iter = {total}
"""
BATCH, PATCH, PHOTOGRAPHS = 4, 96, 60


def build(iterations: int) -> object:
    """Neosr's model; neosr reads the command line when it is imported, so this comes after argparse."""
    file = OUT / "neosr" / "options.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(OPTIONS.format(start=iterations // 2 + 1, total=iterations))
    sys.argv = ["train.py", "-opt", str(file)]
    from sr_perceptual_loss.integrations import neosr as ours

    print("losses:", ours.register())
    print("models:", ours.register_models())
    from neosr.models import build_model
    from neosr.models.base import base
    from neosr.utils.options import parse_options

    torch.use_deterministic_algorithms(False)
    options, _ = parse_options(str(OUT / "neosr"), is_train=True)
    stock = base.__init__

    def on_cpu(self: object, opt: dict[str, object]) -> None:
        stock(self, opt)
        self.device = torch.device("cpu")

    base.__init__ = on_cpu
    torch.manual_seed(0)
    return build_model(options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clone", type=Path, required=True)
    parser.add_argument("--path", type=Path, help="further folder to import from")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--iterations", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sys.path[:0] = [str(p.resolve()) for p in (given.clone, given.path) if p]
    model = build(given.iterations)
    images = [small_sr.read(p) for p in sorted((given.data / "cid22_512_train").glob("*.png"))[:PHOTOGRAPHS]]
    crops = small_sr.Crops(images, BATCH * given.iterations, PATCH)
    pairs = small_sr.image_pairs(given.data / SETS["Set5"])
    shots = {}
    for iteration in range(1, given.iterations + 1):
        items = [crops[(iteration - 1) * BATCH + i] for i in range(BATCH)]
        model.feed_data(dict(zip(("lq", "gt"), map(torch.stack, zip(*items, strict=True)), strict=True)))
        model.optimize_parameters(iteration)
        if iteration % max(1, given.iterations // 8) == 0:
            print(iteration, {k: round(float(v), 4) for k, v in model.get_current_log().items()}, flush=True)
        if iteration in (given.iterations // 2, given.iterations):
            model.net_g.eval()
            shots["before" if iteration < given.iterations else "after"] = restore(model.net_g, pairs)
            model.net_g.train()
    show({"Set5": {k: measure(v, pairs, {}) for k, v in shots.items()}}, OUT / "neosr" / "Set5.json")
    name, lr, hr = pairs[1]
    small_sr.picture(OUT / "neosr" / "neosr.png", {"LR": lr, **{k: v[name] for k, v in shots.items()}, "HR": hr})


if __name__ == "__main__":
    main()
