"""CAMixerSR_S fine-tuned on CID22 with SSIM and a critic through our runner; before and after on three test sets.

    python benchmarks/hosts/camixersr.py --clone <clone of icandle/CAMixerSR> --data DIR

Stages: `before` (published weights), `haarpsi` (camixersr_x4_ssim_pban.yml with HaarPSI), `rqi_topiq` (with a learned
critic at a tenth of the weight; only with --weights), `control` (pixel loss alone). Measures are means over two seeds
of its random evaluation; the spread over eight is printed for Set5. Resumable: runs that are complete are not repeated.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from runs import OUT, SETS, basicsr, basicsr_data, measure, parser, restore, save_comparison, show, small_sr

from sr_perceptual_loss.integrations.basicsr_runner import prepare
from sr_perceptual_loss.lab.evaluation.sr_metrics import psnr

DRAWS, SEEDS = 2, 8
L1 = "{'type':'L1Loss','loss_weight':1.0,'reduction':'mean'}"


def arguments() -> argparse.Namespace:
    command_line = parser(__doc__, 200)
    command_line.add_argument("--weights", type=Path, help="a trained rqi_topiq (.safetensors)")
    command_line.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    return command_line.parse_args()


def load(path: Path) -> torch.nn.Module:
    """The clone's own network, as its evaluation has it."""
    from basicsr.utils.registry import ARCH_REGISTRY

    network = ARCH_REGISTRY.get("CAMixerSR")(n_feats=36, scale=4, ratio=0.5)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["params_ema"])
    return network.eval()


def train(given: argparse.Namespace, codes: Path, start: Path) -> dict[str, Path]:
    """All stages; name -> weights."""
    common = {
        **basicsr_data(given.data),
        "path:pretrain_network_g": start,
        "datasets:train:gt_size": 128,
        "datasets:train:batch_size_per_gpu": 4,
        "train:total_iter": given.iterations,
        "train:ema_decay": 0.99,
        "train:optim_g:lr": "!!float5e-5",
        "train:guard:every": 50,
        "logger:print_freq": max(1, given.iterations // 8),
    }
    shares = "'alpha':0.5,'beta':0.5,'loss_balance':'grad_norm'"
    free = f"[{{'type':'SSIMPerceptualRatioLoss','name':'ssim_haarpsi','critic':'haarpsi',{shares}}}]"
    learned = (
        f"[{{'type':'SSIMPerceptualRatioLoss','name':'ssim_rqi','critic':'rqi_topiq','weights':'{given.weights}',"
        f"{shares},'loss_weight':0.1}}]"
    )
    stages: dict[str, dict[str, object]] = {"haarpsi": {"train:losses": free}}
    if given.weights:
        stages["rqi_topiq"] = {"train:losses": learned}
    stages["control"] = {"train:losses": f"[{L1}]", "train:pixel_opt": "~", "train:guard": "false"}
    found = {"before": start}
    for stage, force in stages.items():
        name, log = f"srpl_{stage}_{given.iterations}", OUT / "camixersr" / f"{stage}.log"
        config = "camixersr_x4_ssim_pban.yml"
        forced = {key: value for key, value in common.items() if not (stage == "control" and "guard:" in key)}
        found[stage] = basicsr(config, name, {**forced, **force}, log, cwd=codes, imports="archs models")
    return found


def main() -> None:
    given = arguments()
    torch.set_num_threads(1)
    codes, start = (given.clone / "codes").resolve(), given.data / "sr_weights" / "camixersr" / "CAMixerSR_S.pth"
    given.weights = given.weights and given.weights.resolve()
    networks = train(given, codes, start.resolve())
    os.chdir(codes)
    prepare(["archs"])
    critics = {"rqi_topiq": str(given.weights)} if given.weights else {}
    results: dict[str, dict[str, dict[str, float]]] = {}
    shots: dict[str, dict[str, torch.Tensor]] = {}
    for title in given.sets:
        pairs = small_sr.image_pairs(given.data.resolve() / SETS[title])
        results[title] = {}
        for stage, path in networks.items():
            network = load(path)
            draws = [restore(network, pairs, seed) for seed in range(DRAWS)]
            rows = [measure(images, pairs, critics) for images in draws]
            results[title][stage] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            if title == given.sets[0]:
                shots[stage] = draws[0]
        show({title: results[title]}, OUT / "camixersr" / f"{title}.json")
    show(results, OUT / "camixersr" / "summary.json")
    pairs = small_sr.image_pairs(given.data.resolve() / SETS["Set5"])
    for stage, path in networks.items():
        network = load(path)
        found = [restore(network, pairs, seed) for seed in range(SEEDS)]
        means = [np.mean([psnr(images[n][0], hr[0], border=4) for n, _, hr in pairs]) for images in found]
        print(f"Set5 PSNR-Y of {stage} over {SEEDS} seeds: {np.mean(means):.4f} +- {np.std(means, ddof=1):.4f}")
    pair = small_sr.image_pairs(given.data.resolve() / SETS[given.sets[0]])[2]
    save_comparison(OUT / "camixersr" / "camixersr.png", pair, shots)


if __name__ == "__main__":
    main()
