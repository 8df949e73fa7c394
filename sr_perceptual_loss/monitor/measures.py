"""What the guard measures: the critics' scores, fidelity, high-frequency energy, and patterns.

Fidelity is taken relative to that of a blurred reference, so that an easier batch does not look like progress.
High-frequency energy and patterns of a fixed period and phase are compared with those of the reference. Other learned
critics are not used, since a network that exploits one critic often raises the scores of others too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.haarpsi import haarpsi
from sr_perceptual_loss.losses.distributed import mean_over_ranks, world_size
from sr_perceptual_loss.monitor.spectrum import high_frequency_ratio, periodic_excess
from sr_perceptual_loss.ops.ssim import ssim

__all__ = ["FIDELITY", "MEASURES", "average_over_ranks", "fidelity", "measure"]

FIDELITY = ("psnr", "ssim", "haarpsi")
#: Every measure that can be switched off.
MEASURES = (*FIDELITY, "hf", "grid", "over_gt")


def _psnr(sr: Tensor, hr: Tensor) -> Tensor:
    return -10 * (sr - hr).square().mean((1, 2, 3)).clamp(min=1e-6).log10()


#: name -> (function, smallest side of an image).
_FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "psnr": (_psnr, 4),
    "ssim": (ssim, 11),
    "haarpsi": (haarpsi, 16),
}


def fidelity(sr: Tensor, hr: Tensor, names: Collection[str] = FIDELITY) -> dict[str, tuple[float, float]]:
    """PSNR (dB), SSIM and HaarPSI, mean over the batch, each also as the gain over a blurred reference.

    Args:
        sr: SR images, (N, 3, H, W) RGB; clamped to [0, 1].
        hr: reference images, same shape.
        names: which of ``psnr``, ``ssim``, ``haarpsi``; those that need larger images are left out.

    Returns:
        name -> (value, gain), gain = value minus the value of ``hr`` after 4x4 averaging and bilinear enlargement. The
        gain depends little on how difficult the images are. PSNR is limited to 60 dB.
    """
    x, y = (image.detach().float().clamp(0, 1) for image in (sr, hr))
    results = {}
    for name in names:
        function, smallest = _FUNCTIONS[name]
        if min(x.shape[-2:]) < smallest:
            continue
        with torch.autocast(device_type=y.device.type, enabled=False):
            blurred = F.interpolate(F.avg_pool2d(y, 4), size=y.shape[-2:], mode="bilinear", align_corners=False)
            value, baseline = function(x, y).mean(), function(blurred, y).mean()
            results[name] = (float(value), float(value - baseline))
    return results


def measure(
    sr: Tensor,
    hr: Tensor,
    scores: Mapping[str, Tensor],
    gt_scores: Mapping[str, Tensor | None],
    off: Collection[str] = (),
) -> tuple[dict[str, float], dict[str, float]]:
    """All values that one check measures, except those in ``off``.

    Args:
        sr: SR images, (N, 3, H, W) RGB in [0, 1].
        hr: reference images, same shape.
        scores: name of the loss -> (N,) scores of (sr, hr).
        gt_scores: name of the loss -> (N,) scores of (hr, hr), or None.
        off: measures to leave out; names that are not in :data:`MEASURES` are ignored.

    Returns:
        Two mappings. The first is for decisions:

        * ``score <name>`` and ``spread <name>``: mean and standard deviation of the scores over images, relative to the
          score of the reference if that is known, so that the influence of the content cancels;
        * lower is better: ``over_gt <name>``: share of images that score above their reference; ``psnr``, ``ssim``,
          ``haarpsi``: minus the gain; ``hf_over`` and ``hf_under``: max(0, +-log2 of the high-frequency energy ratio);
          ``period_<p>``: root mean square of the pattern in 8-bit levels.

        The second is for logs only: the value of each fidelity measure, and ``overshoot``, the share of the values of
        ``sr`` outside of [0, 1].
    """
    x, y = (image.detach().float().clamp(0, 1) for image in (sr, hr))
    results = fidelity(x, y, [name for name in FIDELITY if name not in off])
    measured = {name: -gain for name, (_, gain) in results.items()}
    if "hf" not in off:
        log_ratio = math.log2(float(high_frequency_ratio(x, y)))
        measured |= {"hf_over": max(0.0, log_ratio), "hf_under": max(0.0, -log_ratio)}
    if "grid" not in off:
        measured |= {f"period_{period}": 255 * float(rms) for period, rms in periodic_excess(x, y).items()}
    for name, score in scores.items():
        score, gt_score = score.detach().float(), gt_scores.get(name)
        if gt_score is not None:
            score = score - gt_score.detach().float()
            if "over_gt" not in off:
                measured[f"over_gt {name}"] = float((score > 0).float().mean())
        measured[f"score {name}"] = float(score.mean())
        measured[f"spread {name}"] = float(score.std()) if len(score) > 1 else 0.0
    logged = {name: value for name, (value, _) in results.items()}
    logged["overshoot"] = float(((sr < 0) | (sr > 1)).float().mean())
    return measured, logged


def average_over_ranks(values: dict[str, float], device: torch.device, *, counts: bool = True) -> dict[str, float]:
    """Means over the ranks, so that all ranks decide the same. A collective call: all ranks have to make it.

    Args:
        values: numbers by name, the same names on every rank.
        device: device of the process group.
        counts: False on a rank that has no images; its numbers are ignored.

    Returns:
        Means over the ranks that count, NaN if there is none; ``values`` itself in a single process.
    """
    if world_size() == 1:
        return values
    names = sorted(values)
    sums = [values[name] if counts else 0.0 for name in names] + [float(counts)]
    *means, any_counts = mean_over_ranks(torch.tensor(sums, dtype=torch.float32, device=device), int(counts)).tolist()
    return {name: value if any_counts else math.nan for name, value in zip(names, means, strict=True)}
