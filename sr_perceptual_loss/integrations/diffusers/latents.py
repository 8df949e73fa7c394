"""Clean latents from the prediction of a diffusion network, and their images through a frozen VAE decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from sr_perceptual_loss.checks import as_int, check_choice
from sr_perceptual_loss.errors import InputError

__all__ = ["check_decoder", "decode_latents", "error_gain", "predict_x0", "to_unit_range", "whole_timesteps"]

#: As diffusers names them in ``scheduler.config.prediction_type``.
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
CHECKPOINTS = ("none", "blocks", "decoder", "both")
OVERSHOOTS = ("keep", "inward")

# Only this form may be asked for gradients with autograd.grad, as balanced losses do.
_checkpoint = partial(torch_checkpoint, use_reentrant=False)


def predict_x0(
    prediction: Tensor, noisy: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, prediction_type: str = "epsilon"
) -> Tensor:
    """Clean latents, with a = alphas_cumprod[t], in float32 or wider whatever precision the network runs in.

    ``epsilon``: (x_t - sqrt(1 - a) * eps) / sqrt(a); ``v_prediction``: sqrt(a) * x_t - sqrt(1 - a) * v; ``sample``: the
    prediction itself.

    Args:
        prediction: output of the network, (N, C, h, w).
        noisy: x_t that the network saw, same shape.
        timesteps: (N,), or one number for all; whole numbers.
        alphas_cumprod: the scheduler's, (T,), in [0, 1].
        prediction_type: ``epsilon``, ``v_prediction`` or ``sample``.

    Returns:
        (N, C, h, w); the gradient flows to the prediction.

    Raises:
        InputError: shapes differ, a timestep is not in the schedule, or ``epsilon`` where a = 0 (x_t is pure noise).

    Source: Ho et al., "Denoising diffusion probabilistic models", arXiv 2006.11239, equation (4) solved for x_0;
        Salimans and Ho, "Progressive distillation", arXiv 2202.00512, for v.
    """
    kind = check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
    if prediction.shape != noisy.shape:
        raise InputError(
            f"prediction {tuple(prediction.shape)} and noisy latents {tuple(noisy.shape)} differ in shape; of a "
            "network that also predicts a variance, hand in prediction.chunk(2, dim=1)[0]."
        )
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    prediction = prediction.to(dtype)
    if kind == "sample":
        return prediction
    alphas = _alphas_at(alphas_cumprod, whole_timesteps(timesteps, len(noisy)))
    if kind == "epsilon" and bool((alphas <= 0).any()):
        raise InputError(
            "predict_x0: alphas_cumprod is 0 at one of the timesteps (a schedule rescaled to zero terminal SNR); x0 "
            "does not follow from the noise there. Limit the timesteps (max_timestep), or train with v_prediction."
        )
    signal, noise = (part.sqrt().to(noisy.device, dtype).view(-1, 1, 1, 1) for part in (alphas, 1 - alphas))
    noisy = noisy.to(dtype)
    if kind == "epsilon":
        return (noisy - noise * prediction) / signal
    return signal * noisy - noise * prediction


def error_gain(alphas_cumprod: Tensor, timesteps: Tensor, prediction_type: str = "epsilon") -> Tensor:
    """Factor from an error of the prediction to an error of x0: sqrt((1-a)/a) for noise, sqrt(1-a) for v, else 1.

    The arguments are those of :func:`predict_x0`. The result is (N,), float64 on the CPU; infinite for noise at a = 0.
    """
    kind = check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
    alphas = _alphas_at(alphas_cumprod, whole_timesteps(timesteps, None))
    if kind == "sample":
        return torch.ones_like(alphas)
    return (1 - alphas).sqrt() if kind == "v_prediction" else ((1 - alphas) / alphas).sqrt()


def whole_timesteps(timesteps: Tensor, count: int | None) -> Tensor:
    """Timesteps, (N,) or one number for ``count`` = N, as (N,) int64 on the CPU.

    A device sync: the values decide what is decoded. Raises InputError for fractions, or another number of them.
    """
    if timesteps.is_floating_point() and bool((timesteps != timesteps.round()).any()):
        raise InputError(
            "timesteps: got fractions, expected whole numbers that index alphas_cumprod. For flow matching compute "
            "x0 = x_t - sigma * velocity yourself and call LatentLoss.from_latents."
        )
    whole = timesteps.detach().reshape(-1).to("cpu", torch.int64)
    if count is not None and len(whole) != count:
        if len(whole) != 1:
            raise InputError(f"timesteps: got {len(whole)} for {count} samples, expected one each, or one for all.")
        whole = whole.expand(count)
    return whole


def _alphas_at(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """alphas_cumprod[t] in float64: 1 - a loses half its digits near t = 0 otherwise."""
    last = len(alphas_cumprod) - 1
    if len(timesteps) and not (int(timesteps.min()) >= 0 and int(timesteps.max()) <= last):
        raise InputError(
            f"timesteps: got {int(timesteps.min())} to {int(timesteps.max())}, expected 0 to {last}, the indices of "
            "alphas_cumprod."
        )
    return alphas_cumprod.detach().to("cpu", torch.float64)[timesteps]


def decode_latents(vae: nn.Module, latents: Tensor, *, micro_batch: int = 1, checkpoint: str = "blocks") -> Tensor:
    """Images of latents in the network's scale; gradients reach the latents, and no weight of the decoder.

    The decoder runs in its own precision (and under autocast in that), the scaling before it in float32.

    Args:
        vae: an ``AutoencoderKL``, or what has ``decode(z).sample`` and ``config.scaling_factor``; decoder frozen.
        latents: (N, C, h, w), scaled as the diffusion network sees them.
        micro_batch: images decoded at once. It limits the working memory; it limits what is saved for the backward pass
            only with ``decoder`` or ``both``.
        checkpoint: what is recomputed in the backward pass instead of being kept: ``none``; ``blocks``: each block of
            the decoder itself; ``decoder``: all of it, one micro-batch at a time; ``both``: only the latents are
            kept, and one block at a time is recomputed (twice).

    Returns:
        (N, 3, H, W) float32, about [-1, 1], not clamped.
    """
    chosen = check_choice("checkpoint", checkpoint, CHECKPOINTS)
    size = as_int("micro_batch", micro_batch, minimum=1)
    check_decoder(vae)
    decode: Callable[[Tensor], Tensor] = partial(_decode, vae, chosen in ("blocks", "both"))
    if chosen in ("decoder", "both") and latents.requires_grad and torch.is_grad_enabled():
        decode = partial(_checkpoint, decode)
    return torch.cat([decode(part) for part in _unscaled(vae, latents).split(size)])


def to_unit_range(images: Tensor, overshoot: str = "keep") -> Tensor:
    """Map [-1, 1] to [0, 1]: x * 0.5 + 0.5, in float32 or wider.

    A clamp has no gradient where it acts, so overshoot of the VAE could never come back. The critics accept overshoot,
    so nothing is clamped by default.

    ``overshoot`` is ``keep``, or ``inward``: values are clamped to [0, 1] for the critic, and at clamped pixels only
    gradients that lead back inside pass.
    """
    unit = images.to(torch.promote_types(images.dtype, torch.float32)) * 0.5 + 0.5
    if check_choice("overshoot", overshoot, OVERSHOOTS) == "keep":
        return unit
    clamped: Tensor = _InwardClamp.apply(unit)
    return clamped


class _InwardClamp(torch.autograd.Function):
    """clamp(x, 0, 1) whose gradient is kept where a descent step would bring x back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x < 0, x > 1)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        below, above = ctx.saved_tensors
        # Descent adds -gradient: below 0 only a negative gradient leads inside, above 1 only a positive one.
        return gradient.masked_fill((below & (gradient > 0)) | (above & (gradient < 0)), 0.0)


