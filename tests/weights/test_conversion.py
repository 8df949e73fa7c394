"""Published checkpoint -> our file, without ever running code of it (fault matrix 55, 57)."""

from __future__ import annotations

import io
import os
import pickle
import traceback
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sr_perceptual_loss.critics.registry import create_critic, critic_class
from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights.container import read
from sr_perceptual_loss.weights.convert import convert
from sr_perceptual_loss.weights.disk import sha256_of
from sr_perceptual_loss.weights.matching import own_entries


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_plain_state_dict(small, small_class, checkpoint, tmp_path):
    report = convert(checkpoint, small_class(), tmp_path / "out.safetensors", licence="MIT", origin="them")
    assert report.out == tmp_path / "out.safetensors"
    assert (report.entries, report.wrapper, report.dropped) == (7, "", ("head.weight",))
    assert report.source_sha256 == sha256_of(checkpoint)
    found = read(report.out)
    assert found.sha256 == report.sha256
    assert found.metadata["srpl.source_sha256"] == report.source_sha256
    assert (found.metadata["srpl.licence"], found.metadata["srpl.origin"]) == ("MIT", "them")
    assert found.metadata["srpl.commercial_use"] == "unknown"
    for key, value in found.state.items():
        assert torch.equal(value, small.state_dict()[key]), key


@pytest.mark.fault(57)
@pytest.mark.parametrize(
    ("wrap", "wrapper"),
    [
        (lambda s: {"params": s}, "params"),
        (lambda s: {"params": {"wrong": torch.zeros(1)}, "params_ema": s}, "params_ema"),
        (lambda s: {"epoch": 3, "model_state_dict": s, "optimizer_state_dict": {"lr": 0.1}}, "model_state_dict"),
        (lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}, "state_dict"),
        (lambda s: {"model": {f"_orig_mod.module.{k}": v for k, v in s.items()}}, "model"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, ""),
    ],
)
def test_wrappers_and_prefixes(small, small_class, as_published, tmp_path, wrap, wrapper):
    torch.save(wrap(as_published(small)), tmp_path / "x.pth")
    report = convert(tmp_path / "x.pth", small_class(), tmp_path / "out.safetensors")
    assert report.wrapper == wrapper
    assert torch.equal(read(report.out).state["body.0.weight"], small.body[0].weight)


def test_key_chooses(small, small_class, as_published, tmp_path):
    other = {key: value + 1 for key, value in as_published(small).items()}
    torch.save({"params_ema": as_published(small), "params": other, "mine": other}, tmp_path / "x.pth")
    for key in ("params", "mine"):
        report = convert(tmp_path / "x.pth", small_class(), tmp_path / "out.safetensors", key=key)
        assert report.wrapper == key
        assert torch.equal(read(report.out).state["body.0.bias"], small.body[0].bias + 1)
    with pytest.raises(WeightsError, match=r"has no key 'net'\. Its keys: params_ema, params, mine"):
        convert(tmp_path / "x.pth", small_class(), tmp_path / "out.safetensors", key="net")


def test_safetensors_of_others(small, small_class, as_published, tmp_path):
    for name in ("x.safetensors", "x.bin"):
        save_file({k: v.clone() for k, v in as_published(small).items()}, tmp_path / name)
        report = convert(tmp_path / name, small_class(), tmp_path / "out.safetensors")
        assert torch.equal(read(report.out).state["body.0.bias"], small.body[0].bias)
    with pytest.raises(WeightsError, match="is a file of this package already"):
        convert(report.out, small_class(), tmp_path / "again.safetensors")


