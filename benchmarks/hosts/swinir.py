"""SwinIR's two stages (pixel; then pixel + VGG + GAN + a critic) through BasicSR, at SwinIR-light's size on a CPU.

    python benchmarks/hosts/swinir.py --data DIR --weights <a trained rqi_topiq>.safetensors

swinir_x4_pixel.yml and swinir_x4_rqi_gan.yml with small patches and few iterations, measured on Set5 and Set14 after
each stage; `gan_control` is the second stage without the critic. Without the file vgg19-dcbb9e9d.pth in torch's cache,
VGG gets random weights, and the output says so. Resumable.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from runs import OUT, SCALE, SETS, basicsr, basicsr_data, measure, parser, restore, save_comparison, show, small_sr
from torch import Tensor, nn

WINDOW = 8
LIGHT: dict[str, object] = {
    "network_g:depths": "[6,6,6,6]",
    "network_g:embed_dim": 60,
    "network_g:num_heads": "[6,6,6,6]",
    "network_g:upsampler": "pixelshuffledirect",
    "datasets:train:gt_size": 96,
}
VGG = (
    "{'type':'PerceptualLoss','layer_weights':{'conv1_2':0.1,'conv2_2':0.1,'conv3_4':1,'conv4_4':1,'conv5_4':1},"
    "'vgg_type':'vgg19','use_input_norm':True,'range_norm':False,'perceptual_weight':1.0,'style_weight':0,"
    "'criterion':'l1'}"
)


class Padded(nn.Module):
    """BasicSR's SwinIR takes multiples of its window; here as its model class pads them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, lr: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, 3, 4 h, 4 w)."""
        height, width = lr.shape[-2:]
        padded = F.pad(lr, (0, -width % WINDOW, 0, -height % WINDOW), mode="reflect")
        return self.network(padded)[..., : height * SCALE, : width * SCALE]


def load(path: Path) -> nn.Module:
    """SwinIR-light with the weights of a stage (its running average)."""
    from sr_perceptual_loss.integrations import basicsr_shim  # noqa: F401, I001 - before basicsr

    from basicsr.archs.swinir_arch import SwinIR

    network = SwinIR(
        img_size=48, window_size=WINDOW, depths=[6] * 4, embed_dim=60, num_heads=[6] * 4, mlp_ratio=2,
        upscale=SCALE, img_range=1.0, upsampler="pixelshuffledirect", resi_connection="1conv",
    )  # fmt: skip
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["params_ema"])
    return Padded(network).eval()


def place_vgg(folder: Path) -> None:
    """VGG19 where BasicSR looks for it: the published file from torch's cache, else random weights (printed)."""
    import torchvision

    target = folder / "experiments" / "pretrained_models" / "vgg19-dcbb9e9d.pth"
    cached = Path(torch.hub.get_dir()) / "checkpoints" / target.name
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if cached.is_file():
        target.symlink_to(cached)
        return
    print("VGG19: no published weights on this machine; random ones.", flush=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.vgg19(weights=None).state_dict(), target)


def train(given: argparse.Namespace, cwd: Path) -> dict[str, Path]:
    """All stages; name -> weights."""
    common = {**LIGHT, **basicsr_data(given.data), "train:ema_decay": 0.99}
    pixel, gan = given.iterations
    common["logger:print_freq"] = max(1, gan // 6)
    force = {**common, "train:total_iter": pixel, "datasets:train:batch_size_per_gpu": 4}
    force["train:optim_g:lr"] = "!!float5e-4"
    found = {"pixel": basicsr("swinir_x4_pixel.yml", f"pixel_{pixel}", force, OUT / "swinir" / "pixel.log", cwd=cwd)}
    place_vgg(cwd)
    critic = "{'type':'CriticLoss','critic':'haarpsi','loss_weight':0.1}"
    metric, weights = "haarpsi", "~"
    if given.weights:
        metric, weights = "rqi_topiq", str(given.weights)
        critic = f"{{'type':'CriticLoss','critic':'rqi_topiq','weights':'{given.weights}','loss_weight':0.1}}"
    for stage, losses in {"gan_critic": f"[{VGG},{critic}]", "gan_control": f"[{VGG}]"}.items():
        force = {
            **common,
            "path:pretrain_network_g": found["pixel"],
            "train:total_iter": gan,
            "datasets:train:batch_size_per_gpu": 2,
            "network_d:num_feat": 16,
            "train:losses": losses,
            "val:metrics:rqi:type": f"calculate_{metric}",
            "val:metrics:rqi:weights": weights,
        }
        log = OUT / "swinir" / f"{stage}.log"
        found[stage] = basicsr("swinir_x4_rqi_gan.yml", f"{stage}_{gan}", force, log, cwd=cwd)
    return found


def main() -> None:
    command_line = parser(__doc__, 0, clone=False)
    command_line.add_argument("--weights", type=Path, help="a trained rqi_topiq (.safetensors); without it, HaarPSI")
    command_line.add_argument("--iterations", type=int, nargs=2, default=(400, 150), metavar=("PIXEL", "GAN"))
    command_line.add_argument("--sets", nargs="+", default=["Set5", "Set14"], choices=list(SETS))
    given = command_line.parse_args()
    torch.set_num_threads(1)
    given.weights = given.weights and given.weights.resolve()
    cwd = OUT / "swinir"
    cwd.mkdir(parents=True, exist_ok=True)
    networks = train(given, cwd)
    critics = {"rqi_topiq": str(given.weights)} if given.weights else {}
    results: dict[str, dict[str, dict[str, float]]] = {}
    for title in given.sets:
        pairs = small_sr.image_pairs(given.data / SETS[title])
        shots = {stage: restore(load(path), pairs) for stage, path in networks.items()}
        results[title] = {stage: measure(images, pairs, critics) for stage, images in shots.items()}
        show({title: results[title]}, OUT / "swinir" / f"{title}.json")
        if title == given.sets[0]:
            save_comparison(OUT / "swinir" / "swinir.png", pairs[2], shots)
    show(results, OUT / "swinir" / "summary.json")


if __name__ == "__main__":
    main()
