"""Random weights that behave: normalised activations, and deformable offsets of about a pixel."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speed.reference import has_reference_form, reference_form
from sr_perceptual_loss.critics.base import Critic

__all__ = ["calibrate", "pictures"]

# Where sampling offsets come from, by the path of the convolution.
OFFSETS = ("param_generators", "conv_offset")


def pictures(batch: int, side: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth random pictures with grain, and blurred, noisier versions of them.

    Args:
        batch: how many.
        side: of each.
        seed: of the private generator.

    Returns:
        sr, hr, each (batch, 3, side, side) in [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(batch, 3, max(2, side // 8), max(2, side // 8), generator=generator)
    hr = F.interpolate(low, size=(side, side), mode="bicubic", align_corners=False)
    hr = (hr + 0.05 * torch.randn(hr.shape, generator=generator)).clamp(0, 1)
    sr = F.avg_pool2d(hr, 3, 1, padding=1, count_include_pad=False)
    return (sr + 0.03 * torch.randn(sr.shape, generator=generator)).clamp(0, 1), hr


@torch.no_grad()
def calibrate(critic: Critic, *, seed: int = 0, shift: float = 1.0) -> None:
    """Give a critic with random weights the batch statistics of a picture and offsets of ``shift`` pixels.

    Without it activations may grow from layer to layer to values at which no comparison of precisions means anything,
    and a new deformable convolution samples at whole pixels only. Changes the critic in place.

    Args:
        critic: with random weights, in eval mode.
        seed: of the picture and the offsets.
        shift: standard deviation of the offsets in pixels.
    """
    if not has_reference_form(critic.card.name):
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
    rule = critic.input_size
    side = rule.fixed or max(64, rule.minimum)
    sr, hr = pictures(1, side, seed=seed)
    first = next(critic.parameters())
    try:
        # The published form runs every layer, so that even those that nobody reads stay finite.
        reference_form(critic).score(*(image.to(first.device, first.dtype) for image in (sr, hr)))
    finally:
        for handle in handles:
            handle.remove()


def _take_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None
    (x,) = inputs
    module.running_mean.copy_(x.mean((0, 2, 3)))
    # A constant channel, or a map of one position, must not blow up what passes later.
    module.running_var.copy_(x.var((0, 2, 3), correction=0).clamp_min(1e-4))


def _scale_offsets(shift: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(module, nn.Conv2d) and module.bias is not None
        factor = shift / output.std()
        module.weight.mul_(factor)
        module.bias.mul_(factor)
        return output * factor

    return hook
