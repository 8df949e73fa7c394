"""Validation metrics: ``calculate_<critic>`` for every registered critic, and ``calculate_rqi``.

BasicSR calls a metric once per image with uint8 BGR arrays and all YAML keys as keywords::

    metrics:
      haarpsi: {type: calculate_haarpsi, crop_border: 4, better: higher}
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from basicsr.utils.registry import METRIC_REGISTRY

from sr_perceptual_loss.checks import as_int, check_choice
from sr_perceptual_loss.critics.registry import list_critics
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.ops.crops import CropPlan, crop_pairs
from sr_perceptual_loss.losses.frozen import FrozenCritic

__all__ = ["critic_metric"]

logger = logging.getLogger("sr_perceptual_loss")

#: Crops per image for a critic of fixed input size: evenly spaced, so the same image always gets the same score.
FIXED_SIZE_CROPS = {"count": 9, "position": "grid"}


@lru_cache(maxsize=8)
def _cached_critic(critic: str, weights: str | None, critic_size: str, device: str) -> FrozenCritic:
    """BasicSR copies its options for every image, so the critic must live outside them: one per process."""
    return FrozenCritic(critic, weights=weights, critic_size=critic_size).to(device)


def _to_tensor(image: np.ndarray | None, role: str) -> torch.Tensor:
    """uint8 BGR (H, W, 3) or gray (H, W) -> RGB (1, 3, H, W) in [0, 1]."""
    if image is None:
        raise InputError(f"{role} is missing: critics compare with a ground truth; take the metric out of this set.")
    if image.dtype != np.uint8:
        raise InputError(f"{role}: got dtype {image.dtype}, expected uint8 as BasicSR's tensor2img gives.")
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    rgb = np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))
    return torch.from_numpy(rgb).float().div_(255).unsqueeze(0)


def critic_metric(
    img: np.ndarray,
    img2: np.ndarray | None = None,
    *,
    critic: str,
    weights: str | None = "local",
    crop_border: int = 0,
    crops: Mapping[str, object] | int | None = None,
    device: str = "auto",
    critic_size: str = "full",
    better: str = "higher",
) -> float:
    """Score of one restored image against its ground truth; higher is better.

    Args:
        img: restored image, uint8 BGR (H, W, 3), or gray (H, W).
        img2: ground truth, same shape.
        critic: registered name.
        weights: as in ``create_critic``.
        crop_border: pixels cut from each edge, as in BasicSR's PSNR.
        crops: a CropPlan's fields; by default the whole image, or an even 3x3 grid of crops for a critic of fixed size.
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``.
        critic_size: ``full`` or ``tiny`` (tests).
        better: read by BasicSR; must be ``higher``.

    Returns:
        Mean score over the crops.

    Raises:
        InputError: missing ground truth, wrong dtype or shape.
    """
    check_choice("better", better, ("higher",))
    border = as_int("crop_border", crop_border)
    sr, hr = _to_tensor(img, "img"), _to_tensor(img2, "img2")
    if border:
        sr, hr = (x[..., border:-border, border:-border] for x in (sr, hr))
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    frozen = _cached_critic(critic, weights, critic_size, place)
    fixed = frozen.critic.input_size.fixed
    plan = CropPlan.from_config(crops if crops is not None else FIXED_SIZE_CROPS if fixed else None)
    generator = torch.Generator().manual_seed(plan.seed)
    with torch.no_grad():
        pairs = crop_pairs(sr.to(place), hr.to(place), plan, plan.size or fixed, generator)
        return float(torch.stack([frozen.score(a, b) for a, b in pairs]).mean())


def _named(function_name: str, critic: str) -> Callable[..., float]:
    def metric(
        img: np.ndarray,
        img2: np.ndarray | None = None,
        *,
        critic: str = critic,
        weights: str | None = "local",
        crop_border: int = 0,
        crops: Mapping[str, object] | int | None = None,
        device: str = "auto",
        critic_size: str = "full",
        better: str = "higher",
    ) -> float:
        return critic_metric(
            img,
            img2,
            critic=critic,
            weights=weights,
            crop_border=crop_border,
            crops=crops,
            device=device,
            critic_size=critic_size,
            better=better,
        )

    metric.__name__ = metric.__qualname__ = function_name
    metric.__doc__ = critic_metric.__doc__
    return metric


def register() -> None:
    """Put a metric per critic into METRIC_REGISTRY; a second call changes nothing."""
    names = {f"calculate_{critic}": critic for critic in list_critics()}
    for name, critic in {**names, "calculate_rqi": "rqi_maniqa"}.items():
        if name not in METRIC_REGISTRY:
            METRIC_REGISTRY.register(_named(name, critic))
        elif METRIC_REGISTRY.get(name).__module__ != __name__:
            logger.warning("BasicSR knows another metric %s already, which stays; ours is not registered.", name)


register()
