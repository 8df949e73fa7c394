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
             "yaml.full_load", "joblib.load", "dill.load", "shelve.open", "torch.hub.load", "eval")  # fmt: skip
#: The start scripts of BasicSR and neosr run the user's own train.py, which is what they are for.
RUNS_A_SCRIPT = ("integrations/basicsr_runner.py", "integrations/neosr.py", "integrations/trainner.py")


def names_in(tree: ast.Module) -> dict[str, str]:
    """Name in the file -> what it stands for, from the imports."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def called(node: ast.Call, names: dict[str, str]) -> str:
    """Dotted name of what is called, imports resolved; empty where it is no name."""
    parts, place = [], node.func
    while isinstance(place, ast.Attribute):
        parts.append(place.attr)
        place = place.value
    return ".".join([names.get(place.id, place.id), *reversed(parts)]) if isinstance(place, ast.Name) else ""


def faults(source: str) -> list[str]:
    tree = ast.parse(source)
    names, found = names_in(tree), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = called(node, names)
        given = {k.arg: k.value for k in node.keywords}
        if name in ("torch.load", "torch.serialization.load"):
            safe = given.get("weights_only")
            if not (isinstance(safe, ast.Constant) and safe.value is True):
                found.append(f"line {node.lineno}: {name} without weights_only=True")
        elif name in FORBIDDEN or (name.endswith("load_checkpoint_in_model")):
            found.append(f"line {node.lineno}: {name}")
        elif name == "numpy.load" and "allow_pickle" in given:
            found.append(f"line {node.lineno}: numpy.load with allow_pickle")
        elif name == "exec":
            found.append(f"line {node.lineno}: exec")
    return found


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
    ):
        assert len(faults(source)) == 1, source
    assert faults("import torch, yaml\ntorch.load(p, weights_only=True)\nyaml.safe_load(f)") == []


@pytest.mark.fault(55)
@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_call_that_could_run_code_of_a_file(path):
    found = faults(path.read_text(encoding="utf-8"))
    if str(path).endswith(RUNS_A_SCRIPT):
        found = [fault for fault in found if not fault.endswith(": exec")]
    assert found == []
