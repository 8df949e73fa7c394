"""From what a diffusion network predicts to the clean latents, and how much an error grows on the way."""

from __future__ import annotations

import torch
from torch import Tensor

from sr_perceptual_loss.checks import check_choice
from sr_perceptual_loss.errors import InputError

__all__ = ["PREDICTION_TYPES", "error_gain", "predict_x0", "whole_timesteps"]

#: As diffusers names them in ``scheduler.config.prediction_type``.
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def predict_x0(
    prediction: Tensor,
    noisy: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    prediction_type: str = "epsilon",
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
        InputError: shapes differ, a timestep is not in the schedule, or ``epsilon`` where a = 0 (the picture is not in
            x_t any more).

    Source: Ho et al., "Denoising diffusion probabilistic models", arXiv 2006.11239, equation (4) solved for x_0;
        Salimans and Ho, "Progressive distillation", arXiv 2202.00512, for v.
    """
    kind = check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
    if prediction.shape != noisy.shape:
        raise InputError(
            f"prediction {tuple(prediction.shape)} and noisy latents {tuple(noisy.shape)} differ in shape; of a "
            "network that also predicts a variance, hand in prediction.chunk(2, dim=1)[0]."
        )
    wide = torch.promote_types(prediction.dtype, torch.float32)
    prediction = prediction.to(wide)
    if kind == "sample":
        return prediction
    kept = _kept(alphas_cumprod, whole_timesteps(timesteps, len(noisy)))
    if kind == "epsilon" and bool((kept <= 0).any()):
        raise InputError(
            "predict_x0: alphas_cumprod is 0 at one of the timesteps (a schedule rescaled to zero terminal SNR); x0 "
            "does not follow from the noise there. Limit the timesteps (max_timestep), or train with v_prediction."
        )
    signal, noise = (part.sqrt().to(noisy.device, wide).view(-1, 1, 1, 1) for part in (kept, 1 - kept))
    noisy = noisy.to(wide)
    if kind == "epsilon":
        return (noisy - noise * prediction) / signal
    return signal * noisy - noise * prediction


def error_gain(alphas_cumprod: Tensor, timesteps: Tensor, prediction_type: str = "epsilon") -> Tensor:
    """What an error of the prediction is multiplied by in x0: sqrt((1-a)/a) for noise, sqrt(1-a) for velocity, else 1.

    Args:
        alphas_cumprod: the scheduler's, (T,).
        timesteps: (N,), whole numbers.
        prediction_type: ``epsilon``, ``v_prediction`` or ``sample``.

    Returns:
        (N,) float64 on the CPU; infinite for noise at a = 0.

    Raises:
        InputError: a timestep is not in the schedule.
    """
    kind = check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
    kept = _kept(alphas_cumprod, whole_timesteps(timesteps, None))
    if kind == "sample":
        return torch.ones_like(kept)
    return (1 - kept).sqrt() if kind == "v_prediction" else ((1 - kept) / kept).sqrt()


def whole_timesteps(timesteps: Tensor, count: int | None) -> Tensor:
    """Timesteps as (N,) int64 on the CPU: a device sync, since what is decoded depends on the values.

    Args:
        timesteps: (N,), or one number for all.
        count: N, or None for what came.

    Raises:
        InputError: fractions, or another number of them.
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


def _kept(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """alphas_cumprod[t] in float64: 1 - a loses half its digits near t = 0 otherwise."""
    last = len(alphas_cumprod) - 1
    if len(timesteps) and not (int(timesteps.min()) >= 0 and int(timesteps.max()) <= last):
        raise InputError(
            f"timesteps: got {int(timesteps.min())} to {int(timesteps.max())}, expected 0 to {last}, the indices of "
            "alphas_cumprod."
        )
    return alphas_cumprod.detach().to("cpu", torch.float64)[timesteps]
