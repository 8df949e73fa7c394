"""What is measured on SR images: fidelity, similarity, sharpness, patterns, dots and colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.haarpsi import haarpsi
from sr_perceptual_loss.critics.texture_stats.bands import pyramid
from sr_perceptual_loss.lab.evaluation.sr_metrics import psnr, ssim_8bit
from sr_perceptual_loss.monitor.dots import dot_maps, dotted_share
from sr_perceptual_loss.monitor.measures import colour_shift
from sr_perceptual_loss.ops.lattice import lattice_contrast
from trials.peaks import spectral_peaks

__all__ = ["PERIODS", "detail", "measure"]

PERIODS = (2, 3, 4)
#: Of the cells whose phases are compared: that of a x4 head.
CELL = 4
BORDER = 4


def detail(image: Tensor) -> Tensor:
    """Standard deviation of luma less its 3x3 binomial mean, (N,): an amplitude, not an energy.

    Bicubic x4 has about a fifth of GT's.
    """
    luma = (image * image.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)).sum(1, keepdim=True)
    row = image.new_tensor((0.25, 0.5, 0.25))
    smooth = F.conv2d(F.pad(luma, (1, 1, 1, 1), mode="reflect"), torch.outer(row, row).view(1, 1, 3, 3))
    return (luma - smooth).flatten(1).std(1)


def _score_of_gt(critic: Critic, hr: Tensor) -> float:
    if critic.card.relative:
        return 0.0
    # A formula gives its highest score to equal images.
    return float(critic.score(hr, hr)) if critic.card.needs_weights else critic.card.score_range[1]


@torch.no_grad()
def measure(
    images: Mapping[str, Tensor], references: Sequence[tuple[str, Tensor]], critic: Critic | None = None
) -> dict[str, float]:
    """Means over images of PSNR-Y, SSIM-Y, HaarPSI, high-frequency ratio, spectral peaks and the critic's score.

    Args:
        images: name -> SR, (1, 3, H, W) RGB in [0, 1].
        references: (name, GT of the same size).
        critic: adds ``score`` and ``above_gt``, the share of images with a score above 0 (relative critics), or above
            that of GT itself.

    Returns:
        Measure -> number; ``hf_ratio`` is mean :func:`detail` over that of GT, ``peak_2`` .. ``peak_4`` the largest
        ratio of a grid frequency to its surroundings in the mean spectrum of all images, ``lattice`` the mean
        :func:`~sr_perceptual_loss.ops.lattice.lattice_contrast` of luma (photographs: about 0.12), ``dots`` the share
        of the area with visible dots, ``colour`` the change of colour in 8-bit levels.
    """
    rows: list[dict[str, float]] = []
    peaks = []
    for name, hr in references:
        sr = images[name].clamp(0, 1)
        cut = (slice(None), slice(None), slice(BORDER, -BORDER), slice(BORDER, -BORDER))
        row = {"psnr_y": psnr(sr[0], hr[0], border=BORDER), "ssim_y": ssim_8bit(sr[0], hr[0], border=BORDER)}
        row["haarpsi"] = float(haarpsi(sr[cut], hr[cut]))
        if critic is not None:
            row["score"] = float(critic.score(sr[cut], hr[cut]))
            best = _score_of_gt(critic, hr[cut])
            row["above_gt"] = float(row["score"] > best + 1e-6)
        row["lattice"] = float(lattice_contrast(pyramid(sr[cut], 1)[0].detail[:, :1], CELL).mean())
        row["dots"], row["colour"] = dotted_share(dot_maps(sr[cut], hr[cut])), float(colour_shift(sr[cut], hr[cut]))
        row["hf_sr"], row["hf_hr"] = float(detail(sr)), float(detail(hr))
        rows.append(row)
        peaks.append({period: float(value) for period, value in spectral_peaks(sr[cut], PERIODS).items()})
    means = {key: fmean(row[key] for row in rows) for key in rows[0]}
    means["hf_ratio"] = means.pop("hf_sr") / means.pop("hf_hr")
    means.update({f"peak_{period}": fmean(p[period] for p in peaks) for period in PERIODS})
    return means
