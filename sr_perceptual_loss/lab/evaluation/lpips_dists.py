"""LPIPS and DISTS from the libraries of their kind, with trunks that are already on this machine.

Both need an ImageNet trunk that torchvision keeps in torch's hub folder (``TORCH_HOME``). Nothing is downloaded unless
that is asked for; a file that is there is checked before a library opens it.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from sr_perceptual_loss.checks import check_choice
from sr_perceptual_loss.errors import InstallError, WeightsError
from sr_perceptual_loss.weights.disk import sha256_of

__all__ = ["DISTANCES", "Distance", "TrunkFile", "build_distance", "hub_folder", "missing_files"]

Distance = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class TrunkFile:
    """A weights file that a library expects in torch's hub folder.

    Attributes:
        url: where it is published.
        sha256: start of its SHA-256, as torchvision writes it into the name; empty where none is published.
    """

    url: str
    sha256: str = ""

    @property
    def path(self) -> Path:
        """Where the library looks for it."""
        return hub_folder() / self.url.rsplit("/", 1)[1]


_ALEX = TrunkFile("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79")
_VGG16 = TrunkFile("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af")
_DISTS = TrunkFile("https://github.com/photosynthesis-team/piq/releases/download/v0.4.1/dists_weights.pt")


@dataclass(frozen=True)
class _Recipe:
    package: str
    about: str
    files: tuple[TrunkFile, ...]


#: Distances by name: library, what a table must say about the number, files.
DISTANCES = {
    "lpips": _Recipe("lpips", "LPIPS v0.1, AlexNet trunk", (_ALEX,)),
    "lpips_vgg": _Recipe("lpips", "LPIPS v0.1, VGG16 trunk", (_VGG16,)),
    "dists": _Recipe("piq", "DISTS of piq: shorter side reduced to 256 pixels where larger", (_VGG16, _DISTS)),
}


def hub_folder() -> Path:
    """Torch's folder of downloaded weights: ``$TORCH_HOME/hub/checkpoints``, by default below ``~/.cache/torch``."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def missing_files(name: str) -> str:
    """What a distance lacks on this machine.

    Args:
        name: one of ``DISTANCES``.

    Returns:
        A sentence with file, address and place; empty if everything is here.
    """
    recipe = DISTANCES[check_choice("distance", name, tuple(DISTANCES))]
    absent = [file for file in recipe.files if not file.path.is_file()]
    if not absent:
        return ""
    steps = "; ".join(f"{file.url} belongs at {file.path}" for file in absent)
    return f"{name} ({recipe.about}): weights not on this machine: {steps}. Put them there, or give --download."


def build_distance(name: str, *, device: str | torch.device = "cpu", download: bool = False) -> Distance:
    """A distance as a function of one image pair; lower is better.

    Args:
        name: ``lpips`` (AlexNet), ``lpips_vgg`` or ``dists``.
        device: where it computes.
        download: let the library fetch what :func:`missing_files` names.

    Returns:
        ``distance(sr, hr)`` for images (3, H, W) RGB in [0, 1] on any device.

    Raises:
        InstallError: the library is missing.
        WeightsError: files are missing and ``download`` is false, or a file is not the published one.
    """
    recipe = DISTANCES[check_choice("distance", name, tuple(DISTANCES))]
    library = _library(recipe.package, name)
    absent = missing_files(name)
    if absent and not download:
        raise WeightsError(absent)
    for file in recipe.files:
        if file.path.is_file():
            _check(file)
    with warnings.catch_warnings():
        # Both libraries use torchvision's old spelling of `weights=`.
        warnings.simplefilter("ignore")
        if name == "dists":
            module = library.DISTS(reduction="none").to(device)
            options = {}
        else:
            module = library.LPIPS(net="alex" if name == "lpips" else "vgg", version="0.1", verbose=False).to(device)
            # Images in [0, 1] instead of [-1, 1].
            options = {"normalize": True}
    module.eval().requires_grad_(False)

    def distance(sr: Tensor, hr: Tensor) -> float:
        with torch.no_grad():
            return float(module(sr[None].to(device), hr[None].to(device), **options).sum())

    return distance


def _library(package: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InstallError(f"{name} needs the package {package} ({error}): pip install {package}") from None


def _check(file: TrunkFile) -> None:
    """Refuse another file under the published name, and one that could run code when a library opens it."""
    again = f"Delete it and get {file.url} again."
    if file.sha256 and not sha256_of(file.path).startswith(file.sha256):
        raise WeightsError(
            f"{file.path}: got SHA-256 {sha256_of(file.path)}, expected one that starts with {file.sha256}: damaged, "
            f"or another file. {again}"
        )
    if not file.sha256:
        try:
            torch.load(file.path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(f"{file.path}: not a file of plain tensors ({reason}). {again}") from None
