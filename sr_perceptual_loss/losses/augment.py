"""What a loss does to both images alike before a critic sees them, so that one fixed pattern cannot raise its score.

A critic that is optimised finds patterns tied to its own strides and to the pixel grid of the network. Seen at other
phases and scales, and under a little noise, they lose their effect, while real quality stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss._checks import InputError, as_float, as_int, check_known_keys

__all__ = ["AugmentPlan", "augment_pair"]


@dataclass(frozen=True)
class AugmentPlan:
    """How both images are changed, anew in every step.

    Attributes:
        noise: standard deviation of normal noise, the same in both images, in units of [0, 1].
        shift: both are moved by 0..shift pixels (the borders that fall out are cut off, so images shrink by ``shift``).
        rescale: (low, high): both are resized by a factor drawn from it, antialiased; (1, 1) is off.
        phases: how many such draws are made in a step; the loss is their mean, the cost so many times as high.
    """

    noise: float = 0.0
    shift: int = 0
    rescale: tuple[float, float] = (1.0, 1.0)
    phases: int = 1

    def __post_init__(self) -> None:
        """Coerce what YAML delivers and refuse the rest, at construction."""
        object.__setattr__(self, "noise", as_float("augment.noise", self.noise, minimum=0, maximum=0.5))
        object.__setattr__(self, "shift", as_int("augment.shift", self.shift, minimum=0))
        object.__setattr__(self, "phases", as_int("augment.phases", self.phases, minimum=1))
        rescale = self.rescale
        if not isinstance(rescale, list | tuple) or len(rescale) != 2:
            raise InputError(f"augment.rescale: got {rescale!r}, expected two factors such as [0.67, 1.0].")
        low, high = (as_float("augment.rescale", factor, minimum=0.1, maximum=4) for factor in rescale)
        if low > high:
            raise InputError(f"augment.rescale: got [{low}, {high}], expected the smaller factor first.")
        object.__setattr__(self, "rescale", (low, high))

    @classmethod
    def of(cls, value: AugmentPlan | Mapping[str, object] | None) -> AugmentPlan:
        """A plan from what a YAML or a caller writes: a plan, a mapping of its fields, or None (off).

        Raises:
            InputError: unknown key or wrong value.
        """
        if value is None:
            return cls()
        if isinstance(value, AugmentPlan):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"augment: got {value!r}, expected a mapping such as {{noise: 0.01, shift: 4}}.")
        check_known_keys("augment", value, [f.name for f in fields(cls)])
        return cls(**value)  # type: ignore[arg-type]

    @property
    def active(self) -> bool:
        """Whether anything is changed."""
        return self.noise > 0 or self.shift > 0 or self.rescale != (1.0, 1.0)


def augment_pair(sr: Tensor, hr: Tensor, plan: AugmentPlan, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both images shifted, resized and made noisy in the same way.

    Args:
        sr: judged images, (N, 3, H, W); gradients flow through.
        hr: reference images, same shape.
        plan: what to do.
        generator: on the CPU, so that the draws are the same on every device.

    Returns:
        The changed pair, (N, 3, H', W').

    Raises:
        InputError: the images are not larger than the shift.
    """
    if not plan.active:
        return sr, hr
    height, width = sr.shape[-2:]
    if min(height, width) <= plan.shift:
        raise InputError(f"augment.shift: got {plan.shift} for {height}x{width} images; choose a smaller shift.")
    # All are drawn in every case, so that one option does not shift the random numbers of another.
    top, left = torch.randint(0, plan.shift + 1, (2,), generator=generator).tolist()
    part = float(torch.rand((), generator=generator))
    rows, columns = slice(top, height - plan.shift + top), slice(left, width - plan.shift + left)
    both = torch.cat([sr[..., rows, columns], hr[..., rows, columns]])
    low, high = plan.rescale
    if (low, high) != (1.0, 1.0):
        factor = low + part * (high - low)
        size = [max(1, round(side * factor)) for side in both.shape[-2:]]
        both = F.interpolate(both, size=size, mode="bicubic", antialias=True, align_corners=False)
    if plan.noise:
        shape = (len(sr), *both.shape[1:])
        noise = plan.noise * torch.randn(shape, generator=generator).to(both)
        both = both + torch.cat([noise, noise])
    return both[: len(sr)], both[len(sr) :]
