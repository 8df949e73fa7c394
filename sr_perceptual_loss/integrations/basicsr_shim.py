"""What it takes to import BasicSR 1.4.2 beside today's packages, without editing them.

Importing this module installs the shims; it does not import BasicSR. Spawned data-loader workers unpickle BasicSR's
datasets, so they must have imported it too: the runner arranges that (see ``basicsr_runner.py``).

1. torchvision 0.17 removed ``torchvision.transforms.functional_tensor``, from which BasicSR takes one function.
2. A fresh clone of BasicSR has no ``basicsr/version.py`` (its setup writes it).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from sr_perceptual_loss.errors import InstallError

__all__ = ["install_shims", "require_basicsr"]


class _TorchvisionLoader(Loader):
    def exec_module(self, module: ModuleType) -> None:
        from torchvision.transforms.functional import rgb_to_grayscale

        module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]


class _VersionLoader(Loader):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def exec_module(self, module: ModuleType) -> None:
        file = self.folder.parent / "VERSION"
        module.__version__ = file.read_text().strip() if file.is_file() else "unknown"  # type: ignore[attr-defined]
        module.__gitsha__ = "unknown"  # type: ignore[attr-defined]


class _ShimFinder(MetaPathFinder):
    """Last on ``sys.meta_path``: asked only when the real module was not found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision.transforms.functional_tensor":
            return ModuleSpec(fullname, _TorchvisionLoader())
        if fullname == "basicsr.version" and path:
            return ModuleSpec(fullname, _VersionLoader(Path(next(iter(path)))))
        return None


def install_shims() -> None:
    """Make the two modules importable where they are missing; calling it again does nothing."""
    if not any(type(finder).__name__ == "_ShimFinder" for finder in sys.meta_path):
        sys.meta_path.append(_ShimFinder())


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
