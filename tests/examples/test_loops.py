"""The loop examples, whole and tiny: both stages, the critic switched on by its schedule, what it must not touch."""

from __future__ import annotations

import copy
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BASE = ["--iterations", "4", "--batch", "2", "--crop", "32"]


@pytest.fixture
def example(monkeypatch):
    """example(name) -> the module, imported as a script's folder would let it be."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("small_sr", "plain_pytorch", "lightning_module", "accelerate_loop", "linf_flow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module


@pytest.fixture
def folder(tmp_path):
    """Two 96-pixel pictures."""
    random = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(2):
        small = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        small.resize((160, 160), Image.Resampling.BICUBIC).save(images / f"{number}.png")
    return images


def options(folder, out, *more):
    return [*BASE, "--data", str(folder), "--test", str(folder), "--out", str(out), *more]


def check(results, before="before", after="after"):
    assert next(iter(results)).startswith(before)
    assert all(np.isfinite(list(row.values())).all() for row in results.values())
    pairs = [(results[key], results[key.replace(before, after)]) for key in results if key.startswith(before)]
    assert pairs and all(a["psnr_y"] != b["psnr_y"] for a, b in pairs)


@pytest.mark.fault(67)
def test_plain_pytorch(example, folder, tmp_path, capsys):
    module, out = example("plain_pytorch"), tmp_path / "out"
    results = module.main(options(folder, out))
    check(results)
    assert (out / "plain_pytorch.png").is_file()
    lines = capsys.readouterr().out
    assert re.search(r"iteration 3 .*haarpsi: loss -0\.\d+  score 0\.\d+", lines)
    state = torch.load(out / "state.pt", weights_only=True)
    assert not [key for key in state["network"] if "critic" in key]
    # Interrupted after the first stage, the same command ends at the same weights.
    halfway = tmp_path / "halfway"
    halfway.mkdir()
    torch.save(first_half(module, folder, halfway), halfway / "state.pt")
    assert module.main(options(folder, halfway)) == results


def first_half(module, folder, out):
    """The checkpoint that a run leaves when it dies after the first stage."""
    saved, real = [], torch.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.torch, "save", lambda state, path: saved.append(copy.deepcopy(state)) or real(state, path))
        module.main(options(folder, out))
    return saved[0]


def test_weight_zero_is_a_control(example, folder, tmp_path):
    module = example("plain_pytorch")
    control = module.main(options(folder, tmp_path / "a", "--loss-weight", "0"))
    treated = module.main(options(folder, tmp_path / "b", "--loss-weight", "5"))
    assert control["before"] == treated["before"]
    assert control["after"] != treated["after"]


@pytest.mark.fault(67)
def test_lightning(example, folder, tmp_path):
    pytest.importorskip("lightning", reason="needs lightning")
    module, out = example("lightning_module"), tmp_path / "out"
    check(module.main(options(folder, out)))
    state = torch.load(out / "last.ckpt", weights_only=False)  # our own file, with Lightning's objects
    assert state["state_dict"] and all(key.startswith("network.") for key in state["state_dict"])
    assert (out / "lightning.png").is_file()
    model = module.PerceptualSR("haarpsi", "local", 1.0, 0)
    assert {id(p) for p in model.parameters()} == {id(p) for p in model.network.parameters()}


@pytest.mark.fault(67)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(example, folder, tmp_path, precision):
    pytest.importorskip("accelerate", reason="needs accelerate")
    module, out = example("accelerate_loop"), tmp_path / "out"
    try:
        check(module.main(options(folder, out, "--accumulate", "2", "--mixed-precision", precision)))
    finally:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
    assert (out / "accelerate.png").is_file()


def test_linf_flow(example, folder, tmp_path, capsys):
    module, out = example("linf_flow"), tmp_path / "out"
    results = module.main(options(folder, out))
    check(results)
    assert list(results) == ["before, t=0.0", "before, t=0.8", "after, t=0.0", "after, t=0.8"]
    assert re.search(r"iteration 3  nll .*score_haarpsi 0\.\d+", capsys.readouterr().out)


def test_flow_is_invertible_and_its_density_counts_volume(example):
    module = example("linf_flow")
    torch.manual_seed(0)
    network = module.SmallFlow().double()
    torch.nn.init.normal_(network.numbers[-1].weight, std=0.05)
    lr = torch.rand(1, 3, 4, 4, dtype=torch.float64) * 2 - 1
    coord, cell = module.query((1, 1))
    where = {"inp": lr, "feat": network("gen_feat", inp=lr), "coord": coord.double(), "cell": cell.double()}
    best = network("query_rgb", temperature=0.0, **where)

    def density(x):
        return network("query_log_p", gt=x.view(1, 3, 1, 1), **where).sum()

    # At z = 0 the Gaussian is flat, and what remains is -1.5 log(2 pi) + log |dz/dx|; the Hessian is -J^T J.
    x = best.detach().flatten()
    assert torch.autograd.functional.jacobian(density, x).abs().max() < 1e-4
    hessian = torch.autograd.functional.hessian(density, x)
    expected = 0.5 * torch.logdet(-hessian) - 1.5 * np.log(2 * np.pi)
    assert float(density(x).detach()) == pytest.approx(float(expected), abs=1e-5)
