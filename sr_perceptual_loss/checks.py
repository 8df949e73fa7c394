"""Input validation. An error message says what was given, what was expected and how to fix it."""

from __future__ import annotations

import difflib
import math
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sr_perceptual_loss.errors import InputError, NonFiniteInputError

__all__ = [
    "RangeCheck",
    "as_float",
    "as_int",
    "as_path",
    "as_weight",
    "check_choice",
    "check_known_keys",
    "check_pair",
    "composed",
    "nearest",
    "on_disk",
]

#: Dtypes of images; 8-bit floats have no arithmetic.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Limits that images in 0..255 exceed unless they are nearly black. The values of an untrained network may overshoot
#: that far, so for sr the mean is checked instead of the maximum.
HR_MAXIMUM, SR_MEAN = 8.0, 16.0
#: Calls in which the range is checked.
CHECKED_CALLS = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """Ending of an error message: the nearest known name, then all of them."""
    names = sorted(known)
    lower = {known_name.lower(): known_name for known_name in names}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    hint = f" Did you mean '{lower[close[0]]}'?" if close else ""
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
    """Raise an error for unknown keys.

    Args:
        where: what the keys belong to, for the message.
        given: keys that the caller passed.
        known: allowed keys.

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
        value: path as the user wrote it.

    Returns:
        The expanded path.

    Raises:
        InputError: the home directory is unknown, for example because the user does not exist.
    """
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise InputError(
            f"{value}: its home directory is unknown on this machine; write the path without '~'."
        ) from None


def composed(name: str) -> str:
    """The name in the form in which names are compared."""
    return unicodedata.normalize("NFC", name)


def on_disk(path: Path) -> Path:
    """The path as it is on disk, where its names may be in another Unicode form; the path itself if there is none."""
    try:
        if path.name in ("", "..") or path.exists():
            return path
        parent = on_disk(path.parent)
        names = [other.name for other in parent.iterdir() if composed(other.name) == composed(path.name)]
    except (OSError, ValueError):  # no such folder, or a name that no file can have
        return path
    return parent / (names[0] if len(names) == 1 else path.name)


def _as_number(name: str, value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"{name}: got {value!r} ({type(value).__name__}), expected {expected}.")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise InputError(f"{name}: got {value!r}, expected {expected}.") from None
    if not math.isfinite(number):
        raise InputError(f"{name}: got {value!r}, expected a finite number.")
    return number


