"""What the guard measures: the critics' scores, fidelity, high-frequency energy, patterns, dots, and colour.

Fidelity is taken relative to that of a blurred reference, so that an easier batch does not look like progress. All the
others are compared with the reference. The only learned critic is DISTS with the network in this package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.haarpsi import haarpsi
from sr_perceptual_loss.critics.registry import create_critic
from sr_perceptual_loss.losses.distributed import mean_over_ranks, world_size
from sr_perceptual_loss.monitor.dots import SMALLEST, dot_maps, dotted_share, worst_places
from sr_perceptual_loss.monitor.spectrum import high_frequency_ratio, periodic_excess
from sr_perceptual_loss.ops.ssim import ssim

__all__ = ["CLEAN", "FIDELITY", "LIMITS", "MEASURES", "average_over_ranks", "colour_shift", "fidelity", "measure"]

FIDELITY = ("psnr", "ssim", "haarpsi", "dists")
#: Every measure that can be switched off.
MEASURES = (*FIDELITY, "hf", "grid", "dots", "colour", "over_gt")
#: How much worse than at its best a measure must be to count, and what an alarm says. psnr is in dB; hf and dots are
#: base-2 logarithms; grid and colour are 8-bit levels; over_gt is a share of the images. ``tolerance`` multiplies the
#: limits of fidelity.
LIMITS = {
    "psnr": (1.0, "PSNR fell by {worse:.1f} dB"),
    "ssim": (0.03, "SSIM fell by {worse:.3f}"),
    "haarpsi": (0.03, "HaarPSI fell by {worse:.3f}"),
    "dists": (0.06, "DISTS fell by {worse:.3f}"),
    "hf_over": (math.log2(1.3), "high-frequency energy became {times:.2g} times that of the GT"),
    "hf_under": (1.0, "high-frequency energy became {fraction:.2g} times that of the GT"),
    "grid": (1.0, "a pattern of period {period} appeared ({now:.1f} of 255 levels)"),
    "dots": (1.0, "dots on the output grid appeared (on {share:.0%} of the area)"),
    "colour": (2.0, "colours moved away from those of the GT ({now:.1f} of 255 levels)"),
    "over_gt": (0.5, "{now:.0%} of the images scored above their ground truth"),
}
#: Share of the area with visible dots that a network without dots has at most.
CLEAN = 0.02
#: The most images, and their largest side, that DISTS sees: 0.1 s on one core.
DISTS_IMAGES, DISTS_SIDE = 4, 96


def _psnr(sr: Tensor, hr: Tensor) -> Tensor:
    return -10 * (sr - hr).square().mean((1, 2, 3)).clamp(min=1e-6).log10()


@cache
def _judge(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """DISTS in its inference form; built at the first check, in half a second."""
    return create_critic("dists", device=device).inference_form().score


def _dists(sr: Tensor, hr: Tensor) -> Tensor:
    return _judge(hr.device)(*(image[:DISTS_IMAGES, :, :DISTS_SIDE, :DISTS_SIDE] for image in (sr, hr)))


#: name -> (function, smallest side of an image).
_FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "psnr": (_psnr, 4),
    "ssim": (ssim, 11),
    "haarpsi": (haarpsi, 16),
    "dists": (_dists, 32),
}


@torch.no_grad()
def fidelity(sr: Tensor, hr: Tensor, names: Collection[str] = FIDELITY) -> dict[str, tuple[float, float]]:
    """PSNR (dB), SSIM, HaarPSI and DISTS, mean over the batch, each also as the gain over a blurred reference.

    Args:
        sr: SR images, (N, 3, H, W) RGB; clamped to [0, 1].
        hr: reference images, same shape.
        names: which of ``psnr``, ``ssim``, ``haarpsi``, ``dists``; those that need larger images are left out.

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


