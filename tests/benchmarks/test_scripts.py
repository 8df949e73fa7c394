"""Every script answers --help; the counting and comparing scripts count and compare right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import call_depth
import numpy as np
import pytest
import torch
from before_after import compare, dump
from PIL import Image
from safetensors.torch import load_file, save_file

from sr_perceptual_loss import SSIMLoss

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted([*BENCHMARKS.glob("*.py"), *(p for p in BENCHMARKS.glob("hosts/*.py") if p.stem != "runs")])


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(script):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("usage:")


def test_no_script_hides_a_package_of_the_same_name():
    stems = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert not stems & {path.name for path in BENCHMARKS.iterdir() if path.is_dir()}


def test_depth_counts_frames_of_the_folder(tmp_path):
    (tmp_path / "a.py").write_text("import b\ndef f(sr, hr):\n    b.g()\n    return [b.g() for _ in range(2)]\n")
    (tmp_path / "b.py").write_text("def g():\n    return max(1, 2)\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        import a

        frames, files, changes = call_depth.depth(a.f, tmp_path)
    # f, g, (the comprehension before Python 3.12), g, g.
    assert (frames, files) == ((4, 2) if sys.version_info >= (3, 12) else (5, 2))
    assert changes == (1 if sys.version_info >= (3, 12) else 3)


def test_depth_of_a_loss_is_the_same_every_time():
    assert call_depth.depth(SSIMLoss()) == call_depth.depth(SSIMLoss())


def test_circles_are_found(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("def f():\n    from package.b import g\n")
    (folder / "b.py").write_text("from package.c import h\n")
    (folder / "c.py").write_text("from package import a\n")
    (folder / "d.py").write_text("if TYPE_CHECKING:\n    from package.e import f\n")
    (folder / "e.py").write_text("import package.d\n")
    assert call_depth.circles(call_depth.imports(folder)) == [["package.a", "package.b", "package.c"]]


def test_dumps_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("before_after.CRITICS", ("haarpsi",))
    random = np.random.default_rng(0)
    for number in range(2):
        pixels = random.integers(0, 256, (230, 240, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    photographs = sorted(tmp_path.glob("*.png"))
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    dump(photographs, tmp_path / "weights", first, lambda text: None)
    dump(photographs, tmp_path / "weights", second, lambda text: None)
    same = compare(first, second)
    names = ("CriticLoss haarpsi", "SSIMLoss", "SSIMPerceptualRatioLoss haarpsi")
    assert same == {(name, what): 0.0 for name in names for what in ("value", "gradient")}
    tensors = load_file(second)
    tensors["SSIMLoss|1|value"] = 1.5 * tensors["SSIMLoss|1|value"]
    del tensors["CriticLoss haarpsi|0|gradient"]
    save_file(tensors, second)
    changed = compare(first, second)
    assert changed["SSIMLoss", "value"] == pytest.approx(0.5)
    assert changed["CriticLoss haarpsi", "gradient"] == float("inf")
    assert changed["SSIMLoss", "gradient"] == 0


def test_random_weights_leave_no_parameter_at_zero(tmp_path):
    from before_after import randomise
    from tiny_critics import pair_for, tiny

    critic = tiny("efficient_pban")
    with torch.no_grad():
        for parameter in critic.block2.br1.param_generators.parameters():
            parameter.zero_()
    randomise(critic, *pair_for(critic, 1))
    assert all(bool(parameter.any()) for parameter in critic.parameters())