def as_float(name: str, value: object, *, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Convert a number, or a number that YAML left as a string (``1e-2``), to a float.

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
    number = _as_number(name, value, "a number such as 0.01")
    if not minimum <= number <= maximum:
        raise InputError(f"{name}: got {number:g}, expected a number in [{minimum:g}, {maximum:g}].")
    return number


def as_weight(name: str, value: object) -> float:
    """As :func:`as_float`, for a weight of a loss, which is >= 0; the error for a negative one explains the sign."""
    number = as_float(name, value)
    if number < 0:
        raise InputError(
            f"{name}: got {number:g}, expected a number >= 0. The sign is already part of the loss, which falls as "
            f"quality rises: write {-number:g}. The RQI paper's lambda = -0.1 is loss_weight: 0.1 here."
        )
    return number + 0.0


def as_int(name: str, value: object, *, minimum: int = 0) -> int:
    """Convert an integer, or an integral number or string, to an int.

    Args:
        name: argument name, for the message.
        value: the number.
        minimum: smallest allowed value.

    Returns:
        The integer.

    Raises:
        InputError: not a whole number, or below ``minimum``.
    """
    if type(value) is int and minimum <= value < 2**63:
        return value  # not through a float, which would round numbers above 2**53
    number = _as_number(name, value, "a whole number such as 10")
    if number != int(number) or number < minimum:
        raise InputError(f"{name}: got {value!r}, expected a whole number >= {minimum}.")
    return int(number)


def check_pair(sr: Tensor, hr: Tensor) -> None:
    """Check rank, channels, equal sizes, dtype and device of an image pair; values are not read.

    Args:
        sr: SR image, (N, 3, H, W), floating point.
        hr: reference image, same shape and device.

    Raises:
        InputError: the pair is not as described above.
    """
    for role, image in (("sr", sr), ("hr", hr)):
        # One condition for valid images; the reason is determined only if it fails.
        if not (isinstance(image, Tensor) and image.dim() == 4 and image.shape[1] == 3 and image.dtype in DTYPES):
            _raise_bad_image(role, image)
    if sr.shape != hr.shape:
        raise InputError(
            f"sr and hr differ in shape: {tuple(sr.shape)} and {tuple(hr.shape)}; they must be the same region of "
            "the same image (check scale and gt_size)."
        )
    if 0 in sr.shape[2:]:
        raise InputError(f"sr: got shape {tuple(sr.shape)}, an image without pixels; check the crops.")
    if sr.device != hr.device:
        raise InputError(f"sr is on {sr.device} and hr on {hr.device}; move one with .to(...).")


def _raise_bad_image(role: str, image: object) -> None:
    if not isinstance(image, Tensor):
        raise InputError(f"{role}: got {type(image).__name__}, expected a torch.Tensor of shape (N, 3, H, W).")
    shape = tuple(image.shape)
    if image.dim() != 4:
        raise InputError(
            f"{role}: got shape {shape}, expected 4 dimensions (N, 3, H, W); use image.unsqueeze(0) for one image, or "
            "flatten the frames of a video into N."
        )
    if image.shape[1] != 3:
        if image.shape[-1] == 3:
            raise InputError(
                f"{role}: got shape {shape}, which looks like channels last; expected channels first (N, 3, H, W): "
                "use image.permute(0, 3, 1, 2)."
            )
        raise InputError(
            f"{role}: got {image.shape[1]} channel(s), expected 3 (RGB); repeat a grey image with "
            "image.expand(-1, 3, -1, -1), drop an alpha channel with image[:, :3]."
        )
    if not image.is_floating_point():
        raise InputError(
            f"{role}: got dtype {image.dtype}, expected floating point RGB in [0, 1]; use image.float() / 255."
        )
    raise InputError(f"{role}: got dtype {image.dtype}, expected float16, bfloat16, float32 or float64.")


class RangeCheck:
    """Checks that images have values in [0, 1]. Reading values syncs an accelerator, so only the first calls check.

    Overshoot is allowed. Data in [-1, 1] give one warning, no error, since a reference may have a few negative values.

    Args:
        name: name of the critic or loss, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls_left = CHECKED_CALLS
        self.warned = False

    def __call__(self, sr: Tensor, hr: Tensor) -> None:
        """Check a pair.

        Args:
            sr: SR images, (N, 3, H, W).
            hr: reference images, same shape.

        Raises:
            InputError: a value range such as 0..255.
            NonFiniteInputError: NaN or infinity in ``hr``.
        """
        if self.calls_left <= 0 or len(hr) == 0 or torch.compiler.is_compiling():
            return
        self.calls_left -= 1
        sr, hr = sr.detach(), hr.detach()
        low, high = (float(value) for value in torch.aminmax(hr))
        if not (math.isfinite(low) and math.isfinite(high)):
            position = int((~torch.isfinite(hr)).flatten(1).any(1).nonzero()[0, 0])
            raise NonFiniteInputError(
                f"{self.name}: image {position} of hr holds NaN or infinity; check the data loader."
            )
        mean = float(sr.nan_to_num(0.0, 0.0, 0.0).abs().mean())
        for role, what, value, limit in (("hr", "maximum", high, HR_MAXIMUM), ("sr", "mean", mean, SR_MEAN)):
            if value > limit:
                least, most = (float(v) for v in torch.aminmax(hr if role == "hr" else sr))
                raise InputError(
                    f"{self.name}: {role} has the {what} {value:.4g} (values from {least:.4g} to {most:.4g}), expected "
                    "RGB in [0, 1] with small overshoot; this looks like 0..255: divide by 255."
                )
        if low < -0.5 and not self.warned:
            self.warned = True
            warnings.warn(
                f"{self.name}: hr has values below -0.5, as [-1, 1] data do; expected RGB in [0, 1]: use "
                "image * 0.5 + 0.5.",
                stacklevel=3,
            )
