"""Arrows between the rooms point one way, and importing the package brings no framework along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "sr_perceptual_loss"
PACKAGE = "sr_perceptual_loss"

#: room -> rooms that it may import at module level or anywhere else.
ALLOWED = {
    "_version": set(),
    "_checks": set(),
    "functional": {"_checks", "functional"},
    "weights": {"_checks", "_version", "weights"},
    "critics": {"_checks", "functional", "weights", "critics"},
    "losses": {"_checks", "functional", "critics", "losses"},
    "data": {"_checks", "data"},
    "evaluation": {"_checks", "functional", "weights", "critics", "data", "evaluation"},
    "training": {"_checks", "_version", "functional", "weights", "critics", "data", "evaluation", "training"},
    "integrations": {"_checks", "functional", "weights", "critics", "losses", "integrations"},
    "benchmarking": {
        "_checks",
        "functional",
        "critics",
        "losses",
        "data",
        "evaluation",
        "training",
        "benchmarking",
    },
}
FRAMEWORKS = {"basicsr", "cv2", "diffusers", "lightning", "pytorch_lightning", "accelerate", "neosr", "traiNNer"}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or (p.stem.startswith("_") and p.stem != "__init__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room == "cli":
        return
    modules = imports_of(path)
    own = {room_of(m) for m in modules if m.startswith(PACKAGE + ".")} - {""}
    assert own <= ALLOWED[room], f"{path} imports {own - ALLOWED[room]}"
    if room != "integrations":
        allowed = {"accelerate"} if room == "training" else set()
        assert not {m.split(".")[0] for m in modules} & (FRAMEWORKS - allowed)


def test_arrow_test_would_see_a_wrong_arrow(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("from sr_perceptual_loss.losses import CriticLoss\nimport basicsr.models\n")
    assert {"sr_perceptual_loss.losses", "basicsr.models"} <= imports_of(bad)
    assert "losses" not in ALLOWED["critics"]


def test_package_import_loads_no_framework_and_all_names_exist():
    code = (
        "import sys, sr_perceptual_loss as s\n"
        "missing = [n for n in s.__all__ if not hasattr(s, n)]\n"
        "assert not missing, missing\n"
        f"loaded = {FRAMEWORKS!r} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "print(s.__version__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "0.1.0"


def test_no_module_says_nothing_by_its_name():
    stems = {p.stem for p in ROOT.rglob("*.py")}
    assert not stems & {"utils", "util", "helpers", "common", "misc"}


def test_torch_load_is_always_weights_only():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {k.arg: k.value for k in node.keywords}
                assert isinstance(given.get("weights_only"), ast.Constant) and given["weights_only"].value is True, path
