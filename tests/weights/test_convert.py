"""Published checkpoint -> our file, without ever running code of it (fault matrix 53, 55, 57)."""

from __future__ import annotations

import argparse
import io
import pickle
import traceback
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_critics import tiny
from torch import nn

from sr_perceptual_loss.critics.registry import create_critic
from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights import load_weights, save_weights
from sr_perceptual_loss.weights.convert import convert, read_checkpoint
from sr_perceptual_loss.weights.file import read, sha256_of
from sr_perceptual_loss.weights.matching import stored_entries


def test_plain_state_dict(small, small_class, entry, checkpoint, tmp_path):
    report = convert(checkpoint, small_class(), tmp_path / "out.safetensors", entry=entry)
    assert report.out == tmp_path / "out.safetensors"
    assert (report.entries, report.wrapper, report.dropped) == (7, "", ("head.weight",))
    file = read(report.out)
    assert (file.sha256, sha256_of(checkpoint)) == (report.sha256, report.source_sha256)
    assert file.metadata["srpl.source_sha256"] == report.source_sha256
    facts = [file.metadata[f"srpl.{key}"] for key in ("licence", "origin", "training_data", "commercial_use")]
    assert facts == ["CC BY-NC 4.0", "the authors", "PIPAL", "no"]
    for key, value in file.state.items():
        assert torch.equal(value, small.state_dict()[key]), key
    convert(checkpoint, small_class(), tmp_path / "out.safetensors")
    metadata = read(report.out).metadata
    assert metadata["srpl.commercial_use"] == "unknown"
    for words in ("small_weights.pt", report.source_sha256, "given by the user"):
        assert words in metadata["srpl.origin"]


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
    with pytest.raises(WeightsError, match=r"'net'.*params_ema, params, mine"):
        convert(tmp_path / "x.pth", small_class(), tmp_path / "out.safetensors", key="net")


def test_safetensors_of_others(small, small_class, as_published, tmp_path):
    for name in ("x.safetensors", "x.bin"):
        save_file({k: v.clone() for k, v in as_published(small).items()}, tmp_path / name)
        report = convert(tmp_path / name, small_class(), tmp_path / "out.safetensors")
        assert torch.equal(read(report.out).state["body.0.bias"], small.body[0].bias)
    with pytest.raises(WeightsError, match="file of this package already"):
        convert(report.out, small_class(), tmp_path / "again.safetensors")


@pytest.mark.fault(55)
@pytest.mark.parametrize("name", ["bomb.pt", "bomb.safetensors"])
@pytest.mark.parametrize("container", ["zip", "pickle"])
def test_bomb_is_never_executed_and_there_is_no_second_attempt(small, tmp_path, monkeypatch, bomb, name, container):
    mark, path, calls = tmp_path / "executed", tmp_path / name, []
    if container == "zip":
        torch.save({"params": bomb(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"params": bomb(mark)}, protocol=2))
    real = torch.load

    def counted(*args, **kwargs):
        calls.append(kwargs.get("weights_only"))
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "load", counted)
    # Torch has a variable that makes unsafe loading the default; what is asked for by name stays.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with warnings.catch_warnings(), pytest.raises(WeightsError) as error:
        warnings.simplefilter("ignore")
        convert(path, small, tmp_path / "out.safetensors")
    assert not mark.exists()
    assert calls in ([True], [])
    if name == "bomb.pt" and container == "zip":
        assert "posix.mkdir" in str(error.value)
    # Torch's advice to load unsafely must not show up, in the traceback either.
    assert "weights_only" not in "".join(traceback.format_exception_only(error.value))
    assert error.value.__suppress_context__ or error.value.__context__ is None
    # The bomb does work where it is let in, so the test is not empty.
    if container == "zip":
        real(io.BytesIO(path.read_bytes()), weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert mark.is_dir()


@pytest.mark.fault(55)
def test_of_numpy_only_scalars_are_tolerated(bomb, tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"epoch": np.int64(3), "loss": np.float32(0.5), "net": {"w": torch.ones(1)}}, tmp_path / "scalars.pth")
    content = read_checkpoint(tmp_path / "scalars.pth")
    assert content["net"]["w"].tolist() == [1.0] and content.keys() == {"epoch", "loss", "net"}
    assert not isinstance(content["loss"], np.generic)
    assert set(torch.serialization.get_safe_globals()) == before
    torch.save({"loss": np.float64(1.0), "bad": bomb(tmp_path / "mark")}, tmp_path / "bomb.pth")
    torch.save({"loss": np.zeros(3)}, tmp_path / "array.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
    for name, what in (("bomb", "mkdir"), ("array", "numpy"), ("module", "torch.nn.modules.linear.Linear")):
        with pytest.raises(WeightsError, match=f"refused: .*{what}"):
            read_checkpoint(tmp_path / f"{name}.pth")
    assert not (tmp_path / "mark").exists()


@pytest.mark.fault(53)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<html>", "web page"),
        (b"PK\x03\x04" + bytes(99), "SHA-256"),
        (b"nonsense" * 9, "SHA-256"),
        (-200, "SHA-256"),
    ],
)
def test_damaged_checkpoints(small, checkpoint, tmp_path, content, words):
    checkpoint.write_bytes(content if isinstance(content, bytes) else checkpoint.read_bytes()[:content])
    with warnings.catch_warnings(), pytest.raises(WeightsError, match=words):
        warnings.simplefilter("ignore")
        convert(checkpoint, small, tmp_path / "out.safetensors")


