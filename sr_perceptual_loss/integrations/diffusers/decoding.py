"""Through a frozen VAE decoder with gradient, in little memory, and from its range to that of the critics."""

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

__all__ = ["CHECKPOINTS", "OVERSHOOTS", "check_decoder", "decode_latents", "to_unit_range"]

CHECKPOINTS = ("none", "blocks", "decoder", "both")
OVERSHOOTS = ("keep", "inward")

# Only this form may be asked for gradients with autograd.grad, as balanced losses do.
_checkpoint = partial(torch_checkpoint, use_reentrant=False)


def decode_latents(vae: nn.Module, latents: Tensor, *, micro_batch: int = 1, checkpoint: str = "blocks") -> Tensor:
    """Images of latents in the network's scale; gradients reach the latents, and no weight of the decoder.

    The decoder runs in its own precision (and under autocast in that), the scaling before it in float32.

    Args:
        vae: an ``AutoencoderKL``, or what has ``decode(z).sample`` and ``config.scaling_factor``; decoder frozen.
        latents: (N, C, h, w), scaled as the diffusion network sees them.
        micro_batch: images decoded at once. Bounds what the convolutions need on the way; what is saved for the
            backward pass is bounded by it only with ``decoder`` or ``both``.
        checkpoint: what is computed again in the backward pass instead of being kept: ``none``; ``blocks``: each
            block of the decoder by itself; ``decoder``: all of it, one micro-batch at a time; ``both``: nothing is
            kept but the latents, and one block at a time recomputed (twice).

    Returns:
        (N, 3, H, W) float32, about [-1, 1], not clamped.

    Raises:
        InputError: no VAE, or a decoder that would be trained.
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

    A clamp has no gradient where it acts: whatever the VAE overshoots could never come back. The critics accept
    overshoot, so nothing is clamped by default.

    Args:
        images: (N, 3, H, W), about [-1, 1].
        overshoot: ``keep``, or ``inward``: values are clamped to [0, 1] for the critic, and of the gradient only what
            leads back inside passes at clamped pixels.

    Returns:
        (N, 3, H, W), about [0, 1]; exactly within for ``inward``.
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
    """Raise unless this is a VAE whose decoder is frozen; the encoder may be trained (OSEDiff does).

    Args:
        vae: the VAE.

    Raises:
        InputError: no ``decode`` or ``config``, or a trainable weight in the decoder.
    """
    if not hasattr(vae, "decode") or not hasattr(vae, "config"):
        raise InputError(
            f"vae: got {type(vae).__name__} without `decode` and `config`, expected diffusers' AutoencoderKL. If it "
            "went through accelerator.prepare, do not prepare a frozen VAE, or hand in accelerator.unwrap_model(vae)."
        )
    parts = [
        part for part in (getattr(vae, "decoder", None), getattr(vae, "post_quant_conv", None)) if part is not None
    ]
    for part in parts or [vae]:
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
    # Of the decoder, not vae.dtype: an encoder under LoRA may be kept in another precision.
    first = next((p for p in getattr(vae, "decoder", vae).parameters() if p.is_floating_point()), None)
    return z if first is None else z.to(first.dtype)


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
    # A forward that somebody put on the instance (offloading hooks do) is put back.
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = partial(_checkpoint, block.forward)
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del block.forward
            if own is not None:
                block.forward = own
