"""The runner as a user starts it: real processes, real files, BasicSR's own training loop."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sr_perceptual_loss import InputError, UnknownNameError, WeightsError

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


STATES = {"epoch": 0, "optimizers": [], "schedulers": []}


@pytest.fixture
def states(tmp_path, monkeypatch):
    """A folder with checkpoints of iterations 2 and 10, and resume(**path) -> (iteration, options)."""
    from sr_perceptual_loss.integrations import basicsr_runner

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments" / "run" / "training_states"
    for part in (folder, folder.parent / "models"):
        part.mkdir(parents=True)
    for iteration in (2, 10):
        torch.save({"iter": iteration, **STATES}, folder / f"{iteration}.state")
        torch.save({"params": {"w": torch.zeros(100)}}, folder.parent / "models" / f"net_g_{iteration}.pth")

    def resume(auto=True, **path):
        opt = {
            "name": "run",
            "auto_resume": auto,
            "network_g": {},
            "path": {"models": folder.parent / "models", **path},
        }
        state = basicsr_runner._load_resume_state(lambda opt, iteration: None, opt)
        return state and state["iter"], opt["path"].get("resume_state")

    return folder, resume


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_files_that_only_look_like_states_are_passed_over(states):
    """macOS puts `._2.state` beside `2.state` on some drives."""
    folder, resume = states
    for name in ("._10.state", "best.state", ".99.state"):
        (folder / name).write_bytes(b"no checkpoint")
    assert resume() == (10, str(Path("experiments/run/training_states/10.state")))


@pytest.mark.parametrize("name", ["training_states/10.state", "models/net_g_10.pth"])
def test_auto_resume_takes_the_newest_checkpoint_that_is_whole(states, caplog, name):
    folder, resume = states
    cut(folder.parent / name)
    before = sorted(folder.parent.rglob("*"))
    assert resume() == (2, str(Path("experiments/run/training_states/2.state")))
    assert name in caplog.text and sorted(folder.parent.rglob("*")) == before
    (folder / "2.state").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"10\.state"):
        resume()


def test_networks_in_formats_of_others_are_not_judged(states):
    folder, resume = states
    for iteration, content in ((10, b"\x80\x02 an older format"), (2, b"anything")):
        (folder.parent / "models" / f"net_g_{iteration}.pth").write_bytes(content)
    assert resume()[0] == 10
    (folder.parent / "models" / "net_g_10.pth").unlink()
    assert resume()[0] == 10


def test_a_named_state_that_is_damaged_or_missing_is_an_error(states):
    folder, resume = states
    cut(folder / "10.state")
    for name in ("10.state", "11.state"):
        with pytest.raises(WeightsError, match=name):
            resume(auto=False, resume_state=str(folder / name))
    assert resume(auto=False, resume_state=None) == (None, None)
    for path in folder.iterdir():
        path.unlink()
    assert resume() == (None, None)


@pytest.fixture
def run_here(project, monkeypatch):
    """run(text) -> the error of our runner for an option file with this content, in this process."""
    from sr_perceptual_loss.integrations import basicsr_runner

    folder, write = project
    monkeypatch.chdir(folder)
    for name in ("argv", "path"):
        monkeypatch.setattr(sys, name, list(getattr(sys, name)))
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    import sr_perceptual_loss.integrations.basicsr  # noqa: F401
    import basicsr.train

    for name in ("parse_options", "load_resume_state"):
        monkeypatch.setattr(basicsr.train, name, getattr(basicsr.train, name))

    def run(content, *arguments):
        path = folder / "file.yml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises((InputError, UnknownNameError, WeightsError)) as caught:
            basicsr_runner.run(["-opt", "file.yml", *arguments])
        assert not (folder / "experiments").exists()
        return str(caught.value)

    return write, run


DOUBLED = {
    "in a section": ("total_iter:", "total_iter: 5\n  total_iter:", "total_iter"),
    "a section": ("path:", "logger: {}\npath:", "logger"),
    "in a list": ("- type: L1Loss", "- type: L1Loss\n    loss_weight: 1\n    loss_weight: 2", "loss_weight"),
    "in braces": ("scale: 4", "scale: 4\nx: {a: {b: 1, c: 2, b: 3}}", "b"),
    "beside a merge key": ("scale: 4", "scale: 4\nx: &x {a: 1}\ny: {<<: *x, b: 1, b: 2}", "b"),
}


@pytest.mark.parametrize("name", DOUBLED)
def test_a_doubled_key_is_named_with_its_lines_and_file(run_here, name):
    write, run = run_here
    old, new, key = DOUBLED[name]
    text = write().read_text()
    text = re.sub(rf"(?m)^( *){re.escape(old)}", rf"\1{new}", text, count=1)
    numbers = [i for i, line in enumerate(text.splitlines(), 1) if re.search(rf"\b{key}:", line)]
    message = run(text)
    assert f"file.yml: `{key}`" in message
    found = [int(number) for number in re.search(r"lines (\d+) and (\d+)", message).groups()]
    assert set(found) <= set(numbers) and found[0] <= found[1]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda text: "", "file.yml: the file is empty"),
        (lambda text: "- a\n- b\n", "file.yml: .*Sequence"),
        (lambda text: text.replace("  total_iter", "\ttotal_iter"), r"file.yml, line \d+: .*tab"),
        (lambda text: text + "x: [1, 2\n", r"file.yml, line \d+"),
        (lambda text: text + "x: *nowhere\n", r"file.yml, line \d+: .*alias"),
        (lambda text: text + "x: !foo 1\n", r"file.yml, line \d+: .*'!foo'"),
        (lambda text: text + "x: &x {a: 1}\ny:\n  <<: *x\n", r"file.yml, line \d+: .*merge"),
        (lambda text: text.encode("utf-16"), "file.yml: byte 0 is not utf-8"),
        (lambda text: ("# f\u00fcr\n" + text).encode("latin-1"), "file.yml: byte 3 is not utf-8"),
        (lambda text: text.replace("name: run\n", ""), "`name`"),
        (lambda text: text.replace("datasets:", "dataset:"), "`datasets.train`.*'dataset'"),
        (lambda text: text.replace("val_freq: 1000", "val_freq: 0"), r"`val\.val_freq`: got '0'"),
        (lambda text: text.replace("save_img: false", ""), r"`val\.save_img`"),
        (lambda text: text.replace("total_iter: 4", "total_iter: many"), r"`train\.total_iter`: got 'many'"),
        (lambda text: text.replace("  val:\n", "  test:\n"), r"datasets\.val"),
        (lambda text: text.replace("data/GT", "data/GTT"), r"datasets\.\w+\.dataroot_gt: .*data/GTT"),
        (lambda text: text + "losses: [{type: L1Loss}]\n", "^losses: "),
        (lambda text: text + "guard: {every: 5}\n", "^guard: "),
        (lambda text: text + "pixel_opt: {type: L1Loss}\n", "^pixel_opt: "),
        (
            lambda text: text.replace("val:\n  metrics", "val:\n  losses: [{type: L1Loss}]\n  metrics"),
            r"^val\.losses: ",
        ),
        (lambda text: text.replace("val:\n  metrics:", "val:\n  metric:"), r"^val\.metric: .*'metrics'"),
        (lambda text: text + "metrics: {m: {type: calculate_psnr}}\n", "^metrics: .*`val`"),
        (lambda text: text + "ema_decay: 0.9\n", "^ema_decay: .*`train`"),
        (lambda text: text + "Losses: [{type: L1Loss}]\n", "^Losses: .*'losses'"),
        (lambda text: text.replace("pretrain_network_g:", "pretrain_model_g:"), r"^path\..*'pretrain_network_g'"),
        (lambda text: text.replace("resume_state:", "resume:"), r"^path\.resume: .*'resume_state'"),
        (lambda text: text.replace("use_tb_logger:", "use_tb_loger:"), r"^logger\..*'use_tb_logger'"),
        (lambda text: re.sub(r"(?m)^val:\n(  .*\n)+", "val: true\n", text), "`val`: got 'true'"),
        (
            lambda text: text.replace("critic: haarpsi", "critic: haarpsi\n    loss_weight: -0.1"),
            r"losses\[1\].* -0\.1",
        ),
        (
            lambda text: text.replace("train:\n  losses", "train:\n  guard: {evry: 5}\n  losses"),
            r"train\.guard.*'every'",
        ),
        (lambda text: text.replace("calculate_haarpsi", "calculate_psnr_pt"), "write calculate_psnr"),
        (lambda text: text.replace("PerceptualSRModel", "PerceptualSRMode"), "'PerceptualSRMode'.*'PerceptualSRModel'"),
        (lambda text: text.replace("PerceptualSRModel", "PerceptualStyleGAN2Model"), "StyleGAN2Model.*SRModel"),
    ],
)
def test_faults_of_the_file_are_one_sentence_before_anything_is_written(run_here, change, names):
    write, run = run_here
    text = write().read_text()
    changed = change(text)
    assert changed != text
    assert re.search(names, run(changed))


def test_a_wrong_force_yml_is_named(run_here):
    write, run = run_here
    for argument in ("trian:total_iter=1", "train:total_iter", "train:losses:0:loss_weight=1"):
        assert run(write().read_text(), "--force_yml", argument).startswith("--force_yml: ")


def test_numbers_with_exponents_or_a_sign_are_numbers_in_force_yml_too(run_here):
    from basicsr.utils.options import _postprocess_yml_value

    run_here[1](
        "", "--force_yml", "train:optim_g:lr=1e-4", "train:warmup_iter=-1", "name=run-1e4", "train:total_iter=5"
    )
    values = [_postprocess_yml_value(argument.partition("=")[2]) for argument in sys.argv[-4:]]
    assert values == [1e-4, -1, "run-1e4", 5]


def test_a_module_is_imported_by_its_name_without_py(run_here, tmp_path):
    (tmp_path / "proj.py").write_text("")
    from sr_perceptual_loss.integrations import basicsr_runner

    with pytest.raises(InputError, match=r"--import proj\.py: .*without '\.py'"):
        basicsr_runner.prepare(["proj.py"])


def test_what_basicsr_reads_is_read(tmp_path):
    from sr_perceptual_loss.integrations.basicsr import option_file

    path = tmp_path / "x.yml"
    text = (
        "name: t\nmodel_type: SRModel\nbetas: !!python/tuple [0.9, 0.99]\na: &a {b: 1}\nc: [*a, *a]\n# \u4e2d\u6587\n"
    )
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n").encode()):
        path.write_bytes(content)
        assert [key.value for key, _ in option_file.read_nodes(path).value] == ["name", "model_type", "betas", "a", "c"]


def test_names_of_the_registries_are_looked_up_with_the_nearest_one(run_here, monkeypatch):
    from sr_perceptual_loss.integrations import basicsr_runner
    import basicsr.train

    _, _ = run_here
    for message, nearest in (
        ("No object named 'L1Los' found in 'loss' registry!", "'L1Loss'"),
        ("No object named 'SRVGGNetCompac' found in 'arch' registry!", "'SRVGGNetCompact_basicsr'"),
    ):
        monkeypatch.setattr(basicsr.train, "train_pipeline", lambda root, message=message: {}[message])
        with pytest.raises(UnknownNameError, match=nearest):
            basicsr_runner.run([])


@pytest.mark.fault(69)
def test_without_basicsr_the_message_says_what_to_do(tmp_path):
    code = (
        "from importlib.machinery import PathFinder\n"
        "real = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *a, **k: None if name == 'basicsr' else real(name, *a, **k)\n"
        "import sr_perceptual_loss\n"
        "print(sr_perceptual_loss.list_critics())\n"
        "try:\n"
        "    import sr_perceptual_loss.integrations.basicsr\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    log = start([sys.executable, "-c", code], tmp_path)
    assert "haarpsi" in log
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
