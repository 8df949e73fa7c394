"""PiSA-SR's two stages with a critic, on a CPU in minutes: pixel LoRA, then semantic LoRA with the critic.

    python examples/pisasr_style.py [--data DIR] [--critic haarpsi] [--weights FILE] [--weight 0.1]

A one-step network: x0 = z_LR - UNet(z_LR, t = 1), decoded by a frozen VAE. Stage 1 trains the LoRA adapter "pixel" with
a pixel loss. Stage 2 adds the adapter "semantic" and trains it alone, with the pixel loss and the critic (the paper
also uses LPIPS and CSD). A control repeats stage 2 without the critic. The models are tiny (see latent_toy.py): this
shows that everything works together, and nothing about PiSA-SR itself. Writes runs/pisasr_style/.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import latent_toy as toy
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from sr_perceptual_loss.integrations.diffusers import LatentLoss, decode_latents

OUT = toy.ROOT / "runs" / "pisasr_style"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "conv_in", "conv_out", "conv1", "conv2"]
BATCH, SIDE, LOG_EVERY = 4, 32, 20
TEST_SIDE = 256


def tiny_unet() -> UNet2DConditionModel:
    """A random base. Its last layer is zero, so that the residual starts at 0, as with a trained prior."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        in_channels=8,
        out_channels=8,
        block_out_channels=(24, 48),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return unet.requires_grad_(False)


def base_of(unet: UNet2DConditionModel, *adapters: str) -> str:
    """Digest of the base weights, or of the named adapters."""
    named = [(n, p) for n, p in unet.named_parameters() if ("lora_" in n) == bool(adapters)]
    return toy.digest((n, p) for n, p in named if not adapters or any(f".{a}." in n for a in adapters))


def predict(unet: UNet2DConditionModel, latents: Tensor) -> Tensor:
    """One step at t = 1, with a constant in place of the text."""
    text = torch.ones(len(latents), 4, 16)
    return latents - unet(latents, torch.ones(len(latents), dtype=torch.long), encoder_hidden_states=text).sample


def train(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    images: list[Tensor],
    adapter: str,
    steps: int,
    critic: LatentLoss | None,
    name: str,
) -> None:
    """Train one adapter; the others and the base do not change."""
    for key, parameter in unet.named_parameters():
        parameter.requires_grad_("lora_" in key and f".{adapter}." in key)
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3 if adapter == "pixel" else 1e-3)
    generator = torch.Generator().manual_seed(2 if adapter == "pixel" else 3)
    started, sums = time.time(), {}
    for step in range(steps):
        hr = toy.crops(images, BATCH, SIDE, generator)
        latents = predict(unet, toy.encode(vae, toy.degrade(hr)))
        decoded = decode_latents(vae, latents, micro_batch=BATCH)  # in [-1, 1], not clamped
        l2 = F.mse_loss(decoded, hr)
        loss, values = l2, {"l2": l2.detach()}
        if critic is not None:
            critic.step(step)
            loss = loss + critic.from_images(decoded, hr)
            values.update({f"critic_{k}": v for k, v in critic.terms.items() if k != "scored_share"})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums = {k: sums.get(k, 0.0) + float(v) / LOG_EVERY for k, v in values.items()}
        if (step + 1) % LOG_EVERY == 0:
            shown = "  ".join(f"{k} {v:.4f}" for k, v in sums.items())
            toy.log(f"{name} {step + 1}/{steps}: {shown}  ({time.time() - started:.0f} s)")
            sums = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with cid22_512_train, Set5 and Set14_x4")
    parser.add_argument("--critic", default="haarpsi")
    parser.add_argument("--weights", help="file of the critic; not needed for haarpsi")
    parser.add_argument("--weight", type=float, default=0.1)
    parser.add_argument("--steps", type=int, nargs=2, default=(120, 80), metavar=("PIXEL", "SEMANTIC"))
    given = parser.parse_args()
    out = OUT / given.critic
    out.mkdir(parents=True, exist_ok=True)
    images, _ = toy.photographs(given.data)
    vae = toy.trained_vae(images)
    loss = toy.critic_loss(given.critic, given.weights, given.weight)
    critic = LatentLoss(loss, vae)
    tests = toy.test_images(given.data, TEST_SIDE)

    unet = tiny_unet()
    unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=TARGETS), adapter_name="pixel")
    vae_before, base_before = toy.digest(vae.named_parameters()), base_of(unet)
    train(unet, vae, images, "pixel", given.steps[0], None, "pixel stage")
    pixel_before = base_of(unet, "pixel")
    first = copy.deepcopy(unet)

    unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=TARGETS), adapter_name="semantic")
    unet.set_adapters(["pixel", "semantic"])
    control = copy.deepcopy(unet)
    train(unet, vae, images, "semantic", given.steps[1], critic, "semantic stage")
    train(control, vae, images, "semantic", given.steps[1], None, "control")

    for what, before, after in (
        ("VAE", vae_before, toy.digest(vae.named_parameters())),
        ("UNet base", base_before, base_of(unet)),
        ("pixel LoRA (stage 2)", pixel_before, base_of(unet, "pixel")),
    ):
        toy.log(f"{what}: {before} before, {after} after: {'untouched' if before == after else 'CHANGED'}")
    columns = {
        "bicubic": lambda low: low,
        "pixel stage": lambda low: toy.decode(vae, predict(first, toy.encode(vae, low))),
        "control": lambda low: toy.decode(vae, predict(control, toy.encode(vae, low))),
        "semantic stage": lambda low: toy.decode(vae, predict(unet, toy.encode(vae, low))),
    }
    results = {name: toy.measure(restore, tests, loss) for name, restore in columns.items()}
    ceiling = {id(low): hr for _, low, hr in tests}
    results["VAE of the original"] = toy.measure(
        lambda low: toy.decode(vae, toy.encode(vae, ceiling[id(low)])), tests, loss
    )
    toy.log(f"{len(tests)} test images, centre parts of at most {TEST_SIDE}x{TEST_SIDE}, x{toy.SCALE}")
    toy.report(results, out)
    toy.save_comparison(columns, tests[:3], out / "comparison.png")


if __name__ == "__main__":
    main()
