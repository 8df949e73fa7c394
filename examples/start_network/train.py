"""Trains the network that `make demo` starts from: a small x4 network, L1 loss, on one core of a CPU.

    python examples/start_network/train.py --photographs FOLDER [--test FOLDER ...] [--out runs/start_network]

FOLDER holds photographs as PNG files of at least 128 x 128 pixels. Interrupted, the same command continues.
Writes srvgg_x4.pth in the form that BasicSR reads, in 16-bit numbers, and prints what its card (card.yml) states.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_perceptual_loss.integrations import basicsr_shim  # noqa: F401 - makes `import basicsr` work

sys.path.append(str(Path(__file__).resolve().parents[1]))

from small_sr import SCALE, image_pairs, measure, read, restore, shrink

#: BasicSR's SRVGGNetCompact, in the words of a YAML's network_g.
NETWORK = {"type": "SRVGGNetCompact", "num_feat": 48, "num_conv": 8, "upscale": SCALE}
BATCH, SIDE, RATE, AVERAGE = 4, 96, 1e-3, 0.998
#: Steps of the rise and of the fall of the learning rate, and between two states.
RISE, FALL, EVERY = 200, 2000, 250


def build() -> nn.Module:
    """The network with random weights."""
    from basicsr.archs import build_network

    return build_network(dict(NETWORK))


def read_pairs(folder: Path) -> list[tuple[Tensor, Tensor]]:
    """(LR, HR) of whole photographs, as bytes."""
    pairs = []
    for path in sorted(folder.glob("*.png")):
        hr = read(path)
        hr = hr[:, : hr.shape[1] // SCALE * SCALE, : hr.shape[2] // SCALE * SCALE]
        pairs.append(tuple((image * 255).round().byte() for image in (shrink(hr[None])[0], hr)))
    return pairs


def batch(pairs: Sequence[tuple[Tensor, Tensor]], step: int) -> tuple[Tensor, Tensor]:
    """LR and HR crops with flips and turns, in [0, 1]: a function of the step."""
    random = np.random.default_rng([0, step])
    lr_side, crops = SIDE // SCALE, []
    for _ in range(BATCH):
        lr, hr = pairs[int(random.integers(len(pairs)))]
        top, left = (int(random.integers(0, size - lr_side + 1)) for size in lr.shape[1:])
        flip, turns = random.random() < 0.5, int(random.integers(4))
        for image, scale in ((lr, 1), (hr, SCALE)):
            crop = image[:, top * scale : (top + lr_side) * scale, left * scale : (left + lr_side) * scale]
            crops.append((crop.flip(2) if flip else crop).rot90(turns, (1, 2)).float() / 255)
    return torch.stack(crops[::2]), torch.stack(crops[1::2])


def rate(step: int, steps: int) -> float:
    """Learning rate: a short rise, constant, a linear fall to zero. Until the fall, more steps can be decided on."""
    return RATE * min(1, (step + 1) / RISE, (steps - step) / FALL)


def train(pairs: Sequence[tuple[Tensor, Tensor]], steps: int, state_file: Path) -> nn.Module:
    """L1 with Adam; returns the average of the weights over the last few hundred steps."""
    torch.manual_seed(0)
    network, average, first = build(), build(), 0
    average.load_state_dict(network.state_dict())
    adam = torch.optim.Adam(network.parameters(), lr=RATE, betas=(0.9, 0.99))
    parts = {"network": network, "average": average, "adam": adam}
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True)
        first = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for step in range(first, steps):
        adam.param_groups[0]["lr"] = rate(step, steps)
        lr, hr = batch(pairs, step)
        loss = F.l1_loss(network(lr), hr)
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - AVERAGE)
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            part_file = state_file.with_suffix(".part")
            torch.save({"step": step + 1, **{name: part.state_dict() for name, part in parts.items()}}, part_file)
            part_file.replace(state_file)
            print(f"{step + 1}/{steps}  L1 {loss.item():.4f}", flush=True)
    return average


def save(network: nn.Module, file: Path) -> None:
    """{"params": weights}, 16-bit; prints size and SHA-256."""
    torch.save({"params": {name: value.half() for name, value in network.state_dict().items()}}, file)
    print(f"wrote {file}: {file.stat().st_size} bytes, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--test", type=Path, nargs="*", default=[], help="folders of test images")
    parser.add_argument("--out", type=Path, default=Path("runs/start_network"))
    parser.add_argument("--steps", type=int, default=9000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    network = train(read_pairs(options.photographs), options.steps, options.out / "state.pt").eval()
    save(network, options.out / "srvgg_x4.pth")
    for folder in options.test:
        test = image_pairs(folder)
        bicubic = {name: F.interpolate(lr, scale_factor=SCALE, mode="bicubic").clamp(0, 1) for name, lr, _ in test}
        print(folder.name, "bicubic", measure(bicubic, test), "network", measure(restore(network, test), test))


if __name__ == "__main__":
    main()
