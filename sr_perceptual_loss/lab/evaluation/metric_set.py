"""The columns of ``srpl metrics``: which measures there are, and how each computes its value for one image."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sr_perceptual_loss.checks import check_choice
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.whole_image import check_same_size, score_whole_image
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.lab.data.images import read_image
from sr_perceptual_loss.lab.evaluation import lpips_dists, sfsn, sr_metrics

__all__ = [
    "COVERING",
    "METRICS",
    "Column",
    "Images",
    "Measure",
    "ReducedReference",
    "build_measures",
    "critic_measure",
    "digest_of",
    "reduced_reference_measure",
]

#: Name of the way in which `srpl score` treats fixed-size critics; the others are in evaluation/protocol.py.
COVERING = "covering"

#: (sr, lr, scale) -> score; images (1, 3, H, W) RGB in [0, 1].
ReducedReference = Callable[[Tensor, Tensor, int], object]


@dataclass(frozen=True)
class Column:
    """What a number means.

    Attributes:
        better: ``higher``, ``lower``, or empty where neither is.
        about: the convention, in words.
    """

    better: str
    about: str


@dataclass(frozen=True)
class Images:
    """One image of the set.

    Attributes:
        name: file name, for messages.
        sr: judged image, (3, H, W) RGB in [0, 1], on the CPU.
        hr: reference, same shape.
        lr: input of the SR network, (3, H / scale, W / scale), or None.
        scale: enlargement.
        cut: whether the reference lost the rows and columns that no multiple of the scale covers.
    """

    name: str
    sr: Tensor
    hr: Tensor
    lr: Tensor | None = None
    scale: int = 4
    cut: bool = False

    @classmethod
    def read(cls, sr: Path, hr: Path, lr: Path | None, scale: int) -> Images:
        """Read the files of one image.

        A reference whose sides are no multiples of the scale is cut at the right and at the bottom if the SR image is
        that much smaller: SR of an LR image made from the cut reference, as is usual.

        Raises:
            InputError: unreadable, or sizes that do not belong together.
        """
        image, reference = read_image(sr), read_image(hr)
        height, width = (side // scale * scale for side in reference.shape[1:])
        cut = image.shape != reference.shape and tuple(image.shape[1:]) == (height, width)
        if cut:
            reference = reference[:, :height, :width]
        check_same_size(image, reference, names=(sr.name, hr.name))
        small = read_image(lr) if lr else None
        if lr and small is not None and [side * scale for side in small.shape[1:]] != list(image.shape[1:]):
            sizes = " and ".join(f"{x.shape[2]}x{x.shape[1]}" for x in (small, image))
            raise InputError(
                f"{lr.name} and {sr.name} have {sizes} pixels (width x height), expected the second {scale} times as "
                "large; check --scale and --lr."
            )
        return cls(sr.name, image, reference, small, scale, cut)


@dataclass(frozen=True)
class Measure:
    """A computation that fills one or more columns.

    Attributes:
        columns: names with their meaning.
        compute: value of every column for one image.
    """

    columns: Mapping[str, Column]
    compute: Callable[[Images], dict[str, float]]


_Y = "BT.601 luma, studio range, not rounded, float64"
#: Every measure that needs no critic, by the name of its column.
METRICS: Mapping[str, Column] = {
    "psnr_y": Column("higher", f"dB, 8-bit images, {_Y}, border cut"),
    "ssim_y": Column("higher", f"11x11 Gaussian 1.5, valid positions, {_Y}, border cut"),
    "psnr_rgb": Column("higher", "dB, 8-bit RGB images, one mean over all channels, border cut"),
    "ssim_rgb": Column("higher", "11x11 Gaussian 1.5, valid positions, mean of the RGB channels, border cut"),
    "lpips": Column("lower", f"{lpips_dists.DISTANCES['lpips'].about}, whole image"),
    "lpips_vgg": Column("lower", f"{lpips_dists.DISTANCES['lpips_vgg'].about}, whole image"),
    "dists": Column("lower", f"{lpips_dists.DISTANCES['dists'].about}, whole image"),
    "sf": Column("higher", "structural fidelity, unofficial port, whole image"),
    "sn": Column("", "statistical naturalness, unofficial port, whole image; rises with noise"),
    "sfsn": Column("", "0.9 SF + 0.1 SN, unofficial port, whole image; rises with noise"),
    "sfsn_1_9": Column("", "1.9 SF + 0.1 SN, unofficial port, whole image; rises with noise"),
}
_SFSN = ("sf", "sn", "sfsn", "sfsn_1_9")


def build_measures(
    names: Sequence[str], *, border: int, device: str = "cpu", download: bool = False
) -> tuple[list[Measure], list[str]]:
    """Measures by name.

    Args:
        names: of ``METRICS``, without repetition.
        border: pixels that PSNR and SSIM leave out on each side.
        device: where LPIPS and DISTS compute; the others use the CPU, PSNR and SSIM in float64.
        download: let LPIPS and DISTS fetch their weights.

    Returns:
        The measures, and one sentence for each that is left out because its weights are not on this machine.

    Raises:
        InputError: unknown or repeated name.
        InstallError: a library is missing.
    """
    for name in names:
        check_choice("metrics", name, tuple(METRICS))
        if names.count(name) > 1:
            raise InputError(f"metrics: got '{name}' twice; name each measure once.")
    measures, left_out = [], []
    for name in names:
        if name in lpips_dists.DISTANCES:
            absent = "" if download else lpips_dists.missing_files(name)
            if absent:
                left_out.append(absent)
            else:
                measures.append(_distance(name, device, download))
        elif name not in _SFSN:
            measures.append(_fidelity(name, border))
    family = [name for name in names if name in _SFSN]
    if family:
        # One decomposition serves all four columns.
        measures.append(Measure({n: METRICS[n] for n in family}, lambda images: _sfsn(images, family)))
    return measures, left_out


def _fidelity(name: str, border: int) -> Measure:
    kind, channel = name.split("_")
    function = sr_metrics.psnr if kind == "psnr" else sr_metrics.ssim_8bit

    def compute(images: Images) -> dict[str, float]:
        with _named(images.name):
            return {name: function(images.sr, images.hr, border=border, channel=channel)}

    return Measure({name: METRICS[name]}, compute)


@contextlib.contextmanager
def _named(image: str) -> Iterator[None]:
    """Put the image's name before the message of a refusal."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{image}: {error}") from None


