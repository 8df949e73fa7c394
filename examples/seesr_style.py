"""SeeSR's training step with a critic, on a CPU in minutes: ControlNet over a frozen UNet, noise loss, Accelerate.

    python examples/seesr_style.py [--data DIR] [--critic haarpsi] [--weights FILE] [--weight 0.5]

First a tiny UNet is trained as a denoiser of latents (in place of Stable Diffusion) and frozen. Then a ControlNet that
is conditioned on the LR image is trained to predict the noise, and continues with noise loss and critic: x0 from the
prediction where t <= 250, decoded by the frozen VAE. A control continues without the critic. The models are tiny (see
latent_toy.py): this shows that everything works together, and nothing about SeeSR itself. Writes runs/seesr_style/.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import latent_toy as toy
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from sr_perceptual_loss.integrations.diffusers import LatentLoss, predict_x0

OUT = toy.ROOT / "runs" / "seesr_style"
BATCH, SIDE, ACCUMULATE, LOG_EVERY = 4, 32, 2, 10
MAX_TIMESTEP = 250
TEST_SIDE = 128
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_unet() -> UNet2DConditionModel:
    torch.manual_seed(1)
    return UNet2DConditionModel(
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


def text_for(latents: Tensor) -> Tensor:
    """A constant in place of the text and the tags of SeeSR."""
    return torch.ones(len(latents), 4, 16)


def predict(unet: nn.Module, control: nn.Module | None, noisy: Tensor, timesteps: Tensor, low: Tensor) -> Tensor:
    """The noise; the ControlNet gets the enlarged LR image in [0, 1], as SeeSR's does."""
    text, extra = text_for(noisy), {}
    if control is not None:
        down, mid = control(noisy, timesteps, text, controlnet_cond=low * 0.5 + 0.5, return_dict=False)
        extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    return unet(noisy, timesteps, encoder_hidden_states=text, **extra).sample