def colour_shift(sr: Tensor, hr: Tensor) -> Tensor:
    """max(root mean square over channels of the change of the mean, change of the mean of max - min over channels).

    The second is the change of saturation. Means over 8x8 pixels come first, so that only the colour of areas counts.

    Args:
        sr: SR images, (N, 3, H, W) RGB in [0, 1], sides >= 8.
        hr: reference images, same shape.

    Returns:
        (N,) >= 0, in 8-bit levels; 0.1 to 0.5 for L1 and GAN networks, 4 when colours are 10 % stronger.
    """
    x, y = (F.avg_pool2d(image, 8) for image in (sr, hr))
    cast = (x - y).mean((2, 3)).square().mean(1).sqrt()
    saturation = ((x.amax(1) - x.amin(1)) - (y.amax(1) - y.amin(1))).mean((1, 2)).abs()
    return 255 * torch.maximum(cast, saturation)


def measure(
    sr: Tensor,
    hr: Tensor,
    scores: Mapping[str, Tensor],
    gt_scores: Mapping[str, Tensor | None],
    off: Collection[str] = (),
) -> tuple[dict[str, float], dict[str, float], list[tuple[int, int, int, float]]]:
    """All values that one check measures, except those in ``off``.

    Args:
        sr: SR images, (N, 3, H, W) RGB in [0, 1].
        hr: reference images, same shape.
        scores: name of the loss -> (N,) scores of (sr, hr).
        gt_scores: name of the loss -> (N,) scores of (hr, hr), or None.
        off: measures to leave out; names that are not in :data:`MEASURES` are ignored.

    Returns:
        Two mappings and the places of the strongest dots. The first mapping is for decisions:

        * ``score <name>`` and ``spread <name>``: mean of the scores over images and its standard error, relative to the
          score of the reference if that is known, so that the influence of the content cancels;
        * lower is better: ``over_gt <name>``: share of images that score above their reference; ``psnr``, ``ssim``,
          ``haarpsi``, ``dists``: minus the gain; ``hf_over`` and ``hf_under``: max(0, +-log2 of the high-frequency
          energy ratio); ``period_<p>``: root mean square of the pattern in 8-bit levels; ``dots``: log2(1 + share of
          the area with visible dots / 0.02); ``colour``: change of colour in 8-bit levels.

        The second is for logs only: the value of each fidelity measure, the share ``dots``, and ``overshoot``, the
        share of the values of ``sr`` outside of [0, 1].
    """
    x, y = (image.detach().float().clamp(0, 1) for image in (sr, hr))
    results = fidelity(x, y, [name for name in FIDELITY if name not in off])
    measured = {name: -gain for name, (_, gain) in results.items()}
    if "hf" not in off:
        log_ratio = math.log2(float(high_frequency_ratio(x, y)))
        measured |= {"hf_over": max(0.0, log_ratio), "hf_under": max(0.0, -log_ratio)}
    if "grid" not in off:
        measured |= {f"period_{period}": 255 * float(rms) for period, rms in periodic_excess(x, y).items()}
    logged = {name: value for name, (value, _) in results.items()}
    logged["overshoot"] = float(((sr < 0) | (sr > 1)).float().mean())
    places: list[tuple[int, int, int, float]] = []
    with torch.autocast(device_type=y.device.type, enabled=False):
        if "dots" not in off and min(y.shape[-2:]) >= SMALLEST:
            maps = dot_maps(x, y)
            logged["dots"], places = dotted_share(maps), worst_places(maps)
            measured["dots"] = math.log2(1 + logged["dots"] / CLEAN)
        if "colour" not in off and min(y.shape[-2:]) >= 8:
            measured["colour"] = float(colour_shift(x, y).mean())
    for name, score in scores.items():
        score, gt_score = score.detach().float(), gt_scores.get(name)
        if gt_score is not None:
            score = score - gt_score.detach().float()
            if "over_gt" not in off:
                measured[f"over_gt {name}"] = float((score > 0).float().mean())
        measured[f"score {name}"] = float(score.mean())
        measured[f"spread {name}"] = float(score.std()) / len(score) ** 0.5 if len(score) > 1 else 0.0
    return measured, logged, places


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
