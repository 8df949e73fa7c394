"""How many functions of the package one steady call of a loss enters, and how large the package is.

    python benchmarks/call_depth.py
    PYTHONPATH=/path/to/another/checkout python benchmarks/call_depth.py      # the same of another checkout

Frames: Python functions of the package that start during one forward call, after warm-up calls and with a reference
image that was not seen before, as in training. Generators and comprehensions count; C functions and PyTorch's Python
code do not. Changes of file: neighbours in that sequence that lie in different files.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console
from rich.table import Table

import sr_perceptual_loss
from sr_perceptual_loss import CriticLoss, HackingGuard, SSIMLoss, SSIMPerceptualRatioLoss

PACKAGE = Path(sr_perceptual_loss.__file__).resolve().parent
CORE = ("critics", "functional", "integrations", "losses", "monitor", "ops", "weights", "(root)")


def files_called(call: Callable[[], object]) -> list[str]:
    """The file of every Python frame that starts during the call, in order."""
    files: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            files.append(frame.f_code.co_filename)

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files


def depth(loss: Callable, folder: Path = PACKAGE, warmup: int = 5) -> tuple[int, int, int]:
    """(frames, files, changes of file) of the files below ``folder`` in one steady call of ``loss(sr, hr)``."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(2, 3, 64, 64, generator=generator) for _ in range(warmup + 1)]
    for hr in images[:-1]:
        loss((0.9 * hr).requires_grad_(), hr)
    sr = (0.9 * images[-1]).requires_grad_()
    files = [file for file in files_called(lambda: loss(sr, images[-1])) if file.startswith(f"{folder}/")]
    return len(files), len(set(files)), sum(a != b for a, b in itertools.pairwise(files))


def basicsr_losses() -> Callable:
    """BasicSR's entry ``losses:`` with one critic."""
    from sr_perceptual_loss.integrations.basicsr.losses import LossList

    losses = LossList([{"type": "CriticLoss", "critic": "haarpsi"}])
    losses.step(1)
    return losses


def imports(folder: Path) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports anywhere, also inside functions; type checking aside."""
    names = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [folder.name, *path.relative_to(folder).with_suffix("").parts]
        names[".".join(parts).removesuffix(".__init__")] = path
    graph = {}
    for module, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
            for node in ast.walk(block)
        }
        wanted: set[str] = set()
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= (inner & names.keys()) or {node.module}
        graph[module] = (wanted & names.keys()) - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo += graph[module]
        return seen

    reach = {module: reachable(module) for module in graph}
    groups = {tuple(sorted(b for b in graph if b in reach[a] and a in reach[b])) for a in graph if a in reach[a]}
    return [list(group) for group in sorted(groups)]


def rooms(folder: Path) -> dict[str, tuple[int, int]]:
    """Folder of the package -> (lines, files)."""
    sizes: dict[str, tuple[int, int]] = {}
    for path in sorted(folder.rglob("*.py")):
        room = path.relative_to(folder).parts[0] if path.parent != folder else "(root)"
        lines, files = sizes.get(room, (0, 0))
        sizes[room] = (lines + len(path.read_text(encoding="utf-8").splitlines()), files + 1)
    return sizes


def keys(thing: type) -> int:
    """Constructor arguments that a YAML entry can have."""
    return len([name for name in inspect.signature(thing).parameters if name != "on_alarm"])


def core_dependencies(pyproject: Path) -> int:
    """Number of requirements of the package without extras."""
    match = re.search(r"^dependencies = \[(.*?)^\]", pyproject.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return len(re.findall(r'^\s*"', match[1], re.MULTILINE)) if match else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    console = Console(width=110)
    calls = Table("call", "frames", "files", "changes of file", title=f"One steady call, {PACKAGE}")
    losses = {"CriticLoss('haarpsi')": CriticLoss("haarpsi"), "SSIMLoss()": SSIMLoss()}
    try:
        losses["BasicSR losses: [CriticLoss haarpsi]"] = basicsr_losses()
    except ImportError as error:
        console.print(f"BasicSR is left out: {error}")
    for name, loss in losses.items():
        calls.add_row(name, *map(str, depth(loss)))
    console.print(calls)

    size = Table("room", "lines", "files", title="Size")
    counted = rooms(PACKAGE)
    for room, (lines, files) in counted.items():
        size.add_row(room, f"{lines:,}", str(files))
    core = [counted[room] for room in CORE if room in counted]
    for name, rows in (("core", core), ("all", list(counted.values()))):
        size.add_row(name, f"{sum(row[0] for row in rows):,}", str(sum(row[1] for row in rows)))
    console.print(size)

    other = Table("what", "count", title="Interfaces")
    for thing in (CriticLoss, SSIMPerceptualRatioLoss, HackingGuard):
        other.add_row(f"YAML keys of {thing.__name__}", str(keys(thing)))
    groups = circles(imports(PACKAGE))
    other.add_row("import circles", f"{len(groups)} {'; '.join(' <-> '.join(g) for g in groups)}")
    other.add_row("core dependencies", str(core_dependencies(PACKAGE.parent / "pyproject.toml")))
    console.print(other)


if __name__ == "__main__":
    main()
