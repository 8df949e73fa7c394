"""The measures of ``srpl metrics``, and how each is computed for one image."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sr_perceptual_loss.checks import check_choice
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.registry import create_critic
from sr_perceptual_loss.critics.whole_image import score_whole_image, unit_range
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.lab.data.images import check_same_size, read_image, read_pixels
from sr_perceptual_loss.lab.evaluation import sfsn, sr_metrics
from sr_perceptual_loss.lab.evaluation.protocol import PROTOCOLS, score_pair

__all__ = ["COVERING", "METRICS", "Images", "Measure", "build_measures", "critic_measure", "reduced_reference_measure"]

#: Protocol of critics/whole_image.py: evenly spaced tiles that cover the image. The others are in protocol.py.
COVERING = "covering"

#: (sr, lr, scale) -> score; images (1, 3, H, W) RGB in [0, 1].
ReducedReference = Callable[[Tensor, Tensor, int], object]


@dataclass(frozen=True)
class Column:
    """What a number means."""

    better: str  # ``higher``, ``lower``, or empty where neither means better
    about: str  # how it is computed, for tables


@dataclass(frozen=True)
class Images:
    """One image of the set."""

    name: str  # file name, for messages
    sr: Tensor  # SR (distorted) image, (3, H, W) RGB in [0, 1], or uint8, which takes less memory; on the CPU
    hr: Tensor  # reference image, same shape
    lr: Tensor | None = None  # input of the SR network, (3, H / scale, W / scale), or None
    scale: int = 4  # of the SR network
    cut: bool = False  # whether the reference was cut to multiples of the scale

    @classmethod
    def read(cls, sr: Path, hr: Path, lr: Path | None, scale: int) -> Images:
        """Read the files of one image; ``lr`` may be None.

        A reference whose sides are not multiples of the scale is cut at the right and at the bottom if the SR image has
        the cut size: the usual way to make its LR image.

        Raises:
            InputError: unreadable, or sizes that do not match.
        """
        image, reference = (torch.from_numpy(read_pixels(path)).permute(2, 0, 1) for path in (sr, hr))
        height, width = (side // scale * scale for side in reference.shape[1:])
        cut = image.shape != reference.shape and tuple(image.shape[1:]) == (height, width)
        if cut:
            reference = reference[:, :height, :width]
        check_same_size(image, reference, names=(sr.name, hr.name))
        if lr is None:
            return cls(sr.name, image, reference, None, scale, cut)
        lr_image = read_image(lr)
        if [side * scale for side in lr_image.shape[1:]] != list(image.shape[1:]):
            sizes = " and ".join(f"{x.shape[2]}x{x.shape[1]}" for x in (lr_image, image))
            raise InputError(
                f"{lr.name} and {sr.name} have {sizes} pixels (width x height), expected the second {scale} times as "
                "large; check --scale and --lr."
            )
        return cls(sr.name, image, reference, lr_image, scale, cut)


@dataclass(frozen=True)
class Measure:
    """A computation that fills one or more columns."""

    columns: Mapping[str, Column]  # names with their meaning
    function: Callable[[Images], dict[str, float]]  # value of every column for one image
    digest: str = ""  # of the weights or the code that the values depend on; empty for a formula of this package

    def compute(self, images: Images) -> dict[str, float]:
        """Value of every column for one image.

        Raises:
            InputError: an image that the measure does not take; the message names the image.
            NonFiniteError: NaN, or an infinity that is not the PSNR of equal images.
        """
        try:
            values = self.function(images)
        except InputError as error:
            text = str(error)
            raise InputError(text if text.startswith(images.name) else f"{images.name}: {text}") from None
        for name, value in values.items():
            if not (math.isfinite(value) or (value == math.inf and name.startswith("psnr"))):
                raise NonFiniteError(f"{images.name}: {name} is {value}; the weights or the image are damaged.")
        return values


_Y = "BT.601 luma, studio range, not rounded, float64"
#: Every measure that needs no critic, by the name of its column.
METRICS: Mapping[str, Column] = {
    "psnr_y": Column("higher", f"dB, 8-bit images, {_Y}, border cut"),
    "ssim_y": Column("higher", f"11x11 Gaussian 1.5, valid positions, {_Y}, border cut"),
    "psnr_rgb": Column("higher", "dB, 8-bit RGB images, one mean over all channels, border cut"),
    "ssim_rgb": Column("higher", "11x11 Gaussian 1.5, valid positions, mean of the RGB channels, border cut"),
    "lpips_alex": Column("lower", "LPIPS v0.1, AlexNet, whole image"),
    "lpips_vgg": Column("lower", "LPIPS v0.1, VGG16, whole image"),
    "lpips_squeeze": Column("lower", "LPIPS v0.1, SqueezeNet 1.1, whole image"),
    "dists_vgg": Column("lower", "DISTS, VGG16, whole image, not resized"),
    "sf": Column("higher", "structural fidelity, unofficial port, whole image"),
    "sn": Column("", "statistical naturalness, unofficial port, whole image; rises with noise"),
    "sfsn": Column("", "0.9 SF + 0.1 SN, unofficial port, whole image; rises with noise"),
    "sfsn_1_9": Column("", "1.9 SF + 0.1 SN, unofficial port, whole image; rises with noise"),
}
#: Score of the critic for equal images; the published distance is this number minus the score.
_DISTANCES = {"lpips_alex": 0.0, "lpips_vgg": 0.0, "lpips_squeeze": 0.0, "dists_vgg": 1.0}
_SFSN = ("sf", "sn", "sfsn", "sfsn_1_9")


def build_measures(names: Sequence[str], *, border: int, device: str = "cpu") -> list[Measure]:
    """Measures by name.

    Args:
        names: of ``METRICS``, without repetition.
        border: pixels that PSNR and SSIM leave out on each side.
        device: where LPIPS and DISTS compute; the others use the CPU, PSNR and SSIM in float64.

    Raises:
        InputError: unknown or repeated name.
        WeightsError: the network of LPIPS or DISTS is not on this machine; the message says how to get it.
    """
    for name in names:
        check_choice("metrics (critics: --critic NAME)", name, tuple(METRICS))
        if names.count(name) > 1:
            raise InputError(f"metrics: got '{name}' twice; name each measure once.")
    family = [name for name in names if name in _SFSN]
    measures = [
        _distance(name, device) if name in _DISTANCES else _fidelity(name, border)
        for name in names
        if name not in family
    ]
    if family:  # one decomposition serves all four columns
        measures.append(Measure({name: METRICS[name] for name in family}, lambda images: _sfsn(images, family)))
    return measures


def _fidelity(name: str, border: int) -> Measure:
    kind, channel = name.split("_")
    function = sr_metrics.psnr if kind == "psnr" else sr_metrics.ssim_8bit
    return Measure({name: METRICS[name]}, lambda i: {name: function(i.sr, i.hr, border=border, channel=channel)})


def _distance(name: str, device: str) -> Measure:
    score = critic_measure(create_critic(name, device=device), device=device)
    best = _DISTANCES[name]
    return Measure({name: METRICS[name]}, lambda images: {name: best - score.function(images)[name]}, score.digest)


def _sfsn(images: Images, names: Sequence[str]) -> dict[str, float]:
    values = sfsn.sfsn(unit_range(images.sr), unit_range(images.hr))
    return {name: values[name] for name in names}


def critic_measure(critic: Critic, *, device: str = "cpu", protocol: str = COVERING) -> Measure:
    """The score of a critic in eval mode on ``device``, in a column of its name.

    ``protocol`` is ``covering``, or a name of ``PROTOCOLS`` (crops drawn with seed 0).

    Raises:
        InputError: unknown protocol.
    """
    name = critic.card.name
    check_choice("protocol", protocol, (COVERING, *PROTOCOLS))

    def function(images: Images) -> dict[str, float]:
        sr, hr = images.sr.to(device), images.hr.to(device)
        if protocol == COVERING:
            return {name: score_whole_image(critic, sr, hr, images.name)}
        return {name: score_pair(critic, unit_range(sr), unit_range(hr), PROTOCOLS[protocol], seed=0)}

    about = f"critic, protocol {protocol}" + " (seed 0)" * (protocol != COVERING)
    about += ", 0 = as good as the reference" * critic.card.relative + ", no border cut"
    return Measure({name: Column("higher", about)}, function, critic.digest())


def reduced_reference_measure(score: ReducedReference, source: str, *, device: str = "cpu") -> Measure:
    """A user's score from SR image, LR image and scale, such as PFIQA; the package has none of its own.

    ``source`` is how the user named it. The column is ``pfiqa``.
    """

    def function(images: Images) -> dict[str, float]:
        if images.lr is None:
            raise InputError(f"{source} needs the LR image; give --lr.")
        with torch.no_grad():
            value = score(unit_range(images.sr)[None].to(device), images.lr[None].to(device), images.scale)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool | Tensor) or not hasattr(value, "__float__"):
            raise InputError(
                f"{source} returned {type(value).__name__} {str(value)[:80]!r}, expected one number (a float, or a "
                "tensor of one element)."
            )
        return {"pfiqa": float(value)}

    column = Column("higher", f"user's function {source}, reduced reference (SR, LR, scale)")
    return Measure({"pfiqa": column}, function, _source_digest(score))


def _source_digest(function: ReducedReference) -> str:
    """SHA-256 of the source file; empty for a function without one."""
    try:
        file = Path(inspect.getsourcefile(function) or "")
    except TypeError:
        return ""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
