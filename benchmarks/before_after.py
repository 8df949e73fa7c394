"""Do two checkouts compute the same losses? Values and gradients on photographs, with one set of random weights.

    python benchmarks/before_after.py dump --photographs FOLDER --weights runs/w --out a.safetensors
    PYTHONPATH=/path/to/another/checkout python benchmarks/before_after.py dump --photographs FOLDER \
        --weights runs/w --out b.safetensors
    python benchmarks/before_after.py compare a.safetensors b.safetensors

The first dump draws the weights and saves them in the folder --weights; every later one loads them from there. One
square crop of each photograph is the reference; the SR image is the crop blurred and with noise. `compare` prints the
largest relative difference of values and of gradients (L2) for each loss.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sr_perceptual_loss import Critic, CriticLoss, SSIMLoss, SSIMPerceptualRatioLoss, create_critic, save_weights

CRITICS = ("haarpsi", "texture_stats", "efficient_pban", "rqi_maniqa", "rqi_ahiq", "rqi_topiq")
WEIGHT_FREE = ("haarpsi", "texture_stats")
SIDE = 224


def crop(path: Path, side: int) -> tuple[Tensor, Tensor]:
    """(SR, HR), each (1, 3, side, side); the noise is a function of the file's name."""
    image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255
    top, left = ((length - side) // 2 for length in image.shape[1:])
    if min(top, left) < 0:
        raise SystemExit(f"{path}: got {tuple(image.shape[1:])}, expected at least {side}x{side}.")
    hr = image[None, :, top : top + side, left : left + side].contiguous()
    seed = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16)
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(seed))
    return (F.avg_pool2d(hr, 3, 1, 1, count_include_pad=False) + 0.02 * noise).clamp(0, 1), hr


@torch.no_grad()
def randomise(critic: Critic, sr: Tensor, hr: Tensor) -> None:
    """Random numbers also where training starts from zeros, and the batch statistics of an image.

    Otherwise deformable convolutions would sample at whole pixels only, and activations could grow without limit.
    """
    generator = torch.Generator().manual_seed(1)
    handles = []
    for module in critic.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.any():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        if isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(take_statistics))
    critic.eval().score(sr, hr)
    for handle in handles:
        handle.remove()


def take_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Forward pre-hook of a BatchNorm2d."""
    module.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    module.running_var.copy_(inputs[0].var((0, 2, 3), correction=0).clamp_min(1e-4))


def weights_of(name: str, folder: Path, photograph: Path) -> str | None:
    """The file with the critic's weights, drawn and saved if it is not there; None for a weight-free critic."""
    if name in WEIGHT_FREE:
        return None
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        critic = create_critic(name, weights=None)
        randomise(critic, *crop(photograph, critic.input_size.fixed or SIDE))
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(critic, path)
    return str(path)


def losses(folder: Path, photograph: Path) -> Iterator[tuple[str, nn.Module, int]]:
    """(name, loss, side of its crops), built one after the other."""
    yield "SSIMLoss", SSIMLoss(), SIDE
    for name in CRITICS:
        weights = weights_of(name, folder, photograph)
        given = {} if weights is None else {"weights": weights}
        loss = CriticLoss(name, **given)
        side = loss.critic.input_size.fixed or SIDE
        yield f"CriticLoss {name}", loss, side
        ratio = SSIMPerceptualRatioLoss(name, **given, alpha=0.5, beta=0.5, loss_balance="grad_norm")
        yield f"SSIMPerceptualRatioLoss {name}", ratio, side


def dump(photographs: list[Path], weights: Path, out: Path, report: Callable[[str], None] = print) -> None:
    """Values and gradients of every loss on every photograph, as one safetensors file."""
    tensors: dict[str, Tensor] = {}
    for name, loss, side in losses(weights, photographs[0]):
        for path in photographs:
            sr, hr = crop(path, side)
            sr.requires_grad_()
            value = loss(sr, hr)
            (gradient,) = torch.autograd.grad(value, sr)
            tensors[f"{name}|{path.stem}|value"] = value.detach().reshape(1)
            tensors[f"{name}|{path.stem}|gradient"] = gradient.contiguous()
        report(f"{name}: last value {value.item():.6g}, norm of the gradient {float(gradient.norm()):.3g}")
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out)


def compare(first: Path, second: Path) -> dict[tuple[str, str], float]:
    """(loss, "value" or "gradient") -> largest relative difference; inf where one file lacks it."""
    a, b = load_file(first), load_file(second)
    largest: dict[tuple[str, str], float] = {}
    for key in sorted(a.keys() | b.keys()):
        name, _, what = key.split("|")
        difference = float("inf")
        if key in a and key in b:
            x, y = a[key].double(), b[key].double()
            difference = float((x - y).norm() / x.norm().clamp_min(1e-12))
        largest[name, what] = max(largest.get((name, what), 0.0), difference)
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("dump", help="compute values and gradients with the package that is imported")
    make.add_argument("--photographs", type=Path, required=True, help="folder of PNG files")
    make.add_argument("--count", type=int, default=10)
    make.add_argument("--weights", type=Path, required=True, help="folder with the random weights")
    make.add_argument("--out", type=Path, required=True)
    against = commands.add_parser("compare", help="print the largest relative differences of two dumps")
    against.add_argument("dumps", type=Path, nargs=2)
    options = parser.parse_args()
    if options.command == "dump":
        torch.set_num_threads(1)
        dump(sorted(options.photographs.glob("*.png"))[: options.count], options.weights, options.out)
        return
    for (name, what), difference in compare(*options.dumps).items():
        print(f"{name:40} {what:9} {difference:.1e}")


if __name__ == "__main__":
    main()
