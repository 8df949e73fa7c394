"""Scores of 8-bit images for the validation of trainers that hand over numpy arrays (neosr, traiNNer-redux)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_int, check_choice
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops.crops import CropPlan, crop_pairs
from sr_perceptual_loss.losses.frozen import FrozenCritic

__all__ = ["score_images"]

#: Crops per image for a critic of fixed input size: evenly spaced, so the same image always gets the same score.
FIXED_SIZE_CROPS = {"count": 9, "position": "grid"}


@lru_cache(maxsize=8)
def _critic(name: str, weights: str | None, critic_size: str, device: str) -> FrozenCritic:
    """One per process: the hosts build a metric anew for every image."""
    return FrozenCritic(name, weights=weights, critic_size=critic_size).to(device)


def _tensor(image: np.ndarray | None, role: str, channels: str) -> Tensor:
    if image is None:
        raise InputError(f"{role} is missing: critics compare with a ground truth; take the metric out of this set.")
    if image.dtype != np.uint8:
        raise InputError(f"{role}: got dtype {image.dtype}, expected uint8 (H, W, 3).")
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    rgb = image if channels == "rgb" else image[:, :, ::-1]
    return torch.from_numpy(np.array(rgb.transpose(2, 0, 1))).float().div_(255).unsqueeze(0)


def score_images(
    img: np.ndarray,
    img2: np.ndarray | None,
    *,
    channels: str,
    critic: str,
    weights: str | None = "local",
    crop_border: int = 0,
    crops: Mapping[str, object] | int | None = None,
    device: str | torch.device = "cpu",
    critic_size: str = "full",
    better: str = "higher",
) -> float:
    """Mean score of one image over its crops; higher is better.

    Args:
        img: judged image, uint8 (H, W, 3), or gray.
        img2: reference, same shape.
        channels: ``rgb`` or ``bgr``, the order in both arrays.
        critic: registered name.
        weights: as in ``create_critic``.
        crop_border: pixels cut from each edge.
        crops: a CropPlan's fields; by default the whole image, or an even grid of crops for a critic of fixed size.
        device: where the critic runs.
        critic_size: ``full`` or ``tiny`` (tests).
        better: read by the host; must be ``higher``.

    Returns:
        A number.

    Raises:
        InputError: no reference, wrong dtype, or an unknown value.
    """
    check_choice("better", better, ("higher",))
    check_choice("channels", channels, ("rgb", "bgr"))
    border, place = as_int("crop_border", crop_border), str(device)
    # The host may be in inference mode with another default device; a critic that is kept must not be made there.
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        sr, hr = _tensor(img, "img", channels).to(place), _tensor(img2, "img2", channels).to(place)
        if border:
            sr, hr = (x[..., border:-border, border:-border] for x in (sr, hr))
        frozen = _critic(critic, weights, critic_size, place)
        fixed = frozen.critic.input_size.fixed
        plan = CropPlan.from_config(crops if crops is not None else FIXED_SIZE_CROPS if fixed else None)
        generator = torch.Generator().manual_seed(plan.seed)
        pairs = crop_pairs(sr, hr, plan, plan.size or fixed, generator)
        return float(torch.stack([frozen.score(a, b) for a, b in pairs]).mean())
