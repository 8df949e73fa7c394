"""A whole training of rqi_lite in seconds: files, resuming bit by bit, the time budget, the command, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lite_run import write_run
from safetensors.torch import load_file
from typer.testing import CliRunner

from sr_perceptual_loss import InputError, create_critic
from sr_perceptual_loss.cli.app import app
from sr_perceptual_loss.critics.rqi_lite import RQILite
from sr_perceptual_loss.training.checkpoints import newest
from sr_perceptual_loss.training.lite.card import gate_rows
from sr_perceptual_loss.training.lite.loop import train_lite
from sr_perceptual_loss.training.lite.settings import is_lite, read_lite_config
from sr_perceptual_loss.training.lite.state import read_state

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.*")


def run(root, *overrides, resume=False, clock=None, **sections):
    config = read_lite_config(write_run(root, **sections), overrides)
    more = {"clock": clock} if clock else {}
    return config, train_lite(config, resume=resume, talk=False, **more)


def state(config):
    return read_state(newest(config.out))


def tensors(value):
    """All tensors and numbers of a state, in order."""
    if isinstance(value, dict):
        return [t for key in sorted(value, key=str) for t in tensors(value[key])]
    if isinstance(value, list | tuple):
        return [t for one in value for t in tensors(one)]
    return [value]


def test_end_to_end(tmp_path):
    before = torch.get_rng_state()
    config, result = run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert result.finished and result.steps == 4 and result.weights == config.out / "rqi_lite.safetensors"
    report = json.loads((config.out / "report.json").read_text())
    assert report["steps"] == 4 and report["pairs_seen"] == 4 * 2 * 4
    assert report["judged"]["all"]["n"] == 10 and report["judged"]["all"]["srcc"] == pytest.approx(result.srcc)
    assert report["antisymmetry"] <= 1e-6
    assert report["left_out"] == ["3 motion blur", "107 back-projection"]
    # The file is a critic in half precision, and its header says where labels come from.
    assert {t.dtype for t in load_file(result.weights).values()} == {torch.float16}
    critic = create_critic("rqi_lite", weights=result.weights)
    assert critic.config["widths"] == (6, 8, 12)
    card = (config.out / "card.md").read_text()
    assert "rqi_lite is neither RQI nor Efficient-PBAN" in card.splitlines()[2]
    assert "| attack from GT, 20 steps of 0.002: mean f | <= 0.05 |" in card
    assert report["sha256"] in card and "not human ratings of its training images" in card
    entries = [json.loads(line) for line in (config.out / "history.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries] == [1, 2, 3, 4]
    # All of it took part: the pool, the penalty, the networks.
    assert {"pool", "penalty", "above_label/networks", "above_label/pixels", "above_label/patterns"} <= {
        key for e in entries for key in e
    }


def test_interrupted_equals_uninterrupted_bit_by_bit(tmp_path):
    whole, _ = run(tmp_path, out="whole")
    ticks = iter(range(10_000))
    # One second a look at the clock: it is over after some steps.
    parted, first = run(tmp_path, out="parted", minutes=2.5 / 60, clock=lambda: float(next(ticks)))
    assert not first.finished and 0 < first.steps < 4 and first.weights is None
    assert not (parted.out / "rqi_lite.safetensors").exists()
    with pytest.raises(InputError, match=r"holds a training \(step_0000000\d\); add --resume"):
        run(tmp_path, out="parted", minutes=None)
    _, second = run(tmp_path, out="parted", minutes=None, resume=True)
    assert second.finished and second.steps == 4
    (step_a, a), (step_b, b) = state(whole), state(parted)
    assert step_a == step_b == 4
    for one, other in zip(tensors(a), tensors(b), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert (whole.out / "rqi_lite.safetensors").read_bytes()[-1000:] == (
        parted.out / "rqi_lite.safetensors"
    ).read_bytes()[-1000:]
    history = [(config.out / "history.jsonl").read_text() for config in (whole, parted)]
    assert history[0] == history[1]


def test_a_folder_of_another_run_is_refused(tmp_path):
    run(tmp_path, steps=1)
    with pytest.raises(InputError, match="holds a run with another 'seed': 0, now 1"):
        run(tmp_path, steps=1, seed=1, resume=True)


def test_the_command(tmp_path):
    path = write_run(tmp_path, steps=1, attack={"pool": 0}, groups={"networks": 0.0})
    result = CliRunner().invoke(app, ["train", "-c", str(path), "--set", "seed=3"])
    assert result.exit_code == 0, result.output
    assert "rqi_lite.safetensors\t" in result.output
    assert json.loads((tmp_path / "run" / "report.json").read_text())["seed"] == 3


@pytest.mark.parametrize(
    "sections, words",
    [
        ({"attack": {"pixel": 3}}, "attack: unknown key 'pixel'. Did you mean 'pixels'"),
        ({"groups": {"sides": [100]}}, r"groups.sides: got \[100\], expected multiples of 8"),
        ({"data": {"held_out_types": [26]}}, "data.held_out_types: got 26"),
        ({"pairs": {"against_gt": 0.9, "degraded": 0.2}}, "pairs.degraded: got 0.2"),
        ({"data": {"photos": []}}, "data.photos: got an empty list"),
        ({"precision": "fp16"}, "precision: got 'fp16'"),
        ({"step": 3}, "unknown key 'step'. Did you mean 'steps'"),
    ],
)
def test_settings_that_cannot_be(tmp_path, sections, words):
    with pytest.raises(InputError, match=words):
        if set(sections) == {"step"}:
            path = write_run(tmp_path)
            path.write_text(path.read_text() + "step: 3\n")
            read_lite_config(path)
        read_lite_config(write_run(tmp_path, **sections))


def test_which_training_a_file_asks_for(tmp_path):
    assert is_lite(write_run(tmp_path))
    other = tmp_path / "other.yml"
    other.write_text("scheme: rqi\n")
    assert not is_lite(other) and not is_lite(tmp_path / "missing.yml")
    other.write_text("a: [")
    assert not is_lite(other)


@pytest.mark.parametrize("name", ["rqi_lite.yml", "rqi_lite_cpu.yml", "rqi_lite_statistics.yml"])
def test_example_files_can_be_read(name):
    config = read_lite_config(Path(__file__).parents[2] / "examples" / "critics" / name)
    assert config.attack.start < config.steps and config.data.leave_out == ("I01",)
    assert RQILite(**config.critic).card.name == "rqi_lite"


def test_gates_say_what_was_not_measured():
    rows = {row[0]: row[2:] for row in gate_rows({"antisymmetry": 2e-5, "judged": {"all": {"srcc": 0.9}}})}
    assert rows["antisymmetry, largest abs(f(a,b) + f(b,a))"] == ("2e-05", "fail")
    assert rows["SRCC to own labels, new photographs, all types"] == ("0.9", "pass")
    assert rows["SRCC on types left out of training"] == ("not measured", "open")