def _sfsn(images: Images, names: Sequence[str]) -> dict[str, float]:
    with _named(images.name):
        found = sfsn.sfsn(images.sr, images.hr)
    return {name: float(getattr(found, name)) for name in names}


def _distance(name: str, device: str, download: bool) -> Measure:
    distance = lpips_dists.build_distance(name, device=device, download=download)

    def compute(images: Images) -> dict[str, float]:
        return {name: _finite(distance(images.sr, images.hr), name, images.name)}

    return Measure({name: METRICS[name]}, compute)


def critic_measure(critic: Critic, *, device: str = "cpu", protocol: str = COVERING, seed: int = 0) -> Measure:
    """The score of a critic, in a column of its name.

    Args:
        critic: in eval mode, on ``device``.
        device: where the images go.
        protocol: ``covering``, or a name of evaluation/protocol.py.
        seed: of the crops of a protocol that draws them.

    Returns:
        The measure; higher is better.

    Raises:
        InputError: unknown protocol.
    """
    from sr_perceptual_loss.lab.evaluation.protocol import PROTOCOLS, get_protocol, score_pair

    name = critic.card.name
    check_choice("protocol", protocol, (COVERING, *PROTOCOLS))

    def compute(images: Images) -> dict[str, float]:
        sr, hr = images.sr.to(device), images.hr.to(device)
        if protocol == COVERING:
            value = score_whole_image(critic, sr, hr, images.name)
        else:
            with _named(images.name):
                value = score_pair(critic, sr, hr, get_protocol(protocol), seed=seed)
        return {name: _finite(value, name, images.name)}

    how = COVERING if protocol == COVERING else f"{protocol} (seed {seed})"
    relative = ", 0 = as good as the reference" if critic.card.relative else ""
    return Measure({name: Column("higher", f"critic, protocol {how}{relative}, no border cut")}, compute)


def reduced_reference_measure(function: ReducedReference, source: str, *, device: str = "cpu") -> Measure:
    """A score from the SR image, the LR image and the scale, such as PFIQA; the package ships none.

    Args:
        function: the user's ``(sr, lr, scale) -> number``.
        source: how it was named, for messages.
        device: where the images go.

    Returns:
        The measure, in a column ``pfiqa``.
    """

    def compute(images: Images) -> dict[str, float]:
        if images.lr is None:
            raise InputError(f"{images.name}: {source} needs the LR image; give --lr.")
        with torch.no_grad():
            value = function(images.sr[None].to(device), images.lr[None].to(device), images.scale)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, Tensor):
            raise InputError(
                f"{images.name}: {source} returned {type(value).__name__} {str(value)[:80]!r}, expected one number "
                "(a float, or a tensor of one element)."
            )
        return {"pfiqa": _finite(float(value), source, images.name)}

    return Measure({"pfiqa": Column("higher", f"user's function {source}, reduced reference (SR, LR, scale)")}, compute)


def _finite(value: float, what: str, image: str) -> float:
    if not math.isfinite(value):
        raise NonFiniteError(f"{image}: {what} gave {value}; the weights or the image are damaged.")
    return value


def digest_of(source: Critic | ReducedReference) -> str:
    """SHA-256 of what decides a score: all tensors of a critic, or the source file of a function ('' if it has none).

    Two runs may share a table only if it is the same.
    """
    if isinstance(source, Critic):
        return source.digest()
    try:
        file = inspect.getsourcefile(source)
    except TypeError:
        file = None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""
