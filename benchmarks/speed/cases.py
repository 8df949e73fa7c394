"""What is measured: forms of critics, and baselines, each as one function of an image pair."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speed.baselines import build_baseline
from speed.reference import has_reference_form, reference_form
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.card import SizeRule
from sr_perceptual_loss.critics.registry import create_critic

__all__ = ["FORMS", "OFFSETS", "Case", "build_cases", "calibrate", "image_pair"]

#: Forms of a critic, in the order of a table.
FORMS = {
    "reference": "as published, parameters frozen",
    "fast": "critic.inference_form(), what the losses use",
    "target": "fast, with the target's features given",
    "bf16": "fast, products and convolutions in bfloat16: not equal",
}
# Where sampling offsets come from, by the path of the convolution.
OFFSETS = ("param_generators", "conv_offset")

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        name: of the critic or baseline.
        form: one of :data:`FORMS`, or ``baseline``.
        input_size: sizes that it takes.
        bind: from ``hr`` to the function of ``sr`` that is measured; what happens in ``bind`` is not.
        weights: parameters and buffers, which do not count as memory of a call.
    """

    name: str
    form: str
    input_size: SizeRule
    bind: Callable[[Tensor], Forward]
    weights: tuple[Tensor, ...]

    @property
    def key(self) -> str:
        """``name:form``, or the name of a baseline."""
        return self.name if self.form == "baseline" else f"{self.name}:{self.form}"


def image_pair(batch: int, side: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(sr, hr), each (batch, 3, side, side): smooth random images with grain, and blurred, noisier versions of them."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(batch, 3, max(2, side // 8), max(2, side // 8), generator=generator)
    hr = F.interpolate(low, size=(side, side), mode="bicubic", align_corners=False)
    hr = (hr + 0.05 * torch.randn(hr.shape, generator=generator)).clamp(0, 1)
    sr = F.avg_pool2d(hr, 3, 1, padding=1, count_include_pad=False)
    return (sr + 0.03 * torch.randn(sr.shape, generator=generator)).clamp(0, 1), hr


@torch.no_grad()
def calibrate(critic: Critic, *, seed: int = 0, shift: float = 1.0) -> None:
    """Give a critic with random weights the batch statistics of an image and offsets of ``shift`` pixels, in place.

    Without it activations may grow from layer to layer to values at which no comparison of precisions means anything,
    and a new deformable convolution samples at whole pixels only.
    """
    if not has_reference_form(critic):
        return
    generator = torch.Generator().manual_seed(seed)
    handles = []
    for path, module in critic.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(_take_statistics))
        elif isinstance(module, nn.Conv2d) and any(part in path.split(".") for part in OFFSETS):
            if not module.weight.any():
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
            handles.append(module.register_forward_hook(_scale_offsets(shift)))
    sr, hr = image_pair(1, critic.input_size.fixed or max(64, critic.input_size.minimum), seed=seed)
    first = next(critic.parameters())
    # The published form runs every layer, so that even those that nobody reads stay finite.
    reference_form(critic).score(*(image.to(first.device, first.dtype) for image in (sr, hr)))
    for handle in handles:
        handle.remove()


def _take_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    module.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    # A constant channel, or a map of one position, must not become huge after the division.
    module.running_var.copy_(inputs[0].var((0, 2, 3), correction=0).clamp_min(1e-4))


def _scale_offsets(shift: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        factor = shift / output.std()
        module.weight.mul_(factor)
        module.bias.mul_(factor)
        return output * factor

    return hook


def build_cases(
    critics: Sequence[Critic | str],
    baselines: Sequence[str] = (),
    *,
    forms: Sequence[str] = tuple(FORMS),
    device: str = "cpu",
    calibrated: bool = True,
) -> list[Case]:
    """Build critics with random weights (the forms of one share it) and baselines.

    A form that a critic lacks is left out: a formula has no reference form and nothing to gain from the others.

    Args:
        critics: registered names, or critics.
        baselines: names of ``BASELINES``.
        forms: names of :data:`FORMS`.
        device: where they compute.
        calibrated: call :func:`calibrate`; memory and time hardly depend on it.

    Returns:
        Cases, critic by critic, then the baselines.
    """
    cases: list[Case] = []
    # Reproducible, and the caller's random state stays what it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for entry in critics:
            critic = create_critic(entry, weights=None) if isinstance(entry, str) else entry
            if calibrated:
                calibrate(critic)
            critic.requires_grad_(False).to(device)
            fast = critic.inference_form()
            low = copy.copy(fast)
            low.autocast_dtype = torch.bfloat16
            made = {"fast": fast}
            if has_reference_form(critic):
                made |= {"reference": reference_form(critic), "target": fast, "bf16": low}
            cases += [_of_form(critic, form, made[form]) for form in FORMS if form in forms and form in made]
        for name in baselines:
            module = build_baseline(name, device)
            # Four halvings, and something left to look at.
            bind = lambda hr, module=module: lambda sr: module(sr, hr)  # noqa: E731
            cases.append(Case(name, "baseline", SizeRule(minimum=32), bind, _weights(module)))
    return cases


def _of_form(critic: Critic, form: str, module: Critic) -> Case:
    def bind(hr: Tensor) -> Forward:
        given = module.encode_target(hr) if form == "target" else None
        return lambda sr: module.score(sr, hr, target_features=given)

    return Case(critic.card.name, form, critic.input_size, bind, _weights(critic, module))


def _weights(*modules: nn.Module) -> tuple[Tensor, ...]:
    return tuple(tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
