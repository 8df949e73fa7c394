"""The 25 types of KADID-10k with the parameters of its published generator.

Source: H. Lin, V. Hosu, D. Saupe, "KADID-10k: A Large-scale Artificially Distorted IQA Database", QoMEX 2019; the
parameters are those of the generator that the authors published with KADIS-700k; details that its parameters leave open
(geometry of patches, blend maps) were compared with the public re-implementation in ARNIQA. Own code throughout. Where
it differs:

* 15 denoise: DCT thresholding in place of MATLAB's pre-trained DnCNN.
* 6 colour quantisation: greedy variance cuts; MATLAB's own rule is not published.
* 9, 10: Pillow's codecs (OpenJPEG, libjpeg-turbo) in place of MATLAB's.
* 3 motion blur: the direction is not among the published parameters; it is drawn at random.
* A picture that does not fill [0, 1] keeps its range, see :func:`~.registry.stretched`.
* 20, 23: counts scale with the area.

Levels are in published order, which is not severity everywhere: 18 (mean shift) and 25 (contrast) run from plus to
minus with their neutral value at level 3. Nor is every neutral value the identity: 3 at level 1 (a line of one pixel)
and 8 at level 1 are (but for rounding), 18 at level 3 is, 25 at level 3 still is an S-curve.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sr_perceptual_loss.training.distortions import blurs, codecs, colours, noises, quantising, spatial, tones
from sr_perceptual_loss.training.distortions.registry import Distortion, apply_distortion

__all__ = ["DISTORTIONS", "distort"]

_TABLE = (
    Distortion(1, "gaussian blur", (0.1, 0.5, 1, 2, 5), blurs.blur_gaussian),
    Distortion(2, "lens blur", (1, 2, 4, 6, 8), blurs.blur_lens),
    Distortion(3, "motion blur", (1, 2, 4, 6, 10), blurs.blur_motion),
    Distortion(4, "colour diffusion", (1, 3, 6, 8, 12), colours.diffuse_colour),
    Distortion(5, "colour shift", (1, 3, 6, 8, 12), colours.shift_colour),
    Distortion(6, "colour quantisation", (64, 48, 32, 16, 8), quantising.quantise_colours),
    Distortion(7, "saturation hsv", (0.4, 0.2, 0.1, 0, -0.4), colours.saturate_hsv),
    Distortion(8, "saturation lab", (1, 2, 3, 6, 9), colours.saturate_lab),
    Distortion(9, "jpeg2000", (16, 32, 45, 120, 400), codecs.compress_jpeg2000),
    Distortion(10, "jpeg", (43, 36, 24, 7, 4), codecs.compress_jpeg),
    Distortion(11, "white noise", (0.001, 0.002, 0.003, 0.005, 0.01), noises.add_white_noise),
    Distortion(12, "white noise in ycbcr", (0.0001, 0.0005, 0.001, 0.002, 0.003), noises.add_white_noise_ycbcr),
    Distortion(13, "impulse noise", (0.001, 0.005, 0.01, 0.02, 0.03), noises.impulse_noise),
    Distortion(14, "multiplicative noise", (0.001, 0.005, 0.01, 0.02, 0.05), noises.multiplicative_noise),
    Distortion(15, "denoising", (0.01, 0.03, 0.05, 0.1, 0.15), noises.denoise),
    Distortion(16, "brighten", (0.1, 0.2, 0.4, 0.7, 1.1), tones.brighten),
    Distortion(17, "darken", (0.05, 0.1, 0.2, 0.4, 0.8), tones.darken),
    Distortion(18, "mean shift", (0.15, 0.08, 0, -0.08, -0.15), tones.shift_mean),
    Distortion(19, "jitter", (0.05, 0.1, 0.2, 0.5, 1), spatial.jitter),
    Distortion(20, "non-eccentricity patch", (20, 40, 60, 80, 100), spatial.misplaced_patches),
    Distortion(21, "pixelate", (0.01, 0.05, 0.1, 0.2, 0.5), spatial.pixelate),
    Distortion(22, "quantisation", (20, 16, 13, 10, 7), quantising.quantise_values),
    Distortion(23, "colour block", (2, 4, 6, 8, 10), spatial.colour_blocks),
    Distortion(24, "high sharpen", (1, 2, 3, 6, 12), spatial.sharpen),
    Distortion(25, "contrast change", (0.3, 0.15, 0, -0.4, -0.6), tones.change_contrast),
)

#: KADID-10k number -> distortion. The names are those that the KADID-10k reader gives (LabelSet.rated[i].distortion).
DISTORTIONS: dict[int, Distortion] = {d.number: d for d in _TABLE}


def distort(image: Tensor, kind: int | str, level: int, generator: torch.Generator) -> Tensor:
    """Apply one of the 25 types to a batch; see :func:`~.registry.apply_distortion` for the arguments.

    Example:
        >>> blurred = distort(torch.rand(2, 3, 64, 64), "gaussian blur", 4, torch.Generator().manual_seed(0))
    """
    return apply_distortion(DISTORTIONS, image, kind, level, generator)
