"""What super-resolution does to pictures, in the form of the KADID-10k table; there are no human scores of these.

Each family has five levels, ordered from mild to strong; the parameters are ours. The outputs of a given network come
from :func:`~.sr_upscaling.network_output`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sr_perceptual_loss.training.distortions import sr_artifacts as marks
from sr_perceptual_loss.training.distortions import sr_upscaling as scaling
from sr_perceptual_loss.training.distortions.registry import Distortion, apply_distortion

__all__ = ["SR_DISTORTIONS", "distort_sr"]

_SCALES = (1.5, 2.0, 3.0, 4.0, 8.0)
_AMPLITUDES = (1 / 255, 2 / 255, 5 / 255, 10 / 255, 20 / 255)

_TABLE = (
    Distortion(101, "nearest enlarged", _SCALES, scaling.upscaled("nearest"), False),
    Distortion(102, "bilinear enlarged", _SCALES, scaling.upscaled("bilinear"), False),
    Distortion(103, "bicubic enlarged", _SCALES, scaling.upscaled("bicubic"), False),
    Distortion(104, "lanczos enlarged", _SCALES, scaling.upscaled("lanczos"), False),
    Distortion(105, "aliasing", (1.25, 1.5, 2, 3, 4), scaling.aliased, False),
    Distortion(106, "stairs", (1.5, 2, 3, 4, 6), scaling.stairs, False),
    Distortion(107, "back-projection", (1, 2, 4, 8, 16), scaling.back_projected, False),
    Distortion(108, "over-sharpened", (0.5, 1, 2, 4, 8), scaling.over_sharpened, False),
    Distortion(109, "over-smoothed", (1.5, 2, 3, 4, 6), scaling.over_smoothed, False),
    Distortion(110, "second-order degradation", (0.5, 1, 1.5, 2, 3), scaling.second_order_degraded, False),
    Distortion(111, "jpeg enlarged", (90, 70, 50, 30, 10), scaling.upscaled_jpeg, False),
    Distortion(112, "low-pass ringing", (0.8, 0.6, 0.45, 0.3, 0.15), marks.low_passed, False),
    Distortion(113, "checkerboard of period 2", _AMPLITUDES, marks.checkerboard_2, False),
    Distortion(114, "checkerboard of period 4", _AMPLITUDES, marks.checkerboard_4, False),
    Distortion(115, "seams", _AMPLITUDES, marks.seams, False),
    Distortion(116, "waves", _AMPLITUDES, marks.waves, False),
    Distortion(117, "high-frequency noise", _AMPLITUDES, marks.high_frequency_noise, False),
    Distortion(118, "hallucinated texture", (0.25, 0.5, 1, 1.5, 2.5), marks.hallucinated_texture, False),
    Distortion(119, "warped detail", (0.25, 0.5, 1, 2, 4), marks.warped_detail, False),
)

#: Number -> SR family.
SR_DISTORTIONS: dict[int, Distortion] = {d.number: d for d in _TABLE}


def distort_sr(image: Tensor, kind: int | str, level: int, generator: torch.Generator) -> Tensor:
    """Apply one of the SR families to a batch; see :func:`~.registry.apply_distortion` for the arguments."""
    return apply_distortion(SR_DISTORTIONS, image, kind, level, generator)
