"""What it takes to import BasicSR 1.3.4.9 to 1.4.2 beside today's packages, without editing them.

Importing this module installs the shims; it does not import BasicSR. Spawned data-loader workers unpickle BasicSR's
datasets, so they must have imported it too: the runner arranges that (see ``basicsr_runner.py``).

1. torchvision 0.17 removed ``torchvision.transforms.functional_tensor``, from which BasicSR takes one function.
2. A fresh clone of BasicSR or Real-ESRGAN has no ``version.py`` in its package (its setup writes it).
3. BasicSR 1.4 moved functions and classes (``MOVED``). Projects that pin 1.3.4.9, such as HAT, import them from where
   they were. The shim puts them there too.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

from sr_perceptual_loss.errors import InstallError

__all__ = ["MOVED", "install_shims", "require_basicsr"]

_COLORS = ("bgr2ycbcr", "rgb2ycbcr", "ycbcr2bgr", "ycbcr2rgb")
_BASIC_LOSSES = (
    *("CharbonnierLoss", "L1Loss", "MSELoss", "PerceptualLoss", "WeightedTVLoss"),
    *("charbonnier_loss", "l1_loss", "mse_loss"),
)
_GAN_LOSSES = ("GANLoss", "MultiScaleGANLoss", "g_path_regularize", "gradient_penalty_loss", "r1_penalty")
_LOSSES = {"basicsr.losses.basic_loss": _BASIC_LOSSES, "basicsr.losses.gan_loss": _GAN_LOSSES}

#: Module of BasicSR 1.3.4.9 -> module of 1.4.2 -> names that moved there. Of ``basicsr.losses.losses`` nothing is left.
MOVED: dict[str, dict[str, tuple[str, ...]]] = {
    "basicsr.utils.matlab_functions": {"basicsr.utils.color_util": _COLORS},
    "basicsr.losses": _LOSSES,
    "basicsr.losses.losses": _LOSSES,
}


def _add_moved_names(module: ModuleType) -> None:
    for home, names in MOVED[module.__name__].items():
        missing = [name for name in names if not hasattr(module, name)]
        # A project's own copy of BasicSR may have neither; it does not use the name then.
        if missing and importlib.util.find_spec(home) is not None:
            now = vars(importlib.import_module(home))
            vars(module).update({name: now[name] for name in missing if name in now})


def _fill_functional_tensor(module: ModuleType) -> None:
    from torchvision.transforms.functional import rgb_to_grayscale

    module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]


def _fill_version(folder: Path, module: ModuleType) -> None:
    file = folder.parent / "VERSION"
    module.__version__ = file.read_text().strip() if file.is_file() else "unknown"  # type: ignore[attr-defined]
    module.__gitsha__ = "unknown"  # type: ignore[attr-defined]


class _MissingModule(Loader):
    def __init__(self, fill: Callable[[ModuleType], None]) -> None:
        self.fill = fill

    def exec_module(self, module: ModuleType) -> None:
        self.fill(module)


class _WithMovedNames(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _add_moved_names(module)


class _ShimFinder(MetaPathFinder):
    """First on ``sys.meta_path``, for a few names. What is installed is taken from there, never replaced."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        version = partial(_fill_version, Path(next(iter(path or ()), ".")))
        missing: dict[str, Callable[[ModuleType], None]] = {
            "torchvision.transforms.functional_tensor": _fill_functional_tensor,
            "basicsr.version": version,
            "realesrgan.version": version,
            "basicsr.losses.losses": _add_moved_names,
        }
        if not path or fullname not in {*missing, *MOVED}:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None and fullname in missing:
            return ModuleSpec(fullname, _MissingModule(missing[fullname]))
        if spec is not None and fullname in MOVED and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _WithMovedNames(spec.loader.name, spec.loader.path)
        return spec


def install_shims() -> None:
    """Make the missing modules and the moved names importable; calling it again does nothing."""
    if not any(type(finder).__name__ == "_ShimFinder" for finder in sys.meta_path):
        sys.meta_path.insert(0, _ShimFinder())
    for name in MOVED.keys() & sys.modules.keys():
        _add_moved_names(sys.modules[name])


def require_basicsr() -> None:
    """Raise unless a whole BasicSR is importable; does not import it.

    Raises:
        InstallError: missing, or a project's partial ``basicsr/`` folder hides the real one.
    """
    if "basicsr" in sys.modules and hasattr(sys.modules["basicsr"], "__version__"):
        return
    spec = PathFinder.find_spec("basicsr") or importlib.util.find_spec("basicsr")
    if spec is None or not spec.submodule_search_locations:
        cure = "run: pip install --no-build-isolation 'basicsr>=1.4.2' (torch, numpy and cython must be installed)"
        if sys.version_info >= (3, 13):
            cure = (
                "its setup.py does not build on Python >= 3.13: install a wheel built on 3.11 (python3.11 -m pip "
                "wheel --no-deps --no-build-isolation basicsr), or put a clone of XPixelGroup/BasicSR on PYTHONPATH"
            )
        raise InstallError(f"BasicSR is not installed; {cure}. The losses work without it.")
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not (folder / "utils").is_dir():
        raise InstallError(
            f"'{folder}' is a project's own partial basicsr folder (it has no utils/) and hides the real one. "
            "Start with the console command `srpl basicsr -opt x.yml`, or `python -P -m ...`, or from another folder."
        )


install_shims()
