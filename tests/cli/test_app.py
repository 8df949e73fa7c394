"""The door: help is fast, commands are there, refused input is exit code 2 without a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sr_perceptual_loss
from sr_perceptual_loss.cli.app import app

HEAVY = {"torch", "torchvision", "basicsr", "timm", "safetensors", "huggingface_hub", "numpy"}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_commands_import_nothing_heavy():
    """The cli folder by itself: the package's own __init__ is kept out of the way."""
    out = run(
        "import sys, types\n"
        "package = types.ModuleType('sr_perceptual_loss')\n"
        f"package.__path__ = [{str(Path(sr_perceptual_loss.__file__).parent)!r}]\n"
        "sys.modules['sr_perceptual_loss'] = package\n"
        "from sr_perceptual_loss.cli.app import app\n"
        "for arguments in (['--help'], ['score', '--help'], ['--version'], ['nonsense']):\n"
        "    try:\n"
        "        app(arguments)\n"
        "    except SystemExit:\n"
        "        pass\n"
        f"loaded = {HEAVY!r} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    assert out.returncode == 0, out.stderr
    assert "convert" in out.stdout


@pytest.mark.parametrize("module", ["basicsr", "torch"])
def test_help_of_the_installed_command_does_not_import(module):
    out = run(
        "import sys\n"
        "sys.argv = ['srpl', '--help']\n"
        "from sr_perceptual_loss.cli.app import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        f"    print('loaded:', {module!r} in sys.modules, file=sys.stderr)\n"
    )
    assert out.returncode == 0, out.stderr
    assert "Usage" in out.stdout
    assert "loaded: False" in out.stderr


def test_help_and_version(srpl):
    result = srpl("--help")
    assert result.exit_code == 0
    for command in ("list", "score", "convert", "fetch"):
        assert command in result.stdout
    assert srpl("--version").stdout == "0.1.0\n"


@pytest.mark.fault(75)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fetch", "rqi"), "no critic 'rqi'."),
        (("fetch", "haarpsi"), "haarpsi is a formula and has no weights"),
        (("convert", "x.pt", "--critic", "haarpsi"), "haarpsi is a formula"),
        (("score", "none.png", "none.png"), "SR: no such file or folder: none.png"),
    ],
)
def test_refused_input_is_one_message_on_stderr_and_exit_code_2(srpl, arguments, words):
    result = srpl(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.fault(75)
def test_typo_in_a_training_file(srpl, tmp_path):
    (tmp_path / "train.yml").write_text(
        "out: x\ncritic: {name: rqi_maniqa, weihgts: null}\ndata: {dataset: a, root: b}\n"
    )
    for more, words in (
        ((), "critic: unknown key 'weihgts'. Did you mean 'weights'?"),
        (("--set", "critic={name: rqi_manika}"), "Did you mean 'rqi_maniqa'?"),
        (("--set", "epochs=[1"), "--set epochs=[1: no valid YAML"),
    ):
        result = srpl("train", "-c", tmp_path / "train.yml", *more)
        assert result.exit_code == 2 and "Traceback" not in result.stderr
        assert result.stderr.startswith("error: ") and words in result.stderr.replace("\n", " "), result.stderr


def test_real_bugs_are_not_swallowed(srpl, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sr_perceptual_loss.cli.list._describe", broken)
    result = srpl("list")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_every_command_has_help():
    for command in app.registered_commands:
        assert command.callback is not None and command.callback.__doc__
