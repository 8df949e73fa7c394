"""traiNNer-redux's own model class with our loss in `losses`, on a CPU; what docs/hosts/trainner.md shows.

    python benchmarks/hosts/trainner.py --clone <clone of traiNNer-redux> --data DIR [--path <folder with imports>]

Its train.py refuses a machine without CUDA, so the loop is ours and counts as that does: two micro-batches per step.
`Config`, `build_model` and `optimize_parameters` are its own. `compact` with 24 features; HaarPSI from the second half
on.
"""

from __future__ import annotations

import sys

import torch
from runs import OUT, SETS, batches, measure, parser, photographs, restore, save_comparison, show, small_sr

OPTIONS = """
name: cpu_run
scale: 4
use_amp: false
use_channels_last: false
num_gpu: 0
manual_seed: 1
datasets:
  train:
    name: t
    type: pairedimagedataset
    dataroot_gt: [/nowhere]
    dataroot_lq: [/nowhere]
    lq_size: 24
    num_worker_per_gpu: 0
    batch_size_per_gpu: 4
    accum_iter: 2
network_g: {{type: compact, num_feat: 24, num_conv: 4}}
path: {{}}
train:
  ema_decay: 0
  optim_g: {{type: AdamW, lr: !!float 5e-4}}
  scheduler: {{type: MultiStepLR, milestones: [100000], gamma: 0.5}}
  total_iter: {total}
  losses:
  - {{type: l1loss, loss_weight: 1.0}}
  - {{type: haarpsiloss, loss_weight: 0.2, schedule: {{start: {start}, ramp: 20}}}}
logger: {{print_freq: 25, save_checkpoint_freq: 1000, use_tb_logger: false}}
"""
BATCH, PATCH, PHOTOGRAPHS, ACCUMULATE = 4, 96, 60, 2


def build(iterations: int) -> object:
    """Its model; the options are read from the command line, so this comes after argparse."""
    file = OUT / "trainner" / "options.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(OPTIONS.format(start=iterations // 2 + 1, total=iterations))
    sys.argv = ["train.py", "-opt", str(file)]
    import traiNNer.losses  # noqa: F401 - registers its own before ours

    from sr_perceptual_loss.integrations import trainner as ours

    print("losses:", ours.register())
    print("models:", ours.install_models())
    from traiNNer.models import build_model
    from traiNNer.utils.config import Config

    options, _ = Config.load_config_from_file(str(OUT / "trainner"), is_train=True)
    options.datasets["train"].gt_size = PATCH
    options.switch_iter_per_epoch = 1
    torch.manual_seed(0)
    return build_model(options)


def main() -> None:
    given = parser(__doc__, 150).parse_args()
    torch.set_num_threads(1)
    sys.path[:0] = [str(p.resolve()) for p in (given.clone, given.path) if p]
    model = build(given.iterations)
    data = batches(photographs(given.data, PHOTOGRAPHS), BATCH, PATCH, ACCUMULATE * given.iterations)
    pairs = small_sr.image_pairs(given.data / SETS["Set5"])
    shots = {}
    for micro, batch in enumerate(data):
        accumulated = micro % ACCUMULATE + 1
        last = accumulated == ACCUMULATE
        iteration = micro // ACCUMULATE + last  # it counts up with the last micro-batch of a step
        model.set_current_iter(iteration)
        model.feed_data(batch)
        model.optimize_parameters(iteration, 0 if last else accumulated, last)
        if last and iteration % max(1, given.iterations // 6) == 0:
            print(iteration, {k: round(float(v), 4) for k, v in model.get_current_log().items()}, flush=True)
            model.reset_current_log()
        if last and iteration in (given.iterations // 2, given.iterations):
            model.net_g.eval()
            shots["before" if iteration < given.iterations else "after"] = restore(model.net_g, pairs)
            model.net_g.train()
    show({"Set5": {stage: measure(images, pairs) for stage, images in shots.items()}}, OUT / "trainner" / "Set5.json")
    save_comparison(OUT / "trainner" / "trainner.png", pairs[1], shots)


if __name__ == "__main__":
    main()
