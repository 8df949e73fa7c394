"""What the guard looks at beside the critic: fidelity, appearance, and how the critic compares with the reference.

Fidelity is taken relative to that of a blurred reference, so that an easier batch does not look like progress.
High-frequency energy and patterns of a fixed period and phase are compared with those of the reference. Agreement among
learned critics is no evidence of quality, so none is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.haarpsi import haarpsi
from sr_perceptual_loss.losses.distributed import world_size
from sr_perceptual_loss.monitor.spectrum import high_frequency_ratio, periodic_excess
from sr_perceptual_loss.ops.ssim import ssim

__all__ = ["FIDELITY", "appearance", "fidelity", "mean_over_ranks", "opinions"]

FIDELITY = ("psnr", "ssim", "haarpsi")


def _psnr(sr: Tensor, hr: Tensor) -> Tensor:
    return -10 * (sr - hr).square().mean((1, 2, 3)).clamp(min=1e-6).log10()


#: name -> (measure, smallest side).
_MEASURES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "psnr": (_psnr, 4),
    "ssim": (ssim, 11),
    "haarpsi": (haarpsi, 16),
}


def fidelity(sr: Tensor, hr: Tensor, names: Sequence[str] = FIDELITY) -> dict[str, tuple[float, float]]:
    """PSNR (dB), SSIM and HaarPSI, mean over the batch, each also as the gain over a blurred reference.

    Args:
        sr: judged images, (N, 3, H, W) RGB; clamped to [0, 1].
        hr: reference images, same shape.
        names: which of ``psnr``, ``ssim``, ``haarpsi``; those that need larger images than these are left out.

    Returns:
        name -> (value, value - value of ``hr`` averaged over 4x4 and enlarged again). The second hardly depends on how
        difficult the pictures are. PSNR is cut off at 60 dB.
    """
    x, y = (image.detach().float().clamp(0, 1) for image in (sr, hr))
    side = min(x.shape[-2:])
    found = {}
    for name in names:
        measure, minimum = _MEASURES[name]
        if side < minimum:
            continue
        with torch.autocast(device_type=y.device.type, enabled=False):
            blurred = F.interpolate(F.avg_pool2d(y, 4), size=y.shape[-2:], mode="bilinear", align_corners=False)
            value, easy = measure(x, y).mean(), measure(blurred, y).mean()
            found[name] = (float(value), float(value - easy))
    return found


def appearance(sr: Tensor, hr: Tensor, periods: Sequence[int]) -> dict[str, float]:
    """How far high-frequency energy and periodic patterns are from those of the reference; lower is better.

    Args:
        sr: judged images, (N, 3, H, W) RGB; clamped to [0, 1].
        hr: reference images, same shape.
        periods: of patterns, in pixels.

    Returns:
        ``hf_over`` and ``hf_under``: max(0, +-log2 of the energy ratio); ``period_<p>``: root mean square of the
        pattern in 8-bit levels.
    """
    x, y = (image.detach().float().clamp(0, 1) for image in (sr, hr))
    fine = math.log2(float(high_frequency_ratio(x, y)))
    found = {"hf_over": max(0.0, fine), "hf_under": max(0.0, -fine)}
    for period, rms in periodic_excess(x, y, periods).items():
        found[f"period_{period}"] = 255 * float(rms)
    return found


def opinions(scores: Mapping[str, Tensor], gt_scores: Mapping[str, Tensor | None]) -> dict[str, float]:
    """What the critics think.

    Args:
        scores: name -> (N,) scores of (sr, hr).
        gt_scores: name -> (N,) scores of (hr, hr), or None.

    Returns:
        ``score <name>`` and ``spread <name>``: mean and standard deviation over images, relative to the reference where
        its score is known, so that what a critic thinks of the content cancels; ``over_gt <name>``: share of images
        that score above their reference.
    """
    found = {}
    for name, score in scores.items():
        score, ceiling = score.detach().float(), gt_scores.get(name)
        if ceiling is not None:
            score = score - ceiling.detach().float()
            found[f"over_gt {name}"] = float((score > 0).float().mean())
        found[f"score {name}"] = float(score.mean())
        found[f"spread {name}"] = float(score.std()) if len(score) > 1 else 0.0
    return found


def mean_over_ranks(values: dict[str, float], device: torch.device, weight: float = 1.0) -> dict[str, float]:
    """The same numbers, so the same decision, on every rank; all ranks check in the same iteration.

    Args:
        values: numbers by name, the same names on every rank.
        device: where the process group works.
        weight: of this rank; 0 where it saw nothing.

    Returns:
        Their weighted means; the argument itself where nothing is distributed.
    """
    if world_size() == 1:
        return values
    names = sorted(values)
    total = torch.tensor([*(weight * values[name] for name in names), weight], dtype=torch.float32, device=device)
    torch.distributed.all_reduce(total)
    return dict(zip(names, (total[:-1] / total[-1]).tolist(), strict=True))
