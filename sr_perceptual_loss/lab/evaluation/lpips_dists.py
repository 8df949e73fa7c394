"""LPIPS and DISTS from their libraries, with backbone weights that are already on this machine.

Both need an ImageNet backbone that torchvision keeps in torch's hub folder (``TORCH_HOME``). Nothing is downloaded
unless that is requested; an existing file is checked before a library opens it.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sr_perceptual_loss.checks import check_choice
from sr_perceptual_loss.errors import InstallError, WeightsError
from sr_perceptual_loss.weights.file import sha256_of

__all__ = ["DISTANCES", "Distance", "WeightsFile", "build_distance", "missing_files"]

#: (sr, hr) -> distance; images (3, H, W) RGB in [0, 1] on any device; lower is better.
Distance = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class WeightsFile:
    """A weights file that a library expects in torch's hub folder.

    Attributes:
        url: where it is published.
        sha256: start of its SHA-256, as torchvision writes it into the name; empty where none is published.
    """

    url: str
    sha256: str = ""

    @property
    def path(self) -> Path:
        """Where the library looks for it: ``$TORCH_HOME/hub/checkpoints``, by default below ``~/.cache/torch``."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class _Recipe:
    package: str
    about: str
    files: tuple[WeightsFile, ...]


_ALEX = WeightsFile("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79")
_VGG16 = WeightsFile("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af")
_DISTS = WeightsFile("https://github.com/photosynthesis-team/piq/releases/download/v0.4.1/dists_weights.pt")

#: Distances by name: library, description of the number, files.
DISTANCES = {
    "lpips": _Recipe("lpips", "LPIPS v0.1, AlexNet backbone", (_ALEX,)),
    "lpips_vgg": _Recipe("lpips", "LPIPS v0.1, VGG16 backbone", (_VGG16,)),
    "dists": _Recipe("piq", "DISTS of piq: shorter side reduced to 256 pixels where larger", (_VGG16, _DISTS)),
}


def missing_files(name: str) -> str:
    """Which weights of a distance are missing on this machine.

    Args:
        name: one of ``DISTANCES``.

    Returns:
        A sentence with file, address and place; empty if everything is there.
    """
    recipe = DISTANCES[check_choice("distance", name, tuple(DISTANCES))]
    absent = [file for file in recipe.files if not file.path.is_file()]
    if not absent:
        return ""
    steps = "; ".join(f"{file.url} belongs at {file.path}" for file in absent)
    return f"{name} ({recipe.about}): weights not on this machine: {steps}. Put them there, or give --download."


def build_distance(name: str, *, device: str | torch.device = "cpu", download: bool = False) -> Distance:
    """A distance as a function of one image pair.

    Args:
        name: ``lpips`` (AlexNet), ``lpips_vgg`` or ``dists``.
        device: where it computes.
        download: let the library fetch what :func:`missing_files` names.

    Returns:
        ``distance(sr, hr)``; lower is better.

    Raises:
        InstallError: the library is missing.
        WeightsError: files are missing and ``download`` is false, or a file is not the published one.
    """
    recipe = DISTANCES[check_choice("distance", name, tuple(DISTANCES))]
    try:
        library = importlib.import_module(recipe.package)
    except ImportError as error:
        raise InstallError(f"{name} needs {recipe.package} ({error}): pip install {recipe.package}") from None
    absent = missing_files(name)
    if absent and not download:
        raise WeightsError(absent)
    for file in recipe.files:
        if file.path.is_file():
            _check(file)
    options: dict[str, bool] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both libraries use a deprecated argument of torchvision
        if name == "dists":
            module = library.DISTS(reduction="none")
        else:
            module = library.LPIPS(net="alex" if name == "lpips" else "vgg", version="0.1", verbose=False)
            options = {"normalize": True}  # images in [0, 1] instead of [-1, 1]
    module.to(device).eval().requires_grad_(False)

    def distance(sr: Tensor, hr: Tensor) -> float:
        with torch.no_grad():
            return float(module(sr[None].to(device), hr[None].to(device), **options).sum())

    return distance


def _check(file: WeightsFile) -> None:
    """Refuse another file under the published name, and one that could run code when a library opens it."""
    cure = f"Delete it and get {file.url} again."
    if file.sha256 and not sha256_of(file.path).startswith(file.sha256):
        raise WeightsError(
            f"{file.path}: got SHA-256 {sha256_of(file.path)}, expected one that starts with {file.sha256}: damaged, "
            f"or another file. {cure}"
        )
    if not file.sha256:
        try:
            torch.load(file.path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(f"{file.path}: not a file of plain tensors ({reason}). {cure}") from None
