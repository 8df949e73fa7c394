"""The application: help is fast, commands are there, refused input is exit code 2 without a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sr_perceptual_loss import __version__
from sr_perceptual_loss.cli.app import app

HEAVY = {"torch", "torchvision", "basicsr", "timm", "safetensors", "huggingface_hub", "numpy"}
LAB = {"yaml", "msgspec", "scipy", "accelerate", "tqdm", "matplotlib", "filelock", "jinja2", "plotly"}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_help_and_version_import_nothing_heavy():
    out = run(
        "import sys\n"
        "from sr_perceptual_loss.cli.app import app\n"
        "for arguments in (['--help'], ['score', '--help'], ['--version'], ['nonsense']):\n"
        "    try:\n"
        "        app(arguments)\n"
        "    except SystemExit:\n"
        "        pass\n"
        f"loaded = {HEAVY | LAB!r} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    assert out.returncode == 0, out.stderr
    assert "Usage" in out.stdout and __version__ in out.stdout
    commands = ("list", "config", "score", "convert", "fetch", "train", "evaluate", "metrics", "probe", "report")
    for command in (*commands, "basicsr"):
        assert command in out.stdout


@pytest.mark.fault(69)
def test_commands_of_the_core_need_no_package_of_the_lab(picture, tmp_path):
    """With the packages of the extra `lab` blocked, `list` and `score` work, and `train` says what to install."""
    (tmp_path / "train.yml").write_text("")
    # typer imports rich by itself; filelock and tqdm come with torch and huggingface_hub.
    code = (
        "import sys\n"
        f"for name in {sorted(LAB - {'filelock', 'tqdm'})!r}:\n"
        "    sys.modules[name] = None\n"
        "from sr_perceptual_loss.cli.app import app\n"
        "for arguments in (\n"
        "    ['list'],\n"
        f"    ['score', {str(picture('a.png'))!r}, {str(picture('b.png'))!r}],\n"
        f"    ['train', '-c', {str(tmp_path / 'train.yml')!r}],\n"
        "):\n"
        "    try:\n"
        "        app(arguments)\n"
        "    except SystemExit as stop:\n"
        "        print(arguments[0], stop.code)\n"
    )
    out = run(code)
    assert out.returncode == 0, out.stderr
    assert "list 0" in out.stdout and "score 0" in out.stdout and "train 2" in out.stdout
    assert "pip install 'sr_perceptual_loss[lab]'" in out.stderr and "Traceback" not in out.stderr


@pytest.mark.fault(75)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fetch", "rqi"), "no critic 'rqi'"),
        (("fetch", "haarpsi"), "haarpsi"),
        (("convert", "x.pt", "--critic", "haarpsi"), "haarpsi"),
        (("score", "none.png", "none.png"), "none.png"),
        (("list", "rqi_manika"), "'rqi_maniqa'"),
        (("probe", "-opt", "none.yml"), "none.yml"),
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
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), ["critic", "'weihgts'", "'weights'"]),
        (("--set", "critic={name: rqi_maniqa}"), ["data.root", "b"]),
        (("--set", "epochs=[1"), ["--set epochs=[1"]),
    ],
)
def test_faults_in_a_training_file(srpl, tmp_path, more, words):
    (tmp_path / "train.yml").write_text(
        f"out: {tmp_path}/x\ncritic: {{name: rqi_maniqa, weihgts: null}}\ndata: {{dataset: table, root: b}}\n"
    )
    result = srpl("train", "-c", tmp_path / "train.yml", *more)
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ") and all(word in result.stderr for word in words), result.stderr


def test_bugs_are_not_hidden(srpl, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sr_perceptual_loss.cli.list._describe", broken)
    result = srpl("list")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_every_command_has_help():
    for command in app.registered_commands:
        assert command.callback is not None and command.callback.__doc__
