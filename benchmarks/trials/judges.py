"""Measures of each SR image by many judges, for comparisons in which a loss must not be its own judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sr_perceptual_loss import create_critic
from sr_perceptual_loss.lab.evaluation.sr_metrics import psnr, ssim_8bit
from sr_perceptual_loss.monitor.dots import dot_maps, dotted_share
from sr_perceptual_loss.monitor.measures import colour_shift
from trials.measures import BORDER, PERIODS, detail
from trials.peaks import WINDOW, spectral_peaks

__all__ = ["BETTER", "CRITICS", "judge"]

#: Critics that judge; the trunks of the published LPIPS and DISTS need a download.
CRITICS = ("haarpsi", "lpips", "dists", "ssimulacra2", "texture_stats")
#: Judge -> 1 if higher is better, -1 if lower is better, 0 if 1 is best (compared with GT or with the surroundings).
BETTER = {
    **dict.fromkeys(("psnr_y", "ssim_y", *CRITICS), 1),
    **dict.fromkeys(("niqe", "dots", "colour"), -1),
    **dict.fromkeys(("detail", *(f"peak_{period}" for period in PERIODS)), 0),
}


@torch.no_grad()
def judge(images: Mapping[str, Tensor], references: Sequence[tuple[str, Tensor]]) -> dict[str, dict[str, float]]:
    """Image -> judge -> value, without the outer four pixels.

    Args:
        images: name -> SR, (1, 3, H, W) RGB in [0, 1], in 8-bit steps.
        references: (name, GT of the same size).

    Returns:
        Values by the names of :data:`BETTER`. Spectral peaks of one image are noisier than those of many.
    """
    critics = {name: create_critic(name) for name in CRITICS}
    found = {}
    for name, hr in references:
        sr = images[name]
        cut = (slice(None), slice(None), slice(BORDER, -BORDER), slice(BORDER, -BORDER))
        a, b = sr[cut], hr[cut]
        row = {"psnr_y": psnr(sr[0], hr[0], border=BORDER), "ssim_y": ssim_8bit(sr[0], hr[0], border=BORDER)}
        row |= {critic: float(form.score(a, b)) for critic, form in critics.items()}
        row |= {"niqe": niqe(sr), "dots": dotted_share(dot_maps(a, b)), "colour": float(colour_shift(a, b))}
        row["detail"] = float(detail(sr) / detail(hr).clamp_min(1e-6))
        peaks = spectral_peaks(a, PERIODS) if min(a.shape[-2:]) >= WINDOW else {}
        row |= {f"peak_{period}": float(value) for period, value in peaks.items()}
        found[name] = row
    return found


def niqe(image: Tensor) -> float:
    """NIQE of BasicSR on luma; lower is better. NaN below 104 pixels, where there is no block of 96."""
    from sr_perceptual_loss.integrations.basicsr_shim import install_shims

    install_shims()
    from basicsr.metrics.niqe import calculate_niqe

    if min(image.shape[-2:]) < 96 + 2 * BORDER:
        return float("nan")
    pixels = (image[0] * 255).round().permute(1, 2, 0).flip(2).numpy()
    return float(calculate_niqe(pixels, crop_border=BORDER, input_order="HWC", convert_to="y"))
