"""Every input check and its wording: the one place.

An error says what came, what was expected and the cure. Nothing here looks at weights, critics or frameworks.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sr_perceptual_loss.errors import InputError, NonFiniteInputError

__all__ = [
    "MINUS_ONE_TO_ONE",
    "RANGE_CHECKED_CALLS",
    "as_float",
    "as_int",
    "as_path",
    "check_choice",
    "check_known_keys",
    "check_pair",
    "check_range",
    "nearest",
]


#: The value range is read (one device sync on an accelerator) only in this many first calls.
RANGE_CHECKED_CALLS = 3
MINUS_ONE_TO_ONE = "hr reaches below -0.5, as [-1, 1] data does; expected RGB in [0, 1]: use image * 0.5 + 0.5."
#: What images may be made of; 8-bit floats have no arithmetic.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def nearest(name: str, known: Iterable[str]) -> str:
    """Ending of an error message: the nearest known name, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{hint} Known: {', '.join(names) or '(none)'}."


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Args:
        name: argument name, for the message.
        value: what the caller gave.
        choices: allowed values.

    Returns:
        The value, as a string.

    Raises:
        InputError: any other value.
    """
    if isinstance(value, str) and value in choices:
        return value
    raise InputError(f"{name}: got {value!r}.{nearest(str(value), choices)}")


def check_known_keys(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keys that nobody would read.

    Args:
        where: what the keys belong to, for the message.
        given: the keys found.
        known: the keys allowed.

    Raises:
        InputError: at the first unknown key, with the nearest known one.
    """
    allowed = set(known)
    for key in given:
        if key not in allowed:
            raise InputError(f"{where}: unknown key '{key}'.{nearest(str(key), allowed)}")


def as_path(value: str | Path) -> Path:
    """The path with ``~`` replaced by the home directory.

    Args:
        value: as a user wrote it.

    Raises:
        InputError: a home directory that is not known, such as that of a user who does not exist.
    """
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise InputError(f"{value}: its home directory is not known here; write the path without '~'.") from None


def _number(name: str, value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"{name}: got {value!r} ({type(value).__name__}), expected a number.")
    try:
        number = float(value)
    except ValueError:
        raise InputError(f"{name}: got the text {value!r}, expected {expected}.") from None
    except OverflowError:
        raise InputError(f"{name}: got a whole number that is too large, expected one below 1e308.") from None
    if not math.isfinite(number):
        raise InputError(f"{name}: got {value!r}, expected a finite number.")
    return number


def as_float(name: str, value: object, *, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Turn a number, or a number that YAML left as a string (``1e-2``), into a float.

    Args:
        name: argument name, for the message.
        value: number or numeric string; bool is refused.
        minimum: smallest allowed value.
        maximum: largest allowed value.

    Returns:
        A finite float.

    Raises:
        InputError: not a number, not finite, or out of bounds.
    """
    number = _number(name, value, "a number such as 0.01")
    if not minimum <= number <= maximum:
        raise InputError(f"{name}: got {number:g}, expected a number in [{minimum:g}, {maximum:g}].")
    return number


def as_int(name: str, value: object, *, minimum: int = 0) -> int:
    """Turn an integer, or an integral number or string, into an int.

    Args:
        name: argument name, for the message.
        value: the number.
        minimum: smallest allowed value.

    Returns:
        The integer.

    Raises:
        InputError: not a whole number, or below ``minimum``.
    """
    number = _number(name, value, "a whole number such as 10")
    if number != int(number) or number < minimum:
        raise InputError(f"{name}: got {value!r}, expected a whole number >= {minimum}.")
    return int(number)


def check_pair(sr: Tensor, hr: Tensor, *, channels: int = 3) -> None:
    """Check rank, channels, equal sizes, dtype and device of an image pair (no look at the values).

    Args:
        sr: judged image, (N, 3, H, W), floating point.
        hr: reference image, same shape and device.
        channels: required number of channels.

    Raises:
        InputError: with what came, what was expected and the cure.
    """
    for role, image in (("sr", sr), ("hr", hr)):
        if not isinstance(image, Tensor):
            raise InputError(f"{role}: got {type(image).__name__}, expected a torch.Tensor of shape (N, 3, H, W).")
        if image.dim() != 4:
            raise InputError(
                f"{role}: got shape {tuple(image.shape)}, expected 4 dimensions (N, {channels}, H, W); "
                "use image.unsqueeze(0) for one image, or flatten the frames of a video into N."
            )
        if image.shape[1] != channels:
            if image.shape[-1] == channels:
                raise InputError(
                    f"{role}: got shape {tuple(image.shape)}, which looks like channels last; "
                    f"expected channels first (N, {channels}, H, W): use image.permute(0, 3, 1, 2)."
                )
            raise InputError(
                f"{role}: got {image.shape[1]} channel(s), expected {channels} (RGB); "
                "repeat a gray image with image.expand(-1, 3, -1, -1), drop an alpha channel with image[:, :3]."
            )
        _check_pixels(role, image)
        if not image.is_floating_point():
            raise InputError(
                f"{role}: got dtype {image.dtype}, expected floating point RGB in [0, 1]; use image.float() / 255."
            )
        if image.dtype not in DTYPES:
            raise InputError(f"{role}: got dtype {image.dtype}, expected float16, bfloat16, float32 or float64.")
    if sr.shape != hr.shape:
        raise InputError(
            f"sr and hr differ in shape: {tuple(sr.shape)} and {tuple(hr.shape)}; they must be the same region of "
            "the same picture (check scale and gt_size)."
        )
    if sr.device != hr.device:
        raise InputError(f"sr is on {sr.device} and hr on {hr.device}; move one with .to(...).")


def _check_pixels(role: str, image: Tensor) -> None:
    if 0 in image.shape[2:]:
        raise InputError(f"{role}: got shape {tuple(image.shape)}, an image without pixels; look at its crops.")


def check_range(sr: Tensor | None, hr: Tensor) -> bool:
    """Check that values are on the [0, 1] scale; overshoot is allowed. Reads the values (device sync).

    Args:
        sr: judged image, or None to look at ``hr`` only.
        hr: reference image.

    Returns:
        True where ``hr`` reaches below -0.5 as [-1, 1] data does (the caller may warn).

    Raises:
        InputError: a scale such as 0..255.
        NonFiniteInputError: NaN or infinity in ``hr``.
    """
    low, high = (float(v) for v in torch.aminmax(hr.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~torch.isfinite(hr.detach())).flatten(1).any(1).nonzero()[0, 0])
        raise NonFiniteInputError(f"hr: image {bad} of the batch holds NaN or infinity; look at the data loader.")
    # A picture in 0..255 cannot stay below 8 unless it is practically black. A network at the start of its training may
    # well overshoot that far, so of sr the mean is judged.
    mean = 0.0 if sr is None else float(sr.detach().nan_to_num(0.0, 0.0, 0.0).abs().mean())
    for role, image, what, value, limit in (("hr", hr, "reach", high, 8.0), ("sr", sr, "average at", mean, 16.0)):
        if image is not None and value > limit:
            least, most = (float(v) for v in torch.aminmax(image.detach()))
            raise InputError(
                f"{role}: values {what} {value:.4g} (from {least:.4g} to {most:.4g}), expected RGB in [0, 1] (small "
                "overshoot is fine); this looks like 0..255: divide by 255."
            )
    return low < -0.5
