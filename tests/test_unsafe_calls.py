"""Nothing in the tree opens a file in a way that could run code of it (fault matrix 55)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for folder in ("sr_perceptual_loss", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
#: Calls that run what a file says.
FORBIDDEN = ("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "yaml.load", "yaml.unsafe_load",
             "yaml.full_load", "joblib.load", "dill.load", "shelve.open", "torch.hub.load", "eval", "exec")  # fmt: skip
#: The start script of BasicSR runs the user's own training script, which is its purpose.
RUNS_A_SCRIPT = "integrations/basicsr_runner.py"


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Name in the file -> what it stands for, from the imports."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def called_name(node: ast.Call, names: dict[str, str]) -> str:
    """Dotted name of what is called, imports resolved; empty where it is not a name."""
    parts, target = [], node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    return ".".join([names.get(target.id, target.id), *reversed(parts)]) if isinstance(target, ast.Name) else ""


def unsafe_calls(source: str) -> list[str]:
    tree = ast.parse(source)
    names, unsafe = imported_names(tree), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = called_name(node, names)
        keywords = {k.arg: k.value for k in node.keywords}
        if name in ("torch.load", "torch.serialization.load"):
            safe = keywords.get("weights_only")
            if not (isinstance(safe, ast.Constant) and safe.value is True):
                unsafe.append(f"line {node.lineno}: {name} without weights_only=True")
        elif name in FORBIDDEN or name.endswith("load_checkpoint_in_model"):
            unsafe.append(f"line {node.lineno}: {name}")
        elif name == "numpy.load" and "allow_pickle" in keywords:
            unsafe.append(f"line {node.lineno}: numpy.load with allow_pickle")
    return unsafe


def test_the_scan_sees_what_it_looks_for():
    for source in (
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=False)",
        "import torch as t\nt.load(p, weights_only=flag)",
        "from torch import load\nload(p)",
        "import pickle\npickle.loads(b)",
        "from pickle import load as x\nx(f)",
        "import yaml\nyaml.load(f, Loader=yaml.Loader)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "eval('1')",
        "exec('1')",
    ):
        assert len(unsafe_calls(source)) == 1, source
    assert unsafe_calls("import torch, yaml\ntorch.load(p, weights_only=True)\nyaml.safe_load(f)") == []


@pytest.mark.fault(55)
@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_call_that_could_run_code_of_a_file(path):
    unsafe = unsafe_calls(path.read_text(encoding="utf-8"))
    if str(path).endswith(RUNS_A_SCRIPT):
        unsafe = [call for call in unsafe if not call.endswith(": exec")]
    assert unsafe == []