def check_decoder(vae: nn.Module) -> None:
    """Raise InputError unless this is a VAE whose decoder is frozen; the encoder may be trained (OSEDiff does)."""
    if not hasattr(vae, "decode") or not hasattr(vae, "config"):
        raise InputError(
            f"vae: got {type(vae).__name__} without `decode` and `config`, expected diffusers' AutoencoderKL. If it "
            "went through accelerator.prepare, do not prepare a frozen VAE, or hand in accelerator.unwrap_model(vae)."
        )
    parts = [getattr(vae, "decoder", None), getattr(vae, "post_quant_conv", None)]
    for part in [part for part in parts if part is not None] or [vae]:
        for name, parameter in part.named_parameters():
            if parameter.requires_grad:
                raise InputError(
                    f"vae: '{name}' of the decoder requires a gradient, so the critic would train the VAE; call "
                    "vae.requires_grad_(False) (gradients still flow through it), or vae.decoder.requires_grad_(False) "
                    "and vae.post_quant_conv.requires_grad_(False) where the encoder is trained."
                )


def _unscaled(vae: nn.Module, latents: Tensor) -> Tensor:
    """From the scale of the diffusion network to that of the decoder, and into the decoder's precision."""
    config: Any = vae.config
    z = latents.to(torch.promote_types(latents.dtype, torch.float32))
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    z = z / config.scaling_factor
    if mean is not None and std is not None:
        z = z * z.new_tensor(std).view(1, -1, 1, 1) + z.new_tensor(mean).view(1, -1, 1, 1)
    elif getattr(config, "shift_factor", None) is not None:
        z = z + config.shift_factor
    return z.to(decoder_dtype(vae))


def decoder_dtype(vae: nn.Module) -> torch.dtype:
    """Precision of the decoder, which may not be ``vae.dtype``: an encoder under LoRA may have another one."""
    parameters = getattr(vae, "decoder", vae).parameters()
    return next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)


def _decode(vae: Any, by_block: bool, z: Tensor) -> Tensor:
    if not (by_block and z.requires_grad and torch.is_grad_enabled()):
        image: Tensor = vae.decode(z).sample
    else:
        with _checkpointed_blocks(vae):
            image = vae.decode(z).sample
    return image.to(torch.promote_types(image.dtype, torch.float32))


@contextmanager
def _checkpointed_blocks(vae: Any) -> Iterator[None]:
    """Checkpoint the decoder's blocks inside this context, from outside.

    The VAE's own ``enable_gradient_checkpointing`` would also change the encoder and the host's later calls, and up to
    diffusers 0.25 it acts in train mode only.
    """
    decoder = getattr(vae, "decoder", None)
    blocks = [getattr(decoder, "mid_block", None), *(getattr(decoder, "up_blocks", None) or [])]
    blocks = [block for block in blocks if block is not None]
    if not blocks:
        raise InputError(
            f"checkpoint: the decoder of {type(vae).__name__} has no mid_block and up_blocks; use checkpoint='decoder' "
            "or 'none'."
        )
    # A forward that was set on the instance (offloading hooks do that) is restored.
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = partial(_checkpoint, block.forward)
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward
