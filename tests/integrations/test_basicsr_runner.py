"""The runner as a user starts it: real processes, real files, BasicSR's own training loop."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sr_perceptual_loss import InputError

SRPL = [str(Path(sys.executable).with_name("srpl")), "basicsr"]
MODULE = [sys.executable, "-m", "sr_perceptual_loss.integrations.basicsr_runner"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "1", "-m", MODULE[2]]


def start(command, cwd, *, code=0, **environment):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=env, timeout=300)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def losses(log):
    """iteration -> (l_l1, l_haarpsi, score_haarpsi) from BasicSR's log lines."""
    rows = re.findall(r"iter:\s*(\d+).*?l_haarpsi: (\S+) l_l1: (\S+) score_haarpsi: (\S+)", log)
    return {int(i): values for i, *values in rows}


def test_train_validate_interrupt_and_resume_on_the_cpu(project):
    folder, write = project
    whole = losses(start([*SRPL, "-opt", str(write("whole", total=4))], folder))
    assert sorted(whole) == [1, 2, 3, 4]
    start([*SRPL, "-opt", str(write("halves", total=2))], folder)
    state = folder / "experiments" / "halves" / "training_states" / "2.state"
    assert torch.load(state, weights_only=True)["iter"] == 2
    log = start([*SRPL, "-opt", str(write("halves", total=4)), "--auto_resume"], folder)
    assert "Resuming training from epoch: 0, iter: 2." in log
    assert sorted(losses(log)) == [3, 4]
    assert re.search(r"# haarpsi: 0\.\d{4}", log)
    assert (folder / "experiments" / "halves" / "models" / "net_g_latest.pth").is_file()


def test_spawned_workers_and_a_partial_basicsr_folder_and_project_modules(project):
    """CAMixerSR's layout: a partial `basicsr/` in the working directory, archs as top-level modules, spawn workers."""
    folder, write = project
    (folder / "basicsr").mkdir()
    (folder / "basicsr" / "__init__.py").write_text("from .archs import *\n")
    (folder / "models.py").write_text(
        "from basicsr.models.sr_model import SRModel\n"
        "from basicsr.utils.registry import MODEL_REGISTRY\n"
        "@MODEL_REGISTRY.register()\n"
        "class CAModel(SRModel):\n"
        "    pass\n"
    )
    (folder / "archs.py").write_text(
        "import multiprocessing\n"
        "from basicsr.utils.registry import ARCH_REGISTRY\n"
        "from torch import nn\n"
        "if multiprocessing.parent_process() is None:\n"
        "    multiprocessing.set_start_method('spawn', force=True)\n"
        "@ARCH_REGISTRY.register()\n"
        "class Own(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(3, 48, 3, padding=1), nn.PixelShuffle(4))\n"
    )
    opt = write("spawn", total=2, workers=1, network_g={"type": "Own"}, model_type="PerceptualCAModel")
    log = start([*MODULE, "--import", "archs", "--import", "models", "-opt", str(opt)], folder)
    assert sorted(losses(log)) == [1, 2], log[-2000:]
    assert "Network [Own] is created" in log and "Model [PerceptualCAModel] is created" in log


def test_a_projects_own_start_script(project):
    folder, write = project
    code = folder / "code"
    code.mkdir()
    (code / "beside.py").write_text("WORD = 'found the module beside the script'\n")
    (code / "train.py").write_text(
        "import multiprocessing, os.path as osp\n"
        "import beside\n"
        "from basicsr.train import train_pipeline\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn', force=True)\n"
        "    print(beside.WORD, osp.basename(__file__))\n"
        "    train_pipeline(osp.abspath(osp.join(__file__, osp.pardir, osp.pardir)))\n"
    )
    opt = write("script", total=2, workers=1)
    log = start([*SRPL, "--script", "code/train.py", "-opt", str(opt)], folder)
    assert "found the module beside the script train.py" in log
    assert sorted(losses(log)) == [1, 2]
    assert (folder / "experiments" / "script").is_dir()


def test_under_torchrun(project):
    folder, write = project
    log = start([*TORCHRUN, "-opt", str(write("torchrun", total=2))], folder)
    assert sorted(losses(log)) == [1, 2]