@pytest.mark.fault(55)
@pytest.mark.parametrize("name", ["bomb.pt", "bomb.pth", "bomb.safetensors"])
@pytest.mark.parametrize("container", ["zip", "pickle"])
def test_bomb_is_never_executed_and_there_is_no_second_attempt(small, tmp_path, monkeypatch, name, container):
    mark, path, calls = tmp_path / "executed", tmp_path / name, []
    if container == "zip":
        torch.save({"params": Bomb(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"params": Bomb(mark)}, protocol=2))
    real = torch.load

    def counted(*args, **kwargs):
        calls.append(kwargs.get("weights_only"))
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "load", counted)
    with warnings.catch_warnings(), pytest.raises(WeightsError) as error:
        warnings.simplefilter("ignore")
        convert(path, small, tmp_path / "out.safetensors")
    assert not mark.exists()
    assert calls in ([True], [])
    if name == "bomb.pt":
        assert "no unsafe fallback" in str(error.value)
        assert "weights_only" not in str(error.value)
    if name == "bomb.pt" and container == "zip":
        assert "posix.mkdir" in str(error.value)
    # Torch's own advice to load unsafely must not show up in the traceback either.
    assert "weights_only" not in "".join(traceback.format_exception_only(error.value))
    assert error.value.__suppress_context__ or error.value.__context__ is None
    # The bomb does work where it is let in, so the test is not empty.
    if container == "zip":
        real(io.BytesIO(path.read_bytes()), weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert mark.is_dir()


@pytest.mark.fault(55)
def test_pickled_module_is_refused(small, tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"asks for the Python object 'torch\.nn\.modules\.linear\.Linear'"):
        convert(tmp_path / "x.pt", small, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<html>", "web page"),
        (b"PK\x03\x04" + bytes(99), "no checkpoint that can be read safely"),
        (b"nonsense" * 9, "no checkpoint that can be read safely"),
    ],
)
def test_damaged_checkpoints(small, tmp_path, content, words):
    (tmp_path / "x.pt").write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(WeightsError, match=words):
        warnings.simplefilter("ignore")
        convert(tmp_path / "x.pt", small, tmp_path / "out.safetensors")


def test_truncated_zip(small, checkpoint, tmp_path):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    with pytest.raises(WeightsError, match="compare its size and SHA-256"):
        convert(checkpoint, small, tmp_path / "out.safetensors")


@pytest.mark.fault(57)
@pytest.mark.parametrize("name", ["efficient_pban", "rqi_maniqa"])
def test_real_critics_round_trip_through_their_published_layout(name, tmp_path):
    cls = critic_class(name)
    torch.manual_seed(3)
    critic = cls.tiny().eval()
    torch.save({"model_state_dict": {f"module.{k}": v for k, v in critic.state_dict().items()}}, tmp_path / "x.pth")
    report = convert(tmp_path / "x.pth", cls.tiny(), tmp_path / "x.safetensors")
    assert report.entries == len(own_entries(critic))
    again = create_critic(name, weights=tmp_path / "x.safetensors")
    side = critic.input_size.fixed or 2 * critic.input_size.minimum
    sr, hr = torch.rand(2, 1, 3, side, side)
    with torch.no_grad():
        assert torch.equal(again.score(sr, hr), critic.score(sr, hr))


def test_missing_file_and_folder(small, tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        convert(tmp_path / "none.pt", small, tmp_path / "out.safetensors")
    with pytest.raises(WeightsError, match="is a folder"):
        convert(tmp_path, small, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.zeros(3), "holds Tensor, expected a state dict"),
        ({"epoch": 3, "net": {"a": torch.zeros(1)}}, r"holds: epoch, net.*--key KEY"),
        ({"params": {"a": 1}}, r"found under 'params'"),
        ({}, "holds: nothing"),
    ],
)
def test_no_state_dict_inside(small, tmp_path, content, words):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=words):
        convert(tmp_path / "x.pt", small, tmp_path / "out.safetensors")


def test_same_words_as_loading_and_nothing_written(small, small_class, as_published, tmp_path):
    state = as_published(small)
    del state["trunk.0.bias"], state["again.0.bias"]
    torch.save({"params": state | {"tail": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(WeightsError) as error:
        convert(tmp_path / "x.pt", small_class(), tmp_path / "o.safetensors", suggest=lambda keys: "rqi_maniqa")
    for words in (r"[params]: does not fit", "1 missing: body.0.bias; 1 extra: tail.", "critic 'rqi_maniqa'"):
        assert words in str(error.value)
    assert not (tmp_path / "o.safetensors").exists()


def test_alias_that_differs_in_the_published_layout(small, small_class, as_published, tmp_path):
    state = as_published(small)
    small_class.aliases = (("again.", "trunk."),)
    try:
        state["again.0.bias"] = state["again.0.bias"] + 1
        torch.save(state, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match=r"differing pair: again\.0\.bias and trunk\.0\.bias"):
            convert(tmp_path / "x.pt", small_class(), tmp_path / "o.safetensors")
    finally:
        small_class.aliases = (("again.", "body."),)


@pytest.mark.fault(55)
def test_the_environment_cannot_switch_the_safe_loader_off(small, tmp_path, monkeypatch):
    """Torch has a variable that makes unsafe loading the default; what we ask for by name stays."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"params": Bomb(tmp_path / "executed")}, tmp_path / "x.pt")
    with warnings.catch_warnings(), pytest.raises(WeightsError):
        warnings.simplefilter("ignore")
        convert(tmp_path / "x.pt", small, tmp_path / "out.safetensors")
    assert not (tmp_path / "executed").exists()
