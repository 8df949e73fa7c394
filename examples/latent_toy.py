"""Parts of seesr_style.py and pisasr_style.py: photographs, a tiny VAE that they train, measures, a figure.

The models are diffusers' own classes with tiny, randomly initialised configurations. The VAE is trained as an
autoencoder first (once, kept in runs/latent_toy/), since decoding through a random one would mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from small_sr import image_pairs
from torch import Tensor, nn

from sr_perceptual_loss import CriticLoss, create_critic
from sr_perceptual_loss.lab.data.images import read_image
from sr_perceptual_loss.lab.evaluation.sr_metrics import psnr, ssim_8bit

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "latent_toy"
SCALE = 4
#: Sides of test images are cut to multiples of this, for the strides of VAE and UNet.
MULTIPLE = 8
PHOTOGRAPHS = 120


def log(text: str) -> None:
    print(text, flush=True)


def photographs(data: Path | None) -> tuple[list[Tensor], list[Tensor]]:
    """Training and held-out photographs, (3, H, W) uint8: CID22, or without ``data`` those of scikit-image."""
    if data:
        files = sorted((data / "cid22_512_train").glob("*.png"))[: PHOTOGRAPHS + 8]
        if len(files) <= PHOTOGRAPHS:
            raise SystemExit(f"--data {data}: cid22_512_train has {len(files)} photographs, expected {PHOTOGRAPHS + 8}")
        train, held_out = files[:PHOTOGRAPHS], files[PHOTOGRAPHS:]
    else:
        import skimage

        folder = Path(skimage.__file__).parent / "data"
        held_out = [folder / f"{name}.png" for name in ("astronaut", "chelsea", "coffee")]
        names = ("motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "ihc.png", "retina.jpg")
        train = [folder / name for name in names]
    log(f"photographs: {len(train)} for training from {train[0].parent}, {len(held_out)} held out")
    return tuple([(read_image(p) * 255).byte() for p in part] for part in (train, held_out))  # type: ignore[return-value]


def crops(images: list[Tensor], count: int, side: int, generator: torch.Generator) -> Tensor:
    """(count, 3, side, side) in [-1, 1]."""
    chosen = []
    for index in torch.randint(len(images), (count,), generator=generator).tolist():
        top, left = (int(torch.randint(s - side + 1, (), generator=generator)) for s in images[index].shape[1:])
        chosen.append(images[index][:, top : top + side, left : left + side])
    return torch.stack(chosen).float() / 127.5 - 1


def degrade(hr: Tensor) -> Tensor:
    """The LR image of hr, enlarged to its size again; [-1, 1]."""
    return enlarge(shrink(hr))


def shrink(hr: Tensor) -> Tensor:
    """Bicubic x1/4 with 8-bit rounding; [-1, 1]."""
    low = F.interpolate(hr, scale_factor=1 / SCALE, mode="bicubic", antialias=True).clamp(-1, 1)
    return ((low + 1) * 127.5).round() / 127.5 - 1


def enlarge(low: Tensor) -> Tensor:
    return F.interpolate(low, scale_factor=SCALE, mode="bicubic").clamp(-1, 1)


def test_images(data: Path | None, side: int) -> list[tuple[str, Tensor, Tensor]]:
    """(name, enlarged LR, HR) in [-1, 1], (1, 3, H, W): centre parts of Set5 and Set14, or held-out photographs.

    Args:
        data: folder with Set5 and Set14_x4, or None.
        side: of the centre parts, at most.
    """
    pairs = [pair for name in ("Set14_x4", "Set5") if data for pair in image_pairs(data / name)]
    images = [(name, *_centre(2 * hr - 1, 2 * low - 1, side)) for name, low, hr in pairs]
    if not images:
        for number, image in enumerate(photographs(data)[1]):
            hr = image[None, :, : image.shape[1] // MULTIPLE * MULTIPLE, : image.shape[2] // MULTIPLE * MULTIPLE]
            hr = hr.float() / 127.5 - 1
            images.append((f"photograph {number}", *_centre(hr, shrink(hr), side)))
    return images


def _centre(hr: Tensor, low: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    step = MULTIPLE // SCALE
    sides = [min(side, limit // SCALE) // step * step for side in low.shape[2:]]
    top, left = ((have - want) // 2 for have, want in zip(low.shape[2:], sides, strict=True))
    low = low[:, :, top : top + sides[0], left : left + sides[1]]
    hr = hr[:, :, top * SCALE : (top + sides[0]) * SCALE, left * SCALE : (left + sides[1]) * SCALE]
    return enlarge(low), hr


def tiny_vae() -> AutoencoderKL:
    """Half of the side, 8 channels; changed so that a minute of training is enough.

    Without its norms, which hide brightness from so few channels for long, and started near a linear map.
    """
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 24),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=1,
        mid_block_add_attention=False,
    )
    for path, module in list(vae.named_modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
            if path.endswith("conv2"):
                nn.init.zeros_(module.weight)
    return vae


def trained_vae(train: list[Tensor], steps: int = 400) -> AutoencoderKL:
    """The tiny VAE, trained for some minutes as a plain autoencoder; frozen, in eval mode."""
    torch.manual_seed(0)
    vae, file = tiny_vae(), OUT / f"vae_{steps}.safetensors"
    if file.is_file():
        state = load_file(file)
        vae.register_to_config(scaling_factor=float(state.pop("scaling_factor")))
        vae.load_state_dict(state)
        log(f"VAE: from {file}")
        return vae.eval().requires_grad_(False)
    log(f"VAE: {sum(p.numel() for p in vae.parameters()):,} weights, {steps} steps of 8 crops of 32x32")
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    started, mean = time.time(), 0.0
    for step in range(1, steps + 1):
        hr = crops(train, 8, 32, generator)
        # The mode and no KL term: a minute is too short for the latents to outgrow the noise of a variational start.
        l1 = (vae.decode(vae.encode(hr).latent_dist.mode()).sample - hr).abs().mean()
        optimizer.zero_grad()
        l1.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean += l1.item() / 50
        if step % 50 == 0:
            log(f"VAE {step}/{steps}: l1 {mean:.4f}, {time.time() - started:.0f} s")
            mean = 0.0
    with torch.no_grad():
        std = torch.cat([vae.encode(crops(train, 8, 64, generator)).latent_dist.mode() for _ in range(8)]).std()
    vae.register_to_config(scaling_factor=1 / float(std))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({**vae.state_dict(), "scaling_factor": 1 / std}, file)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    return vae.encode(images).latent_dist.mode() * vae.config.scaling_factor


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    return vae.decode(latents / vae.config.scaling_factor).sample


def digest(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names and values."""
    total = hashlib.sha256()
    for name, value in parameters:
        total.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def critic_loss(name: str, weights: str | None, loss_weight: float) -> CriticLoss:
    """The loss of the second stage, from the command line."""
    return CriticLoss(name, weights=weights or "local", loss_weight=loss_weight, crops={"small": "reflect"})


