"""LatentLoss: an image loss for a network that predicts latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import as_int, check_choice
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.integrations.diffusers.latents import (
    CHECKPOINTS,
    OVERSHOOTS,
    PREDICTION_TYPES,
    check_decoder,
    decode_latents,
    decoder_dtype,
    error_gain,
    predict_x0,
    to_unit_range,
    whole_timesteps,
)
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.distributed import world_size
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss

__all__ = ["LatentLoss"]

WEIGHTINGS = ("uniform", "alpha", "inverse_gain")
TARGET_RANGES = ("signed", "unit")
#: Batches in a row without a negative value before a target that should be in [-1, 1] is an error.
BRIGHT_BATCHES = 3


class LatentLoss:
    """1/N * sum over samples of w(t_i) * loss(decode(x0_i), target_i), decoding only where w(t_i) > 0.

    N counts the whole batch, also the samples left out: the weight of a sample does not depend on the rest of the
    batch, as for the denoising loss beside it. The object is no module: it has nothing to train, to save or to
    ``prepare``, and refers to the VAE without becoming its parent.

    Args:
        loss: a loss of this package, with ``reduction`` ``mean`` or ``none``; move it to the device yourself.
        vae: frozen; see :func:`decode_latents`.
        scheduler: diffusers' noise scheduler of the training, for ``__call__``; None for one-step networks, which use
            ``from_latents`` or ``from_images``.
        prediction_type: ``epsilon``, ``v_prediction`` or ``sample``; None takes it from the scheduler.
        max_timestep: last timestep that is used; None is all. Above a few hundred x0 is a blur of errors (see
            :func:`error_gain`), and its image says little about the network.
        weighting: ``uniform``; ``alpha``: alphas_cumprod[t]; ``inverse_gain``: min(1, 1 / error_gain). Other than
            ``uniform`` needs a loss with ``reduction="none"``.
        target_range: of the target images: ``signed`` for [-1, 1], ``unit`` for [0, 1].
        overshoot: ``keep`` or ``inward``; see :func:`to_unit_range`.
        micro_batch: images decoded at once.
        checkpoint: ``none``, ``blocks``, ``decoder`` or ``both``; see :func:`decode_latents`.

    Attributes:
        loss: the loss.
        terms: detached 0-d tensors of the last call, for logs; the same keys in every call: ``loss`` as returned, the
            loss's own terms (means over the samples used, 0 if none) and ``scored_share``, their share of the batch.

    Raises:
        InputError: at construction, for every wrong argument.

    Source: decoding through the frozen VAE: "Bridging the Perception Gap in Image Super-Resolution Evaluation", arXiv
        2503.13074, supplementary. The weightings and the limit are ours.
    """

    def __init__(
        self,
        loss: PairLoss,
        vae: nn.Module,
        *,
        scheduler: object | None = None,
        prediction_type: str | None = None,
        max_timestep: int | None = 250,
        weighting: str = "uniform",
        target_range: str = "signed",
        overshoot: str = "keep",
        micro_batch: int = 1,
        checkpoint: str = "blocks",
    ) -> None:
        if not isinstance(loss, PairLoss):
            raise InputError(f"loss: got {type(loss).__name__}, expected a loss of this package such as CriticLoss.")
        if loss.reduction == "sum":
            raise InputError("loss: reduction 'sum' has no meaning over a part of a batch; use 'mean' or 'none'.")
        self.loss = loss
        check_decoder(vae)
        self.vae = vae
        self.weighting = check_choice("weighting", weighting, WEIGHTINGS)
        self.target_range = check_choice("target_range", target_range, TARGET_RANGES)
        self.overshoot = check_choice("overshoot", overshoot, OVERSHOOTS)
        self.micro_batch = as_int("micro_batch", micro_batch, minimum=1)
        self.checkpoint = check_choice("checkpoint", checkpoint, CHECKPOINTS)
        self.max_timestep = None if max_timestep is None else as_int("max_timestep", max_timestep)
        self.terms: dict[str, Tensor] = {}
        self._range_checks_left = BRIGHT_BATCHES
        self._alphas = None if scheduler is None else _alphas_of(scheduler)
        if prediction_type is None:
            prediction_type = getattr(getattr(scheduler, "config", None), "prediction_type", "epsilon")
        self.prediction_type = check_choice("prediction_type", prediction_type, PREDICTION_TYPES)
        if self.weighting != "uniform" and loss.reduction != "none":
            raise InputError(
                f"weighting: '{weighting}' needs a value per image, but {loss.label} gives one per batch; build it "
                "with reduction='none', or use weighting='uniform' (a ratio loss has one value per batch only)."
            )

    def __call__(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor, target: Tensor) -> Tensor:
        """The loss of a network's prediction at given timesteps.

        Args:
            prediction: output of the network, (N, C, h, w).
            noisy: x_t that the network saw, same shape.
            timesteps: (N,), whole numbers.
            target: reference images, (N, 3, H, W) in ``target_range``.

        Returns:
            0-d tensor, on the graph of ``prediction`` also where no sample was used.

        Raises:
            InputError: no scheduler was given, or the tensors do not fit.
            NonFiniteError: from the loss.
        """
        if self._alphas is None:
            raise InputError(
                "LatentLoss: x0 needs the noise schedule; build it with scheduler=noise_scheduler, or hand in x0 with "
                "from_latents."
            )
        steps = whole_timesteps(timesteps, len(prediction))
        weights = self.weights(steps)
        used = weights.nonzero()[:, 0]
        if len(used) == 0 or self.loss.factor == 0:
            return self._nothing(prediction, used)
        index = used.to(prediction.device)
        # Selected before the division by sqrt(a): x0 of an unused sample may be huge, and 0 * huge is not always 0.
        latents = predict_x0(prediction[index], noisy[index], steps[used], self._alphas, self.prediction_type)
        return self._decoded(latents, target[index.to(target.device)], weights[used], len(prediction))

    def from_latents(self, latents: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of clean latents: one-step networks, or x0 that was computed elsewhere (flow matching).

        Args:
            latents: (N, C, h, w), in the scale of the diffusion network.
            target: reference images, (N, 3, H, W) in ``target_range``.
            weights: (N,), >= 0, instead of w(t); where 0 nothing is decoded. None is 1 for all.

        Returns:
            0-d tensor.

        Raises:
            InputError: negative weights, or weights that differ and a loss that gives one value per batch.
        """
        count = len(latents)
        weights = torch.ones(count) if weights is None else weights
        weights = weights.detach().to("cpu", torch.float64).reshape(-1)
        if len(weights) != count or bool((weights < 0).any()):
            raise InputError(f"weights: expected {count} numbers >= 0, one per sample; got {weights.tolist()}.")
        used = weights.nonzero()[:, 0]
        if len(used) == 0 or self.loss.factor == 0:
            return self._nothing(latents, used)
        index = used.to(latents.device)
        return self._decoded(latents[index], target[index.to(target.device)], weights[used], count)

    def from_images(self, images: Tensor, target: Tensor) -> Tensor:
        """The loss of images that the host has decoded, (N, 3, H, W) about [-1, 1]; see ``from_latents``.

        Clamped values have no gradient; hand in the images from before the host's clamp.
        """
        return self._finish(to_unit_range(images, self.overshoot), target, torch.ones(len(images)), len(images))

    def weights(self, timesteps: Tensor) -> Tensor:
        """w(t), (N,) float64 on the CPU: 0 above ``max_timestep``, else as ``weighting`` defines it."""
        steps = whole_timesteps(timesteps, None)
        weights = torch.ones(len(steps), dtype=torch.float64)
        if self.max_timestep is not None:
            weights = (steps <= self.max_timestep).double()
        if self.weighting == "uniform" or self._alphas is None:
            return weights
        if self.weighting == "alpha":
            return weights * self._alphas[steps]
        return weights * (1 / error_gain(self._alphas, steps, self.prediction_type)).clamp(max=1.0)

    def step(self, iteration: int) -> None:
        """Set the number of the coming *optimizer* step: the same one for all micro-steps that are accumulated.

        With Accelerate this is the ``global_step`` that grows where ``accelerator.sync_gradients`` is true. Schedules,
        crop boxes and a ratio loss's averages follow it.
        """
        self.loss.step(iteration)

    def _nothing(self, latents: Tensor, used: Tensor) -> Tensor:
        """The loss where it is off, or where no sample has a weight: a zero on the graph, whatever the latents hold."""
        balanced = isinstance(self.loss, SSIMPerceptualRatioLoss) and self.loss.loss_balance == "grad_norm"
        if len(used) == 0 and self.loss.factor and balanced and world_size() > 1:
            raise InputError(
                f"{self.loss.label}: its balance averages over all ranks, and this rank has no sample at or below "
                f"max_timestep={self.max_timestep}: the others would wait for ever. Draw the timesteps below the "
                "limit, or use loss_balance='none'."
            )
        zero = latents[:0].sum().to(torch.promote_types(latents.dtype, torch.float32))
        self.terms = {name: zero.detach() for name in ("loss", *self.loss.term_names, "scored_share")}
        return zero

    def _decoded(self, latents: Tensor, target: Tensor, weights: Tensor, count: int) -> Tensor:
        images = decode_latents(self.vae, latents, micro_batch=self.micro_batch, checkpoint=self.checkpoint)
        if decoder_dtype(self.vae) == torch.float16 and not bool(torch.isfinite(images).all()):
            raise NonFiniteError(
                "the decoded images hold NaN or infinity. The VAE is in torch.float16, in which many overflow; keep it "
                "in float32 or bfloat16. Stopped before the optimizer step."
            )
        return self._finish(to_unit_range(images, self.overshoot), target, weights, count)

    def _finish(self, images: Tensor, target: Tensor, weights: Tensor, count: int) -> Tensor:
        reference = target.to(images.device, images.dtype)
        if self.target_range == "signed":
            self._check_range(target)
            reference = to_unit_range(reference)
        value = self.loss(images, reference)
        if self.loss.reduction == "none":
            value = (weights.to(value.device, value.dtype) * value).sum() / max(count, 1)
        elif bool((weights != weights[:1]).any()):
            raise InputError(f"weights: {self.loss.label} gives one value per batch, so they must be equal or 0.")
        else:
            value = value * (float(weights.sum()) / max(count, 1))
        terms = {name: self.loss.terms[name] for name in self.loss.term_names}
        self.terms = {"loss": value.detach(), **terms, "scored_share": torch.tensor(len(images) / max(count, 1))}
        return value

    def _check_range(self, target: Tensor) -> None:
        """Find a target in [0, 1] in the first calls; later calls spend no device sync on it."""
        if self._range_checks_left == 0 or target.numel() == 0:
            return
        lowest = float(target.min())
        self._range_checks_left = self._range_checks_left - 1 if lowest >= 0 else 0
        if lowest >= 0 and self._range_checks_left == 0:
            raise InputError(
                f"target: {BRIGHT_BATCHES} batches without a negative value (lowest {lowest:.3g}), expected images in "
                "[-1, 1] as a VAE sees them; if they are in [0, 1], use target_range='unit'."
            )


def _alphas_of(scheduler: object) -> Tensor:
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(alphas, Tensor):
        raise InputError(
            f"scheduler: {type(scheduler).__name__} has no alphas_cumprod; expected the noise scheduler of the "
            "training (DDPMScheduler). For flow matching compute x0 = x_t - sigma * velocity and call from_latents."
        )
    return alphas.detach().to("cpu", torch.float64)
