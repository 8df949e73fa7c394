"""Training runs: they learn, resume exactly, stop at NaN, and do not depend on the number of processes."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from sr_perceptual_loss import create_critic
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.lab.training import loop
from sr_perceptual_loss.lab.training.loop import objective, train
from sr_perceptual_loss.lab.training.network import build_critic
from sr_perceptual_loss.lab.training.run_folder import History


def losses(out):
    return {e["step"]: e["loss"] for e in History(out / "history.jsonl").entries() if "loss" in e}


def validations(out):
    return {e["step"]: e["srcc_mean"] for e in History(out / "history.jsonl").entries() if "srcc" in e}


def run(config, **options):
    return train(config, verbose=False, **options)


D = torch.tensor([0.05, -0.1, 0.4, -2.0])


def test_objectives_in_closed_form():
    zero = torch.zeros(4)
    torch.testing.assert_close(objective("l1", D, zero), torch.tensor([0.05, 0.1, 0.4, 2.0]))
    torch.testing.assert_close(objective("l2", D, zero), torch.tensor([0.0025, 0.01, 0.16, 4.0]))
    expected = torch.tensor([0.00125, 0.005, 0.2 * (0.4 - 0.1), 0.2 * (2.0 - 0.1)])
    torch.testing.assert_close(objective("huber", D, zero, delta=0.2), expected)
    # Huber of small differences is half of L2.
    torch.testing.assert_close(objective("huber", D[:3], zero[:3]), 0.5 * objective("l2", D[:3], zero[:3]))


def test_a_run_learns_and_its_best_weights_give_the_reported_value(settings, capsys):
    config = settings(epochs=4)
    result = train(config)
    values = validations(config.out)
    assert result.step == 4 * (36 // 4) and len(values) == 4
    assert result.best == max(values.values()) > 0.9 and values[result.best_step] == result.best
    series = losses(config.out)
    assert np.mean([series[s] for s in range(1, 10)]) > 2 * np.mean([series[s] for s in range(28, 37)])
    path = config.out / "best.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    summary = json.loads(header["srpl.training"])
    assert summary["validation"]["srcc_mean"] == result.best and summary["labels"]["scale"] == "minmax"
    assert "table" in header["srpl.training_data"]
    create_critic("rqi_maniqa", weights=path)
    out, err = capsys.readouterr()
    assert out == "" and "dataset: table" in err and "epoch 4/4: validation srcc" in err


def interrupted(config, monkeypatch, at_step):
    """Run until a step and stop there as Ctrl-C would."""
    original = loop._Training._step

    def step(self, batch):
        if self.progress.step == at_step:
            raise KeyboardInterrupt
        original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            run(config)


@pytest.mark.parametrize("scheme", ["rqi", "mos"])
def test_interrupted_and_resumed_equals_uninterrupted(settings, tmp_path, monkeypatch, scheme):
    sections = {"checkpoint": {"every": 4}, "epochs": 2, "schedule": {"type": "cosine", "t_max": 5}, "scheme": scheme}
    if scheme == "rqi":
        # With dropout the random state matters too.
        sections["critic"] = {"name": "rqi_maniqa", "config": {**settings().critic.config, "dropout": 0.1}}
    else:
        sections["critic"] = {"name": "tiny_efficient_pban"}
    whole, broken = settings(f"out={tmp_path}/whole", **sections), settings(f"out={tmp_path}/broken", **sections)
    expected = run(whole)
    interrupted(broken, monkeypatch, at_step=14)
    assert max(losses(broken.out)) == 14
    assert run(broken, resume=True) == expected
    assert losses(broken.out) == losses(whole.out) and len(losses(whole.out)) == expected.step
    assert validations(broken.out) == validations(whole.out)
    name = sections["critic"]["name"]
    one, other = (create_critic(name, weights=c.out / "best.safetensors").state_dict() for c in (whole, broken))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_folder_of_another_run_is_refused_and_a_finished_run_stays_as_it_is(settings):
    config = settings(epochs=1)
    first = run(config)
    with pytest.raises(InputError, match="--resume"):
        run(config)
    with pytest.raises(InputError, match="'optimizer'"):
        run(settings("optimizer.lr=0.5", epochs=1), resume=True)
    assert run(config, resume=True) == first


def test_a_non_finite_loss_stops_by_name_and_saves_the_batch(settings, monkeypatch):
    config = settings()
    calls = []

    def with_nan(loss, predictions, labels, *, delta):
        values = objective(loss, predictions, labels, delta=delta)
        calls.append(1)
        return torch.where(torch.arange(len(values)) == 2, math.nan, values) if len(calls) == 3 else values

    monkeypatch.setattr(loop, "objective", with_nan)
    with pytest.raises(NonFiniteError, match="step 3") as error:
        run(config)
    (path,) = config.out.glob("bad_batch_step3_rank0.safetensors")
    with safe_open(path, "pt") as file:
        items = json.loads(file.metadata()["items"])
        assert file.get_tensor("image").shape == (4, 3, 32, 32)
        labels = file.get_tensor("label").tolist()
    assert [item["label"] for item in items] == pytest.approx(labels)
    assert items[2]["image"].rsplit("/", 1)[-1] in str(error.value)
    assert max(losses(config.out)) == 2


def test_an_exploding_gradient_is_stopped_before_the_weights(settings, monkeypatch):
    config = settings("optimizer.max_norm=1.0")

    def steep(loss, predictions, labels, *, delta):
        # Zero, with a slope that is not finite.
        return objective(loss, predictions, labels, delta=delta) + (predictions - predictions.detach()).abs().sqrt()

    stepped = []
    monkeypatch.setattr(loop, "objective", steep)
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_: stepped.append(1))
    with pytest.raises(NonFiniteError, match=r"step 1.*gradient nan"):
        run(config)
    assert not stepped and list(config.out.glob("bad_batch_step1_rank0.safetensors"))


def test_the_callers_random_state_is_untouched(settings):
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    expected = (torch.rand(1).item(), random.random(), np.random.rand())
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    run(settings(epochs=1))
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected


def test_published_parts_stay_as_they_were(settings):
    config = settings(critic={"name": "tiny_efficient_pban"}, scheme="mos", epochs=1)
    start = build_critic(config.critic, seed=config.seed).state_dict()
    run(config)
    end = create_critic("tiny_efficient_pban", weights=config.out / "best.safetensors").state_dict()
    frozen = ("stem.0.", "stem.1.", "stem.4.")
    assert all(torch.equal(end[key], start[key]) for key in start if key.startswith(frozen))
    assert not torch.equal(end["fc11.weight"], start["fc11.weight"])
    # The trained part of the trunk moves, its batch norm statistics too.
    moving = [key for key in start if key.startswith("stem.5.") and key.endswith("running_mean")]
    assert moving and all(not torch.equal(end[key], start[key]) for key in moving)


def test_bf16_runs_and_differs_from_fp32(settings, tmp_path):
    plain, half = settings(f"out={tmp_path}/a", epochs=1), settings(f"out={tmp_path}/b", "precision=bf16", epochs=1)
    run(plain), run(half)
    one, other = losses(plain.out), losses(half.out)
    assert one != other and one[1] == pytest.approx(other[1], rel=0.1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("batch=100", "batch"),
        ("critic.name=haarpsi", "haarpsi"),
        ("critic.name=rqi_manika", "'rqi_maniqa'"),
        ("critic.freeze=[nothing.]", "'nothing.'"),
        ("critic.freeze=[vit., conv, tablock, swin, fc_]", r"critic\.freeze"),
        ("critic.config.sid=3", "'side'"),
        ("data.dataset=tabel", "'table'"),
        ("input.crop=24", r"input\.crop"),
        ("validation.protocol=center", "'centre'"),
        ("validation.limit=1", "validation"),
        ("data.split=official", "'train'"),
    ],
)
def test_what_cannot_run_fails_before_the_first_step(settings, override, words):
    config = settings(override)
    with pytest.raises(Exception, match=words):
        run(config)
    assert not losses(config.out)


def test_a_missing_data_root_is_said_before_backbones_are_downloaded(settings, monkeypatch):
    monkeypatch.setattr(loop, "build_critic", lambda *_, **__: pytest.fail("came too early"))
    with pytest.raises(InputError, match=r"data\.root"):
        run(settings("data.root=/nowhere/at/all"))


def launch(tmp_path, config, processes):
    path = tmp_path / f"launch{processes}.yml"
    content = config.as_dict() | {"out": str(tmp_path / f"run{processes}")}
    path.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "sr_perceptual_loss.cli.app", "train", "-c", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp_path / f"run{processes}"


def test_two_processes_give_the_same_validation_as_one(settings, tmp_path):
    config = settings(epochs=2)
    run(config)
    two = launch(tmp_path, config, 2)
    assert validations(two) == pytest.approx(validations(config.out), abs=1e-12)
    one, other = losses(config.out), losses(two)
    assert set(one) == set(other) and [other[s] for s in one] == pytest.approx(list(one.values()), rel=1e-4)