@torch.no_grad()
def measure(restore: Callable[[Tensor], Tensor], images: list[tuple[str, Tensor, Tensor]], extra: CriticLoss) -> dict:
    """Means of PSNR-Y, SSIM-Y (border 4), HaarPSI and the critic over images after rounding to 8 bits."""
    haarpsi, rows = create_critic("haarpsi"), []
    for _, low, hr in images:
        sr = (restore(low).clamp(-1, 1) * 127.5 + 127.5).round() / 255
        hr = hr * 0.5 + 0.5
        row = {"PSNR-Y": psnr(sr[0], hr[0], border=4), "SSIM-Y": ssim_8bit(sr[0], hr[0], border=4)}
        row["HaarPSI"] = float(haarpsi.score(sr, hr))
        if extra.critic.card.name != "haarpsi":
            row[extra.critic.card.name] = float(extra.scores(sr, hr))
        rows.append(row)
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def report(results: dict[str, dict[str, float]], out: Path) -> None:
    """Print a Markdown table, and write the numbers to a file."""
    names = list(next(iter(results.values())))
    log("| | " + " | ".join(names) + " |")
    log("|---|" + "---|" * len(names))
    for stage, row in results.items():
        log(f"| {stage} | " + " | ".join(f"{row[n]:.2f}" if n == "PSNR-Y" else f"{row[n]:.4f}" for n in names) + " |")
    (out / "summary.json").write_text(json.dumps(results, indent=2) + "\n")


@torch.no_grad()
def save_comparison(
    columns: dict[str, Callable[[Tensor], Tensor]], images: list[tuple[str, Tensor, Tensor]], file: Path
) -> None:
    """Rows of 96-pixel crops, enlarged 2x: the columns in the order of the dictionary, then the original."""
    rows = []
    for _, low, hr in images:
        top, left = (max(0, (side - 96) // 2) for side in hr.shape[2:])
        shown = [restore(low) for restore in columns.values()] + [hr]
        rows.append(torch.cat([image[0, :, top : top + 96, left : left + 96] for image in shown], dim=2))
    pixels = ((torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    image.resize((image.width * 3 // 2, image.height * 3 // 2), Image.Resampling.NEAREST).quantize(128).save(file)
    log(f"wrote {file}: {', '.join([*columns, 'original'])}")
