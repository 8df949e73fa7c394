"""Critics as validation metrics of a trainer: ``calculate_<critic>`` on whole 8-bit images."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_int, check_choice
from sr_perceptual_loss.critics.registry import list_critics
from sr_perceptual_loss.critics.whole_image import score_whole_image
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.losses.frozen import FrozenCritic

__all__ = ["critic_metrics"]


def critic_metrics(channels: str) -> dict[str, Callable[..., float]]:
    """Validation metrics ``calculate_<critic>`` for every critic: the score of a whole 8-bit image, higher is better.

    A critic of fixed input size scores the crops that cover the image (:func:`score_whole_image`).

    Args:
        channels: ``rgb`` or ``bgr``, the order in the host's arrays; any other value is an InputError.

    Returns:
        Name -> function ``(img, img2, *, weights, crop_border, device, better, test_y_channel, input_order)`` with a
        number as result: ``img`` is the SR image and ``img2`` the ground truth, uint8 (H, W, 3) or gray;
        ``crop_border`` pixels are cut from each edge; ``device`` may be ``auto``; the last three are for hosts whose
        metrics have them, and take their defaults only. The function raises InputError for images that the critic
        cannot take. Its attribute ``prepare`` takes the options alone, checks them and loads the critic.
    """
    check_choice("channels", channels, ("rgb", "bgr"))
    return {f"calculate_{critic}": _metric(critic, channels) for critic in list_critics()}


def _metric(critic: str, channels: str) -> Callable[..., float]:
    # Written out, since hosts hand over every key of the option file and a misspelt one must be an error.
    def prepare(
        *,
        weights: str | None = "local",
        crop_border: int = 0,
        device: str | torch.device = "auto",
        better: str = "higher",
        test_y_channel: bool = False,
        input_order: str = "HWC",
    ) -> tuple[FrozenCritic, int, str]:
        """The critic, the border and the device of the options.

        Args:
            weights: as in :class:`CriticLoss`.
            crop_border: pixels that are cut from each edge.
            device: of the critic; ``auto`` is CUDA where there is one.
            better: ``higher``, for hosts that ask.
            test_y_channel: ``false``, for hosts that ask: critics compare RGB images.
            input_order: ``HWC``, for hosts that ask.
        """
        if better != "higher":
            raise InputError(
                f"better: got {better!r}; every critic's score rises with quality ({critic} too): 'higher'."
            )
        check_choice("input_order", input_order, ("HWC",))
        if test_y_channel is not False:
            raise InputError(f"test_y_channel: got {test_y_channel!r}; {critic} compares RGB images: write false.")
        border = as_int("crop_border", crop_border)
        place = str(device) if str(device) != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        # The host may be in inference mode with another default device; a critic that is kept must not be made there.
        with torch.inference_mode(False), torch.device("cpu"):
            return _critic(critic, weights, place), border, place

    def metric(img: np.ndarray, img2: np.ndarray | None = None, **options: Any) -> float:
        frozen, border, place = prepare(**options)
        with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
            sr, hr = (_to_tensor(image, role, channels).to(place) for image, role in ((img, "img"), (img2, "img2")))
            if sr.shape != hr.shape:
                raise InputError(f"img and img2 differ in size: {tuple(sr.shape)} and {tuple(hr.shape)}.")
            height, width = sr.shape[1:]
            if min(height, width) <= 2 * border:
                raise InputError(f"crop_border: got {border}, which leaves no pixels of {height}x{width}.")
            sr, hr = (image[:, border : height - border, border : width - border] for image in (sr, hr))
            return score_whole_image(frozen, sr, hr, "the validation image")

    metric.prepare = prepare  # type: ignore[attr-defined]
    metric.__name__ = metric.__qualname__ = prepare.__name__ = prepare.__qualname__ = f"calculate_{critic}"
    metric.__doc__ = f"{critic} of one image against its ground truth; uint8 (H, W, 3) {channels}; higher is better."
    return metric


@lru_cache(maxsize=8)
def _critic(name: str, weights: str | None, device: str) -> FrozenCritic:
    """One per process: hosts build a metric anew for every image."""
    return FrozenCritic(name, weights=weights).to(device)


def _to_tensor(image: np.ndarray | None, role: str, channels: str) -> Tensor:
    """Uint8 (H, W, 3) or gray -> RGB (3, H, W) in [0, 1]."""
    if image is None:
        raise InputError(f"{role} is missing: critics compare with a ground truth; take the metric out of this set.")
    got = f"dtype {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
    if got != "dtype uint8":
        raise InputError(f"{role}: got {got}, expected a numpy array of uint8, (H, W, 3) or gray.")
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    rgb = image if channels == "rgb" else image[:, :, ::-1]
    return torch.from_numpy(np.array(rgb.transpose(2, 0, 1))).float().div_(255)
