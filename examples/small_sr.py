"""Parts of the loop examples: a small x4 network, crops of photographs, and measures of whole test images.

Without a folder, photographs that scikit-image bundles are used (`pip install scikit-image`). The runs show that
everything works together, not quality: 0.06 M weights and a few hundred iterations on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.utils.data import Dataset

from sr_perceptual_loss import create_critic
from sr_perceptual_loss.lab.evaluation.sr_metrics import psnr, ssim_8bit

SCALE = 4
BUNDLED = ("motorcycle_left.png", "rocket.jpg", "ihc.png", "hubble_deep_field.jpg", "grass.png", "brick.png")
BUNDLED_TEST = ("astronaut.png", "chelsea.png", "coffee.png")
Pair = tuple[str, Tensor, Tensor]


class SmallSR(nn.Module):
    """Bicubic enlargement plus a residual from a few convolutions at LR size."""

    def __init__(self, width: int = 32, depth: int = 5) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 3 * SCALE**2, 3, padding=1), nn.PixelShuffle(SCALE))
        nn.init.zeros_(self.body[-2].weight)

    def forward(self, lr: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, 3, 4 h, 4 w), not clamped."""
        return F.interpolate(lr, scale_factor=SCALE, mode="bicubic", align_corners=False) + self.body(lr)


def read(path: Path) -> Tensor:
    """(3, H, W) RGB in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255


def shrink(hr: Tensor) -> Tensor:
    """Bicubic x1/4 with antialiasing, in steps of 1/255."""
    lr = F.interpolate(hr, scale_factor=1 / SCALE, mode="bicubic", antialias=True, align_corners=False)
    return (lr.clamp(0, 1) * 255).round() / 255


def photographs(folder: Path | None) -> list[Tensor]:
    if folder is not None:
        return [read(path) for path in sorted(folder.glob("*.png"))]
    import skimage

    return [read(Path(skimage.__file__).parent / "data" / name) for name in BUNDLED]


def image_pairs(folder: Path | None) -> list[Pair]:
    """(name, LR, HR), each (1, 3, H, W): `HR/` and `LR_bicubic/X4/`, `*_SRF_4_HR.png` and `*_LR.png`, or HR alone."""
    pairs: list[Pair] = []
    if folder is None:
        import skimage

        files = [(None, Path(skimage.__file__).parent / "data" / name) for name in BUNDLED_TEST]
    elif (folder / "HR").is_dir():
        files = [(folder / "LR_bicubic" / "X4" / f"{p.stem}x4.png", p) for p in sorted((folder / "HR").glob("*.png"))]
    elif list(folder.glob("*_SRF_4_HR.png")):
        files = [(p.with_name(p.name.replace("_HR", "_LR")), p) for p in sorted(folder.glob("*_SRF_4_HR.png"))]
    else:
        files = [(None, path) for path in sorted(folder.glob("*.png"))]
    for lr_file, hr_file in files:
        hr = read(hr_file)
        hr = hr[None, :, : hr.shape[1] // SCALE * SCALE, : hr.shape[2] // SCALE * SCALE]
        pairs.append((hr_file.stem, shrink(hr) if lr_file is None else read(lr_file)[None], hr))
    return pairs


class Crops(Dataset):
    """LR and HR crops as a function of (seed, index), so a continued run gets the same ones."""

    def __init__(self, images: Sequence[Tensor], length: int, size: int = 96, seed: int = 0) -> None:
        self.images, self.length, self.size, self.seed = images, length, size, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng([self.seed, index])
        image = self.images[int(random.integers(len(self.images)))]
        top, left = (int(random.integers(0, side - self.size + 1)) for side in image.shape[1:])
        hr = image[:, top : top + self.size, left : left + self.size]
        hr = hr.flip(2) if random.random() < 0.5 else hr
        return shrink(hr[None])[0], hr.contiguous()


@torch.no_grad()
def restore(network: nn.Module, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """SR images in 8-bit steps, by name."""
    place = next(network.parameters()).device
    return {name: (network(lr.to(place)).cpu().clamp(0, 1) * 255).round() / 255 for name, lr, _ in pairs}


@torch.no_grad()
def measure(images: Mapping[str, Tensor], pairs: Sequence[Pair]) -> dict[str, float]:
    """Means over whole images: PSNR-Y, SSIM-Y (border 4), and HaarPSI of the same region."""
    critic, rows = create_critic("haarpsi"), []
    for name, _, hr in pairs:
        sr = images[name]
        cut = (slice(None), slice(None), slice(SCALE, -SCALE), slice(SCALE, -SCALE))
        score = float(critic.score(sr[cut], hr[cut]))
        rows.append((psnr(sr[0], hr[0], border=SCALE), ssim_8bit(sr[0], hr[0], border=SCALE), score))
    return dict(zip(("psnr_y", "ssim_y", "haarpsi"), np.mean(rows, axis=0).tolist(), strict=True))


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """One line per stage."""
    return "\n".join(
        f"{stage:8} PSNR-Y {r['psnr_y']:.2f}  SSIM-Y {r['ssim_y']:.4f}  HaarPSI {r['haarpsi']:.4f}"
        for stage, r in results.items()
    )


def save_comparison(path: Path, columns: Mapping[str, Tensor], top: int = 60, left: int = 60, side: int = 96) -> None:
    """The same region of several (1, 3, H, W) images, side by side, enlarged twice."""
    sheet = Image.new("RGB", (len(columns) * (2 * side + 4), 2 * side + 18), "white")
    for number, (title, image) in enumerate(columns.items()):
        step = SCALE if title == "LR" else 1
        cut = image[0, :, top // step : (top + side) // step, left // step : (left + side) // step]
        tile = Image.fromarray((cut.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
        sheet.paste(tile.resize((2 * side, 2 * side), Image.Resampling.NEAREST), (number * (2 * side + 4), 18))
        ImageDraw.Draw(sheet).text((number * (2 * side + 4) + 4, 3), title, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def arguments(description: str, name: str) -> argparse.ArgumentParser:
    """Command-line options of all loops."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of *.png photographs to train on")
    parser.add_argument("--test", type=Path, help="folder of test images")
    parser.add_argument("--out", type=Path, default=Path("runs/hosts") / name)
    parser.add_argument("--iterations", type=int, default=600, help="half with the pixel loss, half with the critic")
    parser.add_argument("--critic", default="haarpsi")
    parser.add_argument("--weights", default="local", help="'local', a tag, or a .safetensors file")
    parser.add_argument("--loss-weight", type=float, default=0.2, help="0: a control without the critic")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=96)
    return parser