def test_a_changed_byte_is_found(small, small_class, checkpoint, tmp_path):
    """Also within the values, where torch does not look."""
    content = bytearray(checkpoint.read_bytes())
    content[content.find(small.body[0].weight.detach().numpy().tobytes())] ^= 1
    checkpoint.write_bytes(content)
    torch.load(checkpoint, weights_only=True)
    with pytest.raises(WeightsError, match=r"checksum of .*data.*damaged"):
        convert(checkpoint, small_class(), tmp_path / "out.safetensors")


def test_only_an_earlier_conversion_is_replaced(small, small_class, as_published, checkpoint, tmp_path):
    out, other = tmp_path / "out.safetensors", tmp_path / "other.safetensors"
    convert(checkpoint, small_class(), out)
    convert(checkpoint, small_class(), out)
    save_file({k: v.clone() for k, v in as_published(small_class()).items()}, other)
    own, before = tmp_path / "own.safetensors", other.read_bytes()
    save_weights(small_class(), own)
    for target in (other, own):
        with pytest.raises(WeightsError, match=rf"{target.name}: exists"):
            convert(checkpoint, small_class(), target)
    assert other.read_bytes() == before
    convert(other, small_class(), out)
    assert read(out).metadata["srpl.source_sha256"] == sha256_of(other)


def test_missing_file_and_folder(small, tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        convert(tmp_path / "none.pt", small, tmp_path / "out.safetensors")
    with pytest.raises(WeightsError, match="is a folder"):
        convert(tmp_path, small, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.zeros(3), "holds: Tensor"),
        ({"epoch": 3, "params": {"a": 1}}, r"holds: epoch, params\..*--key KEY"),
        ({}, "holds: nothing"),
        ({"epoch": 3, "net": {"a": torch.zeros(1)}}, r"\[net\].*1 extra: a"),
        ({f"{n}.body.{n}.{k}": torch.ones(n + 1) for n in (0, 1) for k in ("bias", "w", "v", "u")}, "does not fit"),
    ],
)
def test_no_state_dict_inside(small, tmp_path, content, words):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=words):
        convert(tmp_path / "x.pt", small, tmp_path / "out.safetensors")


def add(prefix, state, shift=0):
    """The entries under a prefix, or with other values."""
    return {prefix + key: value + shift for key, value in state.items()}


def no_counters(state):
    return {key: value for key, value in state.items() if "num_batches" not in key}


#: s: the weights to take, r: others of the same shapes. Value: the checkpoint, where the weights are taken from.
TAKEN = {
    "no_counters": (lambda s, r: no_counters(s), ""),
    "float_counters": (lambda s, r: {k: v.double() for k, v in s.items()}, ""),
    "bookkeeping": (
        lambda s, r: {**s, "epoch": 3, "lr": torch.ones(1), "optimizer": {0: {"exp_avg": torch.ones(9)}}},
        "",
    ),
    "thop": (lambda s, r: {**s, "total_ops": torch.ones(1), "trunk.0.total_params": torch.ones(1)}, ""),
    "swa": (lambda s, r: {"n_averaged": torch.tensor(3), **add("module.", s)}, ""),
    "swa_beside_raw": (lambda s, r: {"net": r, "swa_model": {"n_averaged": 3, **add("module.", s)}}, "swa_model"),
    "wrappers_inside": (lambda s, r: {k.replace(".", "._orig_mod.module.", 1): v for k, v in s.items()}, ""),
    "fsdp": (lambda s, r: add("_fsdp_wrapped_module._orig_mod.", s), ""),
    "net": (lambda s, r: {"model": add("module.net.", s)}, "model.module.net"),
    "lightning": (
        lambda s, r: {"state_dict": {**add("loss.critic.", s), "gen.w": torch.ones(5)}},
        "state_dict.loss.critic",
    ),
    "lightning_ema": (
        lambda s, r: {"state_dict": r, "callbacks": {"EMA": {"ema_weights": s}}},
        "callbacks.EMA.ema_weights",
    ),
    "lightning_averaging": (lambda s, r: {"state_dict": s, "current_model_state": r}, "state_dict"),
    "timm": (lambda s, r: {"state_dict": r, "state_dict_ema": s}, "state_dict_ema"),
    "flat_ema": (
        lambda s, r: {**add("online_model.", r), **add("ema_model.", s), "step": torch.tensor(1)},
        "ema_model",
    ),
    "nested_ema": (lambda s, r: {"model": r, "ModelEma": {"decay": 0.9, "module": s}}, "ModelEma"),
    "gan": (lambda s, r: {"netG": {"w": torch.ones(9)}, "netG_ema": {"w": torch.ones(9)}, "netD": s}, "netD"),
    "same_twice": (lambda s, r: {"last": s, "model": {k: v.clone() for k, v in s.items()}}, "last"),
    "list": (lambda s, r: [3, {"x": s}], "1.x"),
    "named_moments": (lambda s, r: {"model": s, "optimizer": {"exp_avg": r, "exp_avg_sq": r}}, "model"),
    "named_gradients": (lambda s, r: {"model": s, "avg_grads": r}, "model"),
    "shadow_and_backup": (lambda s, r: {"ema": {"shadow": s, "backup": r}}, "ema.shadow"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_weights_among_other_things(small, small_class, as_published, tmp_path, case):
    """Bit-equal, also beside raw weights of other values."""
    build, taken = TAKEN[case]
    state = as_published(small)
    torch.save(build(state, add("", state, 1)), tmp_path / "x.pth")
    report = convert(tmp_path / "x.pth", small_class(), tmp_path / "out.safetensors")
    assert report.wrapper == taken
    for key, value in no_counters(read(report.out).state).items():
        assert torch.equal(value, small.state_dict()[key]), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("zipped", [True, False])
def test_other_floats_views_and_the_older_format(small, small_class, as_published, tmp_path, dtype, zipped):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in as_published(small).items()}
    state["trunk.0.weight"] = state["again.0.weight"] = state["trunk.0.weight"].mT.contiguous().mT
    torch.save({"params": state}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    out = convert(tmp_path / "x.pth", small_class(), tmp_path / "out.safetensors").out
    for key, value in read(out).state.items():
        expected = small.state_dict()[key]
        assert value.dtype == expected.dtype and torch.equal(value, expected.to(dtype).to(expected.dtype)), key


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda s, r: {"model": r, "best": s}, "'best', 'model'"),
        (lambda s, r: {"student": r, "teacher": s}, "'student', 'teacher'"),
        (lambda s, r: {"ema_0.9": r, "ema_0.99": s}, "'ema_0.9', 'ema_0.99'"),
        (lambda s, r: {**s, "model": r}, "'', 'model'"),
        (lambda s, r: {"_orig_mod": r, "module": s}, "trunk.0.weight"),
        (lambda s, r: {**r, **add("ema_", s)}, r"state dict of their own\.$"),
        (lambda s, r: {"model": r, "ema": {"shadow_params": [*s.values()]}}, "ema.shadow_params.*--key 'model'"),
        (lambda s, r: {"model": r, "model_ema": {k.replace(".", ""): v for k, v in s.items()}}, "model_ema.*'model'"),
        (
            lambda s, r: {"model": r, "ema": {k: v for k, v in s.items() if "running" not in k}},
            "ema.*model.*running_mean",
        ),
        (lambda s, r: {"params": {**s, "tail.weight": torch.ones(2)}}, "1 extra: tail.weight"),
        (lambda s, r: {**s, "trunk.0.bias": s["trunk.0.bias"].int(), "again.0.bias": s["trunk.0.bias"].int()}, "int32"),
        (lambda s, r: {k: v.to("meta") for k, v in s.items()}, "meta"),
        (lambda s, r: {**s, "trunk.0.bias": s["trunk.0.bias"].to_sparse()}, "trunk.0.bias.*sparse"),
    ],
)
def test_what_is_not_clear_is_refused(small, small_class, as_published, tmp_path, build, words):
    state = as_published(small)
    torch.save(build(state, add("", state, 1)), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=words):
        convert(tmp_path / "x.pth", small_class(), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (lambda s, r: {"a": {"b": s, "c": r}}, "a.b"),
        (lambda s, r: {"ema_0.9": r, "ema_0.99": s}, "ema_0.99"),
        (lambda s, r: {"v1.0": [r, {"model": s}]}, "v1.0.1.model"),
        (lambda s, r: {0: r, 1: s}, "1"),
        (lambda s, r: {"state_dict": {**add("one.", r), **add("two.", s)}}, "state_dict.two"),
        (lambda s, r: {"model": s, "model_ema": r}, "model"),
        (lambda s, r: {**s, "best": r}, ""),
    ],
)
def test_key_is_a_dotted_path(small, small_class, as_published, tmp_path, content, key):
    state = as_published(small)
    torch.save(content(state, add("", state, 1)), tmp_path / "x.pth")
    report = convert(tmp_path / "x.pth", small_class(), tmp_path / "out.safetensors", key=key)
    assert report.wrapper == key
    assert torch.equal(read(report.out).state["body.0.weight"], small.body[0].weight)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.safetensors.index.json", b'{"weight_map": {"a": "m-00001-of-00002.safetensors"}}', "load_file"),
        ("m.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        ("m.zip", b"PK\x05\x06" + bytes(18), "unpack"),
    ],
)
def test_files_that_stand_for_others(small, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        convert(tmp_path / name, small, tmp_path / "out.safetensors")


def test_what_only_its_author_can_open_names_the_way(small, tmp_path):
    torch.save({"args": argparse.Namespace(a=1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"argparse\.Namespace.*torch\.save\("):
        convert(tmp_path / "x.pth", small, tmp_path / "out.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(nn.Conv2d(1, 1, 1)), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"TorchScript.*torch\.jit\.load"):
        convert(tmp_path / "x.pt", small, tmp_path / "out.safetensors")


def test_what_does_not_fit_is_named_and_nothing_written(small, small_class, as_published, tmp_path):
    state = as_published(small)
    del state["trunk.0.bias"], state["again.0.bias"]
    torch.save({"params": state | {"tail": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(WeightsError) as error:
        convert(tmp_path / "x.pt", small_class(), tmp_path / "o.safetensors", suggest=lambda keys: "rqi_maniqa")
    for words in (r"x.pt [params]", "1 missing: body.0.bias; 1 extra: tail.", "'rqi_maniqa'"):
        assert words in str(error.value)
    assert not (tmp_path / "o.safetensors").exists()


def test_alias_that_differs_in_the_published_layout(small, small_class, as_published, tmp_path, monkeypatch):
    monkeypatch.setattr(small_class, "aliases", (("again.", "trunk."),))
    state = as_published(small)
    state["again.0.bias"] = state["again.0.bias"] + 1
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"again\.0\.bias and trunk\.0\.bias differ"):
        convert(tmp_path / "x.pt", small_class(), tmp_path / "o.safetensors")


@pytest.mark.fault(57)
@pytest.mark.parametrize("name", ["efficient_pban", "rqi_maniqa", "rqi_ahiq"])
def test_critics_round_trip_through_their_published_layout(name, tmp_path):
    """Also where a training saved one dict per part of the network."""
    critic = tiny(name).eval()
    state = critic.state_dict()
    if name == "rqi_ahiq":
        content = {
            f"{part}_state_dict": {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
            for part in ("vit", "resnet50", "deform_net", "regressor")
        }
    else:
        content = {"model_state_dict": {f"module.{k}": v for k, v in state.items()}}
    torch.save(content, tmp_path / "x.pth")
    again = create_critic(f"tiny_{name}", weights=None)
    report = convert(tmp_path / "x.pth", create_critic(f"tiny_{name}", weights=None), tmp_path / "x.safetensors")
    assert report.entries == len(stored_entries(critic))
    load_weights(again, tmp_path / "x.safetensors")
    side = critic.input_size.fixed or 2 * critic.input_size.minimum
    sr, hr = torch.rand(2, 1, 3, side, side)
    with torch.no_grad():
        assert torch.equal(again.score(sr, hr), critic.score(sr, hr))
