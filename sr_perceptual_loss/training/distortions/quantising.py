"""KADID-10k types 6 and 22: fewer colours with dithering, and fewer values. On the CPU, one image after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from sr_perceptual_loss.training.distortions.codecs import to_pictures, to_tensor
from sr_perceptual_loss.training.distortions.draws import Draws

__all__ = ["otsu_thresholds", "quantise_colours", "quantise_values", "variance_palette"]

Floats = npt.NDArray[np.float64]


def quantise_colours(image: Tensor, colours: float, draws: Draws) -> Tensor:
    """At most this many colours, chosen to keep the variance small, with Floyd-Steinberg dithering (Pillow's)."""
    results = []
    for picture in to_pictures(image):
        palette = variance_palette(np.asarray(picture).reshape(-1, 3), int(colours))
        holder = Image.new("P", (1, 1))
        # Pillow fills a short palette up with black; repeating the first colour adds none.
        full = np.concatenate([palette, np.repeat(palette[:1], 256 - len(palette), 0)])
        holder.putpalette(full.astype(np.uint8).tobytes())
        results.append(picture.quantize(palette=holder, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB"))
    return to_tensor(results, image)


def variance_palette(pixels: npt.NDArray[np.uint8], colours: int) -> Floats:
    """Mean colours of boxes: the box with the largest sum of squared deviations is cut where that falls the most.

    Args:
        pixels: (P, 3).
        colours: number of boxes; fewer where the picture has fewer colours.

    Returns:
        (C, 3) in 0..255.

    Source: the greedy, axis-parallel form of X. Wu, "Efficient statistical computations for optimal color
    quantization", Graphics Gems II, 1991.
    """
    boxes = [pixels]
    cuts = [_best_cut(pixels)]
    while len(boxes) < colours:
        worst = max(range(len(boxes)), key=lambda i: cuts[i][0])
        gain, axis, value = cuts[worst]
        if gain <= 0:
            break
        box, below = boxes[worst], boxes[worst][:, axis] <= value
        boxes[worst : worst + 1] = [box[below], box[~below]]
        cuts[worst : worst + 1] = [_best_cut(box[below]), _best_cut(box[~below])]
    return np.stack([box.mean(0) for box in boxes]).round()


def _best_cut(box: npt.NDArray[np.uint8]) -> tuple[float, int, int]:
    """(fall of the squared deviations, axis, last value below the cut); a fall of 0 where nothing can be cut."""
    best = (0.0, 0, 0)
    total = box.sum(0, dtype=np.float64)
    for axis in range(3):
        counts = np.bincount(box[:, axis], minlength=256).cumsum().astype(np.float64)
        sums = np.stack([np.bincount(box[:, axis], box[:, c], 256).cumsum() for c in range(3)])
        rest = counts[-1] - counts
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = (sums**2).sum(0) / counts + ((total[:, None] - sums) ** 2).sum(0) / rest
        gains = np.where((counts > 0) & (rest > 0), parts - (total**2).sum() / counts[-1], 0.0)
        value = int(gains.argmax())
        if gains[value] > best[0] + 1e-6:
            best = (float(gains[value]), axis, value)
    return best


def quantise_values(image: Tensor, thresholds: float, draws: Draws) -> Tensor:
    """Replace the values between two Otsu thresholds of the whole picture by the upper one; the ends become 0 and 1."""
    results = []
    for one in image:
        pixels = (one.detach() * 255).round().clamp(0, 255).to(torch.uint8)
        cuts = otsu_thresholds(np.bincount(pixels.cpu().numpy().ravel(), minlength=256), int(thresholds))
        # A threshold is the last value of its class: side "left" puts it into the class below.
        edges = torch.tensor(cuts, device=image.device, dtype=torch.uint8)
        levels = torch.tensor([0.0, *(cut / 255 for cut in cuts[1:]), 1.0], device=image.device, dtype=image.dtype)
        results.append(levels[torch.bucketize(pixels.contiguous(), edges)])
    return torch.stack(results)


def otsu_thresholds(histogram: npt.NDArray[np.int64], count: int) -> list[int]:
    """Thresholds that make the variance within the classes as small as it can be (exact, by dynamic programming).

    Args:
        histogram: (256,) counts.
        count: number of thresholds; fewer where the picture has too few values.

    Returns:
        Last value of each class but the last, ascending.

    Source: N. Otsu, 1979, several thresholds.
    """
    present = np.flatnonzero(histogram)
    weights = histogram[present].astype(np.float64)
    size = len(present)
    count = min(count, size - 1)
    if count < 1:
        return [int(present[0])]
    moments = [np.concatenate(([0.0], np.cumsum(weights * present**k))) for k in range(3)]
    # cost[i, j]: squared deviations of the values i..j-1 from their mean.
    n, s, q = (m[None, :] - m[:, None] for m in moments)
    cost = np.where(n > 0, q - s**2 / np.where(n > 0, n, 1), np.inf)
    best, choices = cost[0], []
    for _ in range(count):
        options = best[:, None] + cost
        choices.append(options.argmin(0))
        best = options.min(0)
    ends, at = [], size
    for choice in reversed(choices):
        at = int(choice[at])
        ends.append(int(present[at - 1]))
    return ends[::-1]
