"""What a distortion is, and the one function that applies one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sr_perceptual_loss._checks import InputError, as_int, check_pair, check_range, nearest
from sr_perceptual_loss.training.distortions.draws import Draws

__all__ = ["LEVELS", "MINIMUM_SIDE", "Distortion", "apply_distortion", "find"]

#: Levels of every distortion: 1..5 (level 3 of a signed one is the neutral middle).
LEVELS = (1, 2, 3, 4, 5)
#: Smallest side: patches of 16 pixels with 16 pixels around them.
MINIMUM_SIDE = 48


@dataclass(frozen=True)
class Distortion:
    """One kind of distortion with five levels.

    Attributes:
        number: in the table; 1..25 are KADID-10k's own, from 101 on the SR families.
        name: in the table.
        parameters: one for each level, in the published order.
        apply: (image in [0, 1], parameter, draws) -> image.
        stretched: whether the result is stretched to the range of values that the picture had, see :func:`stretched`.
    """

    number: int
    name: str
    parameters: tuple[float, float, float, float, float]
    apply: Callable[[Tensor, float, Draws], Tensor]
    stretched: bool = True


def find(table: Mapping[int, Distortion], kind: int | str) -> Distortion:
    """The entry with this number or name.

    Raises:
        InputError: there is none.
    """
    by_name = {d.name: d for d in table.values()}
    if isinstance(kind, str) and kind in by_name:
        return by_name[kind]
    if isinstance(kind, str) and not kind.strip().isdigit():
        raise InputError(f"type: got {kind!r}.{nearest(kind, by_name)}")
    number = as_int("type", kind, minimum=1)
    if number not in table:
        known = ", ".join(f"{n} {d.name}" for n, d in sorted(table.items()))
        raise InputError(f"type: got {number}, expected one of {known}.")
    return table[number]


def apply_distortion(
    table: Mapping[int, Distortion], image: Tensor, kind: int | str, level: int, generator: torch.Generator
) -> Tensor:
    """Apply one distortion of a table to a batch.

    Args:
        table: number -> distortion.
        image: (N, 3, H, W) RGB in [0, 1], sides of at least 48 pixels.
        kind: number or name.
        level: 1..5.
        generator: moves on by one draw; a CPU generator gives the same picture on every device.

    Returns:
        (N, 3, H, W) in [0, 1], same type and device; image ``i`` does not depend on the others.

    Raises:
        InputError: unknown type or level, or the images are no such batch.
    """
    distortion = find(table, kind)
    number = as_int("level", level, minimum=1)
    if number not in LEVELS:
        raise InputError(f"level: got {number}, expected 1 to 5.")
    check_pair(image, image)
    check_range(None, image)
    if min(image.shape[-2:]) < MINIMUM_SIDE:
        raise InputError(
            f"image: got {image.shape[-1]}x{image.shape[-2]} pixels (width x height), expected sides of at least "
            f"{MINIMUM_SIDE}; cut larger crops."
        )
    with torch.no_grad():
        source = image.detach().clamp(0, 1)
        draws = Draws(generator, len(source), source.device, source.dtype)
        result = distortion.apply(source, distortion.parameters[number - 1], draws)
        return (stretched(result, source) if distortion.stretched else result).clamp(0, 1)


def stretched(result: Tensor, source: Tensor) -> Tensor:
    """Map each result linearly so that its values reach as far as those of its source did.

    The KADID-10k generator stretches every picture to [0, 1] before and after the distortion, which is why its blurred
    pictures have more contrast than plain blurring gives. For a picture that fills [0, 1] this is the same. A crop that
    does not is not stretched beyond its own range (it would become another picture), nor is a result squeezed that
    reaches farther than its source.

    Args:
        result: (N, 3, H, W).
        source: the picture before the distortion.

    Returns:
        (N, 3, H, W); a result without any contrast stays.
    """
    axes = (1, 2, 3)
    low, high = result.amin(axes, keepdim=True), result.amax(axes, keepdim=True)
    to_low = torch.minimum(low, source.amin(axes, keepdim=True))
    to_high = torch.maximum(high, source.amax(axes, keepdim=True))
    spread = high - low
    mapped = to_low + (result - low) * (to_high - to_low) / spread.clamp(min=1e-6)
    return torch.where(spread > 1e-3, mapped, result)
