"""Arrows between the rooms point one way, and importing the package brings no framework along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "sr_perceptual_loss"
PACKAGE = "sr_perceptual_loss"

CORE = {"errors", "checks"}
#: room -> rooms that it may import, at module level or inside a function.
ALLOWED = {
    "errors": set(),
    "checks": {"errors"},
    "ops": CORE | {"ops"},
    "weights": CORE | {"weights"},
    "critics": CORE | {"ops", "weights", "critics"},
    "losses": CORE | {"ops", "critics", "losses"},
    "monitor": CORE | {"ops", "critics", "losses", "monitor"},
    "integrations": CORE | {"ops", "weights", "critics", "losses", "monitor", "integrations"},
    "lab": CORE | {"ops", "weights", "critics", "lab"},
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


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py" and "cli" not in p.relative_to(ROOT).parts)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    modules = imports_of(path)
    rooms = {room_of(m) for m in modules if m.startswith(PACKAGE + ".")} - {"", "__version__"}
    assert rooms <= ALLOWED[room], f"{path} imports {rooms - ALLOWED[room]}"
    if room != "integrations":
        allowed = {"accelerate"} if path.is_relative_to(ROOT / "lab" / "training") else set()
        assert not {m.split(".")[0] for m in modules} & (FRAMEWORKS - allowed)


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(edges):
    """Modules that reach themselves: those left when what imports nothing of the rest is taken away again and again."""
    left = {module: set(targets) for module, targets in edges.items()}
    while True:
        leaves = {module for module, targets in left.items() if not targets & left.keys()}
        if not leaves:
            return sorted(left)
        left = {module: targets for module, targets in left.items() if module not in leaves}


def test_no_import_circles():
    modules = {module_of(p): p for p in ROOT.rglob("*.py")}
    # A package's own __init__ is imported before its modules in any case.
    edges = {name: {m for m in imports_of(path) if m in modules and m != name} for name, path in modules.items()}
    for name in edges:
        edges[name] = {m for m in edges[name] if not (modules[m].name == "__init__.py" and name.startswith(m + "."))}
    assert circles(edges) == []
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == ["a", "b", "c"]


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
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr


def test_no_module_is_called_utils_or_the_like():
    stems = {p.stem for p in ROOT.rglob("*.py")}
    assert not stems & {"utils", "util", "helpers", "common", "misc"}


def test_torch_load_is_always_weights_only():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {k.arg: k.value for k in node.keywords}
                assert isinstance(given.get("weights_only"), ast.Constant) and given["weights_only"].value is True, path


def test_core_dependencies_are_at_most_ten_and_declared():
    text = (ROOT.parent / "pyproject.toml").read_text()
    block = text[text.index("\ndependencies = [") : text.index("]", text.index("\ndependencies = ["))]
    declared = {line.strip().strip('",').split(">")[0].replace("-", "_") for line in block.splitlines()[2:]}
    assert 1 < len(declared) <= 10
    modules = {"pillow": "PIL"}
    known = {modules.get(name, name) for name in declared} | set(sys.stdlib_module_names) | {PACKAGE}
    extras = {"integrations", "lab", "cli"}
    for path in FILES:
        if path.relative_to(ROOT).parts[0] not in extras:
            plot = {"matplotlib"} if path == ROOT / "monitor" / "plots.py" else set()
            assert {m.split(".")[0] for m in runtime_imports_of(path)} <= known | plot, path


def runtime_imports_of(path):
    """Imports outside ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found
