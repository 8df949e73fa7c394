"""neosr's own model class with our loss in `dists_opt`, on a CPU; what docs/hosts/neosr.md shows.

    python benchmarks/hosts/neosr.py --clone <clone of neosr> --data DIR [--path <folder with what neosr imports>]

Its train.py refuses a machine without CUDA, so the loop is ours; options, registries, `build_loss`, `build_model` and
`optimize_parameters` are neosr's. `compact` with 24 features; HaarPSI from the second half on.
"""

from __future__ import annotations

import sys

import torch
from runs import OUT, SETS, batches, measure, parser, photographs, restore, save_comparison, show, small_sr

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
    given = parser(__doc__, 200).parse_args()
    torch.set_num_threads(1)
    sys.path[:0] = [str(p.resolve()) for p in (given.clone, given.path) if p]
    model = build(given.iterations)
    data = batches(photographs(given.data, PHOTOGRAPHS), BATCH, PATCH, given.iterations)
    pairs = small_sr.image_pairs(given.data / SETS["Set5"])
    shots = {}
    for iteration, batch in enumerate(data, 1):
        model.feed_data(batch)
        model.optimize_parameters(iteration)
        if iteration % max(1, given.iterations // 8) == 0:
            print(iteration, {k: round(float(v), 4) for k, v in model.get_current_log().items()}, flush=True)
        if iteration in (given.iterations // 2, given.iterations):
            model.net_g.eval()
            shots["before" if iteration < given.iterations else "after"] = restore(model.net_g, pairs)
            model.net_g.train()
    show({"Set5": {stage: measure(images, pairs) for stage, images in shots.items()}}, OUT / "neosr" / "Set5.json")
    save_comparison(OUT / "neosr" / "neosr.png", pairs[1], shots)


if __name__ == "__main__":
    main()
