"""Whether a prepared critic equals its published formulation: scores and gradients in float64, at full size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speed.calibrating import OFFSETS, calibrate, pictures
from speed.measuring import gradient, one_thread
from speed.reference import reference_form
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.registry import create_critic

__all__ = ["FULL_SIZES", "Equality", "equality"]

#: Side of the images by critic: what each is used at.
FULL_SIZES = {"efficient_pban": 256, "rqi_ahiq": 224, "rqi_maniqa": 224, "rqi_topiq": 384}


@dataclass(frozen=True)
class Equality:
    """How far the prepared form is from the reference form, both in float64 over the same weights.

    Attributes:
        critic: name.
        side: of the square images.
        batch: images.
        score: largest absolute difference of a score.
        slope: L2 norm of the difference of the gradients to sr, relative to that of the reference's gradient.
        change: mean change of the score when the contrast of sr is reduced to 0.7, to judge the difference by.
        slope_norm: L2 norm of the reference's gradient.
        offsets: standard deviation of the sampling offsets in pixels; None without deformable convolution.
    """

    critic: str
    side: int
    batch: int
    score: float
    slope: float
    change: float
    slope_norm: float
    offsets: float | None


def _random(name: str, critic_size: str, seed: int) -> Critic:
    """In float64, with every bias, norm and statistic away from what would make a rewrite trivially right."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        critic = create_critic(name, weights=None, size=critic_size).double().requires_grad_(False)
        for parameter in critic.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    calibrate(critic, seed=seed)
    return critic


def _watch_offsets(critic: Critic, seen: list[Tensor]) -> None:
    for path, module in critic.named_modules():
        if isinstance(module, nn.Conv2d) and any(part in path.split(".") for part in OFFSETS):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.detach().flatten()))


def equality(name: str, side: int, batch: int = 1, *, critic_size: str = "full", seed: int = 0) -> Equality:
    """Compare ``critic.inference_form()`` with ``reference_form(critic)`` in float64, on one thread.

    Args:
        name: a critic that has a reference form.
        side: of the square images.
        batch: images.
        critic_size: ``full`` or ``tiny``.
        seed: of weights and pictures.

    Returns:
        The differences.

    Raises:
        InputError: no reference form, or a size that the critic does not take.
    """
    with one_thread():
        critic = _random(name, critic_size, seed)
        fast, plain = critic.inference_form(), reference_form(critic)
        sr, hr = (image.double() for image in pictures(batch, side, seed=seed + 1))
        slopes = [gradient(lambda x, form=form: form.score(x, hr), sr) for form in (plain, fast)]  # type: ignore[misc]
        with torch.no_grad():
            score = fast.score(sr, hr)
            difference = (score - plain.score(sr, hr)).abs().max()
            flat = fast.score(0.7 * sr + 0.3 * sr.mean(), hr)
            offsets: list[Tensor] = []
            _watch_offsets(critic, offsets)
            critic.score(sr, hr)
    return Equality(
        critic=name,
        side=side,
        batch=batch,
        score=float(difference),
        slope=float((slopes[1] - slopes[0]).norm() / slopes[0].norm()),
        change=float((flat - score).abs().mean()),
        slope_norm=float(slopes[0].norm()),
        offsets=float(torch.cat(offsets).std()) if offsets else None,
    )
