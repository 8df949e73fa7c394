"""The sdist is complete; the wheel is small and has weights, licences and configs; their versions and needs agree."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from pairs import make_pair
from torchvision.utils import save_image

import sr_perceptual_loss
from sr_perceptual_loss.critics.imagenet import BUNDLED

ROOT = Path(__file__).parents[1]
BUILD = "from setuptools import build_meta; build_meta.build_{kind}({out!r})"
#: Names of conda-forge, where they are others.
CONDA = {"torch": "pytorch"}


def run(*command, **options):
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist, and the wheel that is built from it: those of `make dist`, or built here without isolation."""
    if "SRPL_DIST" in os.environ:
        folder = Path(os.environ["SRPL_DIST"])
    else:
        pytest.importorskip("setuptools", minversion="77")
        folder, copy = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("copy")
        # A copy: a build leaves files beside its sources.
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy(path, copy)
        for name in ("sr_perceptual_loss", *re.findall(r"^graft (\S+)", (ROOT / "MANIFEST.in").read_text(), re.M)):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        run(sys.executable, "-c", BUILD.format(kind="sdist", out=str(folder)), cwd=copy)
        (sdist,) = folder.glob("*.tar.gz")
        run("tar", "-xf", sdist, "-C", copy)
        unpacked = copy / sdist.name.removesuffix(".tar.gz")
        run(sys.executable, "-c", BUILD.format(kind="wheel", out=str(folder)), cwd=unpacked)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def files_of(folder):
    return {p.relative_to(ROOT).as_posix() for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def test_the_wheel_is_small_and_has_weights_licences_and_configs(dist):
    _, wheel = dist
    assert wheel.stat().st_size < 9_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        weights = archive.read(f"sr_perceptual_loss/{BUNDLED.filename}")
        for path in [*ROOT.glob("basicsr_configs/*.yml"), *ROOT.glob("examples/critics/*.yml")]:
            assert archive.read(f"sr_perceptual_loss/configs/{path.name}") == path.read_bytes()
    assert hashlib.sha256(weights).hexdigest() == BUNDLED.sha256
    assert files_of(ROOT / "sr_perceptual_loss") <= names
    assert all(name.startswith(("sr_perceptual_loss/", "sr_perceptual_loss-")) for name in names)
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_the_sdist_has_what_the_repository_has(dist):
    with tarfile.open(dist[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "tests/conftest.py", "basicsr_configs/demo_cpu.yml", "recipe/recipe.yaml"} <= names
    if (ROOT / ".git").exists():
        tracked = run("git", "-c", "core.quotePath=false", "ls-files", cwd=ROOT).splitlines()
        assert {name for name in tracked if (ROOT / name).exists()} <= names


def test_versions_agree():
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    version = re.fullmatch(r"## \[(.+)\] - (unreleased|\d{4}-\d\d-\d\d)", newest)[1]
    citation, recipe = (yaml.safe_load((ROOT / name).read_text()) for name in ("CITATION.cff", "recipe/recipe.yaml"))
    assert version == citation["version"] == recipe["context"]["version"] == sr_perceptual_loss.__version__


def test_the_conda_recipe_needs_what_the_wheel_needs(dist):
    with zipfile.ZipFile(dist[1]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    core = [re.match(r"([\w-]+)(\S+)$", need).groups() for need in metadata.get_all("Requires-Dist") if ";" not in need]
    needs = {f"{CONDA.get(name, name)} {version}" for name, version in core}
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    assert set(recipe["requirements"]["run"]) - needs == {"python >=${{ python_min }}"}
    assert needs <= set(recipe["requirements"]["run"])
    assert metadata["Requires-Python"] == f">={recipe['context']['python_min']}"


@pytest.mark.slow
def test_the_wheel_scores_and_trains_in_an_environment_of_its_own(dist, tmp_path):
    """Its dependencies are those of this environment; this repository is not on the path there."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python, srpl = tmp_path / "venv/bin/python", tmp_path / "venv/bin/srpl"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", dist[1])
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    for name, image in zip(("sr.png", "hr.png"), make_pair(1, 96, 96), strict=True):
        save_image(image, tmp_path / name)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    scored = float(run(srpl, "score", "sr.png", "hr.png", "--critic", "dists", cwd=tmp_path, env=env).split("\t")[1])
    code = (
        "import sr_perceptual_loss as s\n"
        "from torchvision.io import read_image\n"
        "sr, hr = (read_image(name)[None] / 255 for name in ('sr.png', 'hr.png'))\n"
        "loss = s.CriticLoss('dists')\n"
        "loss(sr.requires_grad_(), hr).backward()\n"
        "print(s.__file__, float(loss.terms['score']), float(sr.grad.abs().sum()))\n"
    )
    where, score, gradient = run(python, "-c", code, cwd=tmp_path, env=env).split()
    assert Path(where).is_relative_to(tmp_path)
    assert float(score) == pytest.approx(scored, abs=1e-5) and 0 < scored < 1
    assert float(gradient) > 0
    run(srpl, "config", "copy", "rqi_topiq", "configs", cwd=tmp_path, env=env)
    assert (tmp_path / "configs/rqi_topiq.yml").read_bytes() == (ROOT / "examples/critics/rqi_topiq.yml").read_bytes()