@pytest.mark.fault(75)
def test_errors_exit_with_2_and_name_the_key(project):
    folder, write = project
    log = start([*SRPL, "-opt", str(write("model", model_type="PerceptualCAModell"))], folder, code=2)
    assert "no model 'PerceptualCAModell' is registered" in log and "--import" in log
    entry = {"type": "RQILoss", "loss_weight": 0.1}
    log = start([*SRPL, "-opt", str(write("missing", train={"losses": [entry]}))], folder, code=2)
    assert "srpl fetch rqi_maniqa" in log and "Traceback" not in log
    log = start([*SRPL, "--import", "archz", "-opt", str(write())], folder, code=2)
    assert "--import archz: no such module in" in log


def test_missing_files_are_named_before_anything_is_imported(tmp_path):
    from sr_perceptual_loss.integrations import basicsr_runner

    with pytest.raises(InputError, match=r"-opt nowhere\.yml"):
        basicsr_runner.run(["-opt", "nowhere.yml"])
    with pytest.raises(InputError, match=r"--script nowhere\.py"):
        basicsr_runner.run([], script="nowhere.py")


def test_files_that_only_look_like_states_and_yaml_tags(tmp_path, monkeypatch):
    """macOS puts `._2.state` beside `2.state` on some drives; BasicSR's loader accepts tags such as !!python/tuple."""
    from types import SimpleNamespace

    from sr_perceptual_loss.integrations import basicsr_runner
    from sr_perceptual_loss.integrations.basicsr.projects import model_type_of

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    states = tmp_path / "experiments" / "run" / "training_states"
    states.mkdir(parents=True)
    for iteration in (2, 10):
        torch.save({"iter": iteration}, states / f"{iteration}.state")
    (states / "._10.state").write_bytes(b"no checkpoint")
    train = SimpleNamespace(check_resume=lambda opt, iteration: None)
    basicsr_runner._resume_on_cpu(train)
    assert train.load_resume_state({"name": "run", "auto_resume": True, "path": {}})["iter"] == 10
    (tmp_path / "x.yml").write_text("name: t\nmodel_type: SRModel\nbetas: !!python/tuple [0.9, 0.99]\n")
    assert model_type_of(["-opt", "x.yml"]) == "SRModel"


@pytest.mark.fault(69)
def test_without_basicsr_the_message_says_what_to_do(tmp_path):
    code = (
        "from importlib.machinery import PathFinder\n"
        "real = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *a, **k: None if name == 'basicsr' else real(name, *a, **k)\n"
        "import sr_perceptual_loss\n"
        "print(sr_perceptual_loss.list_critics()[0])\n"
        "try:\n"
        "    import sr_perceptual_loss.integrations.basicsr\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    log = start([sys.executable, "-c", code], tmp_path)
    assert "efficient_pban" in log
    assert "BasicSR is not installed" in log and "pip install --no-build-isolation" in log
    assert "The losses work without it." in log


@pytest.mark.fault(69)
def test_a_partial_folder_in_front_is_named(tmp_path):
    (tmp_path / "basicsr").mkdir()
    (tmp_path / "basicsr" / "__init__.py").write_text("from .archs import *\n")
    code = "try:\n    import sr_perceptual_loss.integrations.basicsr\nexcept ImportError as error:\n    print(error)\n"
    log = start([sys.executable, "-c", code], tmp_path)
    assert "is a project's own partial basicsr folder" in log and "srpl basicsr -opt" in log


def test_a_clone_without_version_file_is_preferred_and_imports(tmp_path):
    """A whole clone in the working directory wins over site-packages; a fresh one has no basicsr/version.py."""
    package = tmp_path / "basicsr"
    for part in ("utils", "archs", "losses"):
        (package / part).mkdir(parents=True)
        (package / part / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from .version import __gitsha__, __version__\n")
    (tmp_path / "VERSION").write_text("9.9.9\n")
    code = (
        "import sys, pathlib\n"
        "sys.path[:] = [p for p in sys.path if p]\n"
        "from sr_perceptual_loss.integrations import basicsr_runner, basicsr_shim\n"
        "basicsr_runner._arrange_path(pathlib.Path.cwd(), front=False)\n"
        "basicsr_shim.require_basicsr()\n"
        "import basicsr\n"
        "print(basicsr.__version__, basicsr.__gitsha__, basicsr.__file__)\n"
    )
    log = start([sys.executable, "-c", code], tmp_path)
    assert log.split()[-3:] == ["9.9.9", "unknown", str(package / "__init__.py")]