def train(
    unet: UNet2DConditionModel,
    control: ControlNetModel | None,
    vae: AutoencoderKL,
    images: list[Tensor],
    steps: int,
    critic: LatentLoss | None,
    name: str,
) -> None:
    """Train the ControlNet, or the UNet where there is none, with the noise loss and the critic."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE)
    scheduler = DDPMScheduler(**SCHEDULE)
    trained = unet if control is None else control
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
    model, optimizer = accelerator.prepare(trained, optimizer)  # neither the VAE nor the critic
    # The stage with the critic and its control draw the same.
    generator = torch.Generator().manual_seed(steps)
    global_step, started, sums, scored = 0, time.time(), {}, 0.0
    while global_step < steps:
        with accelerator.accumulate(model):
            hr = toy.crops(images, BATCH, SIDE, generator)
            low, latents = toy.degrade(hr), toy.encode(vae, hr)
            noise = torch.randn(latents.shape, generator=generator)
            timesteps = torch.randint(1000, (BATCH,), generator=generator)
            noisy = scheduler.add_noise(latents, noise, timesteps)
            prediction = predict(unet, control, noisy, timesteps, low)
            mse = F.mse_loss(prediction.float(), noise)
            loss, values = mse, {"mse": mse.detach()}
            if critic is not None:
                critic.step(global_step)  # counts optimizer steps: equal in both micro-steps
                loss = loss + critic(prediction, noisy, timesteps, hr)
                share = float(critic.terms["scored_share"])
                scored += share
                values.update(critic_loss=critic.terms["loss"], critic_score=critic.terms["score"] * share)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        sums = {k: sums.get(k, 0.0) + float(v) for k, v in values.items()}
        if not accelerator.sync_gradients:
            continue
        global_step += 1
        if global_step % LOG_EVERY == 0:
            # A score is a mean over the images that were scored, so it is weighted by their share.
            per = {k: max(scored, 1e-9) if k == "critic_score" else LOG_EVERY * ACCUMULATE for k in sums}
            shown = "  ".join(f"{k} {v / per[k]:.4f}" for k, v in sums.items())
            shown += f"  share scored {scored / LOG_EVERY / ACCUMULATE:.2f}" if critic is not None else ""
            toy.log(f"{name} {global_step}/{steps}: {shown}  ({time.time() - started:.0f} s)")
            sums, scored = {}, 0.0


def restorer(unet: nn.Module, control: nn.Module, vae: AutoencoderKL) -> Callable[[Tensor], Tensor]:
    """Five DDIM steps from the latents of the enlarged LR image, noised to t = 250 (SeeSR also starts from the LR)."""

    @torch.no_grad()
    def restore(low: Tensor) -> Tensor:
        scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False)
        scheduler.set_timesteps(20)
        latents = toy.encode(vae, low)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        steps = [t for t in scheduler.timesteps if t <= MAX_TIMESTEP]
        latents = scheduler.add_noise(latents, noise, steps[0].view(1))
        for t in steps:
            latents = scheduler.step(predict(unet, control, latents, t.view(1), low), t, latents).prev_sample
        return toy.decode(vae, latents)

    return restore


@torch.no_grad()
def score_of_x0(
    unet: nn.Module, control: nn.Module, vae: AutoencoderKL, critic: LatentLoss, images: list[Tensor]
) -> float:
    """The critic's score of one-step x0 at t = 50, 150, 250 on held-out crops, with the same noise every time."""
    scheduler, generator, scores = DDPMScheduler(**SCHEDULE), torch.Generator().manual_seed(9), []
    for t in (50, 150, 250):
        hr = toy.crops(images, 16, 2 * SIDE, generator)
        latents, timesteps = toy.encode(vae, hr), torch.full((16,), t)
        noisy = scheduler.add_noise(latents, torch.randn(latents.shape, generator=generator), timesteps)
        prediction = predict(unet, control, noisy, timesteps, toy.degrade(hr))
        x0 = predict_x0(prediction, noisy, timesteps, scheduler.alphas_cumprod)
        critic.from_latents(x0, hr)
        scores.append(float(critic.terms["score"]))
    return sum(scores) / len(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with cid22_512_train, Set5 and Set14_x4")
    parser.add_argument("--critic", default="haarpsi")
    parser.add_argument("--weights", help="file of the critic; not needed for haarpsi")
    parser.add_argument("--weight", type=float, default=0.5)
    parser.add_argument("--steps", type=int, nargs=3, default=(100, 50, 40), metavar=("UNET", "CONTROLNET", "CRITIC"))
    given = parser.parse_args()
    out = OUT / given.critic
    out.mkdir(parents=True, exist_ok=True)
    images, held_out = toy.photographs(given.data)
    vae = toy.trained_vae(images)
    loss = toy.critic_loss(given.critic, given.weights, given.weight)
    critic = LatentLoss(loss, vae, scheduler=DDPMScheduler(**SCHEDULE), max_timestep=MAX_TIMESTEP)

    unet = tiny_unet()
    train(unet, None, vae, images, given.steps[0], None, "UNet")
    unet.requires_grad_(False).eval()
    before = toy.digest(vae.named_parameters()), toy.digest(unet.named_parameters())
    # One stride of 2: from the side of the image to that of the latents.
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    control.requires_grad_(True)
    train(unet, control, vae, images, given.steps[1], None, "ControlNet")
    stages = {"before": control, "after": copy.deepcopy(control), "control": copy.deepcopy(control)}
    train(unet, stages["after"], vae, images, given.steps[2], critic, "with critic")
    train(unet, stages["control"], vae, images, given.steps[2], None, "control")

    after = toy.digest(vae.named_parameters()), toy.digest(unet.named_parameters())
    for what, a, b in zip(("VAE", "UNet"), before, after, strict=True):
        toy.log(f"{what}: {a} before, {b} after: {'untouched' if a == b else 'CHANGED'}")
    for stage, network in stages.items():
        score = score_of_x0(unet, network, vae, critic, held_out)
        toy.log(f"{given.critic} of x0 on held-out crops, {stage}: {score:.4f}")
    tests = toy.test_images(given.data, TEST_SIDE)
    columns = {"bicubic": lambda low: low} | {s: restorer(unet, n, vae) for s, n in stages.items()}
    toy.log(f"{len(tests)} test images, centre parts of at most {TEST_SIDE}x{TEST_SIDE}, x{toy.SCALE}")
    toy.report({name: toy.measure(restore, tests, loss) for name, restore in columns.items()}, out)
    toy.save_comparison(columns, tests[:3], out / "comparison.png")


if __name__ == "__main__":
    main()
