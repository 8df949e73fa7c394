"""BasicSR is importable beside today's packages; names that moved in 1.4 are where projects for 1.3.4.9 import them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from sr_perceptual_loss.integrations.basicsr_shim import MOVED, install_shims

NAMES = [(old, new, name) for old, homes in MOVED.items() for new, names in homes.items() for name in names]


def python(code, *folders):
    """Run code in a process of its own in which ``folders`` come first on the path; its printed words."""
    code = f"import sys; sys.path[:0] = {[str(f) for f in folders]!r}\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def basicsr_in(tmp_path):
    """basicsr_in({file: text}) -> folder with a stand-in package ``basicsr`` of these files."""

    def write(files):
        for file, text in files.items():
            path = tmp_path / "basicsr" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            (path.parent / "__init__.py").touch()
        (tmp_path / "basicsr" / "__init__.py").touch()
        return tmp_path

    return write


def test_importing_the_shim_imports_no_framework_and_installs_one_finder():
    code = (
        "import sr_perceptual_loss.integrations.basicsr_shim as shim\n"
        "shim.install_shims()\n"
        "print(*({'basicsr', 'torch', 'torchvision'} & sys.modules.keys()))\n"
        "print(*(type(finder).__name__ for finder in sys.meta_path if type(finder).__module__ == shim.__name__))"
    )
    assert python(code) == ["_ShimFinder"]


@pytest.mark.parametrize(("old", "new", "name"), NAMES)
def test_a_moved_name_is_the_object_of_the_new_module(old, new, name):
    """HAT imports rgb2ycbcr from basicsr.utils.matlab_functions, for instance."""
    pytest.importorskip("basicsr")
    assert getattr(importlib.import_module(old), name) is getattr(importlib.import_module(new), name)


def test_the_names_of_basicsr_1_3_stay_its_own(basicsr_in):
    folder = basicsr_in(
        {
            "losses/losses.py": "L1Loss = 'old'\n",
            "losses/__init__.py": "from basicsr.losses.losses import L1Loss\n",
            "utils/matlab_functions.py": "rgb2ycbcr = 'old'\n",
            "version.py": "__version__ = '1.3.4.9'\n",
        }
    )
    code = (
        "import sr_perceptual_loss.integrations.basicsr_shim\n"
        "import basicsr.losses.losses, basicsr.utils.matlab_functions, basicsr.version\n"
        "print(basicsr.losses.L1Loss, basicsr.losses.losses.L1Loss, basicsr.utils.matlab_functions.rgb2ycbcr)\n"
        "print(hasattr(basicsr.losses, 'GANLoss'), basicsr.version.__version__)"
    )
    assert python(code, folder) == ["old", "old", "old", "False", "1.3.4.9"]


def test_basicsr_may_be_imported_before_the_shim_and_clones_have_a_version(basicsr_in):
    files = {"utils/matlab_functions.py": "", "utils/color_util.py": "rgb2ycbcr = 'new'\n", "../VERSION": "1.4.2\n"}
    folder = basicsr_in({**files, "../realesrgan/__init__.py": "from .version import *\n"})
    code = (
        "import basicsr.utils.matlab_functions as old\n"
        "import sr_perceptual_loss.integrations.basicsr_shim\n"
        "import basicsr.version, realesrgan\n"
        "print(old.rgb2ycbcr, hasattr(old, 'bgr2ycbcr'), basicsr.version.__version__, realesrgan.version.__version__)"
    )
    assert python(code, folder) == ["new", "False", "1.4.2", "1.4.2"]


def test_installing_again_changes_nothing():
    before = list(sys.meta_path)
    install_shims()
    assert sys.meta_path == before
