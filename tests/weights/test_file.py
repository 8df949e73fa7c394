"""Our file: round trip, header, and every way in which a file can be wrong (fault matrix 53 to 57, 59)."""

from __future__ import annotations

import os
import pickle
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sr_perceptual_loss import __version__
from sr_perceptual_loss.critics.registry import create_critic
from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights import WeightsFile, load_weights, save_weights
from sr_perceptual_loss.weights.file import read, sha256_of


@pytest.fixture
def file(small, tmp_path):
    path = tmp_path / "with a space" / "small.safetensors"
    facts = {"training": "3 epochs", "training_data": "ours", "licence": "MIT", "origin": "us"}
    save_weights(small, path, commercial_use=True, **facts)
    return path


def test_round_trip_is_exact_and_leaves_the_alias_out(small, small_class, file):
    content = read(file)
    assert isinstance(content, WeightsFile)
    assert (content.critic, content.config) == ("small", {"width": 2, "mean": (0.5, 0.5, 0.5)})
    assert len(content.state) == 7 and all(key.startswith("body.") for key in content.state)
    other = small_class(**content.config)
    load_weights(other, file)
    for key, value in small.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert int(other.again[1].num_batches_tracked) == 7


def test_header(file):
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    assert header == {
        "srpl.format": "1",
        "srpl.critic": "small",
        "srpl.config": '{"width": 2, "mean": [0.5, 0.5, 0.5]}',
        "srpl.version": __version__,
        "srpl.training": "3 epochs",
        "srpl.training_data": "ours",
        "srpl.licence": "MIT",
        "srpl.commercial_use": "yes",
        "srpl.origin": "us",
        "srpl.source_sha256": "",
    }
    assert read(file).metadata == header


def test_file_of_the_first_release_loads(small_class, tmp_path):
    """The format on the disk stays: a header with these keys and entries without aliases."""
    header = {
        "srpl.format": "1",
        "srpl.critic": "small",
        "srpl.config": '{"width": 2, "mean": [0.5, 0.5, 0.5]}',
        "srpl.version": "0.1.0",
        "srpl.commercial_use": "unknown",
    }
    state = {f"body.1.{name}": torch.full((2,), 3.0) for name in ("weight", "bias", "running_mean", "running_var")}
    state |= {"body.0.weight": torch.ones(2, 3, 3, 3), "body.0.bias": torch.zeros(2)}
    state |= {"body.1.num_batches_tracked": torch.tensor(5)}
    save_file(state, tmp_path / "old.safetensors", metadata=header)
    critic = small_class()
    load_weights(critic, tmp_path / "old.safetensors")
    assert critic.again[1].running_var.tolist() == [3.0, 3.0]


@pytest.mark.fault(54)
def test_hash(small, tmp_path):
    """It sees a flipped byte that safetensors does not."""
    path = tmp_path / "a.safetensors"
    digest = save_weights(small, path)
    assert digest == sha256_of(path) == read(path).sha256 and len(digest) == 64
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(1, 1))
    assert read(path).sha256 != digest


@pytest.mark.fault(57)
def test_half_precision_is_widened_and_tied_tensors_are_stored_twice(small, small_class, tmp_path):
    save_weights(small_class().half(), tmp_path / "half.safetensors")
    load_weights(small, tmp_path / "half.safetensors")
    assert small.body[0].weight.dtype == torch.float32
    small.body[1].running_var = small.body[1].running_mean
    save_weights(small, tmp_path / "tied.safetensors")
    other = small_class()
    load_weights(other, tmp_path / "tied.safetensors")
    assert torch.equal(other.body[1].running_var, other.body[1].running_mean)


def with_header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.fault(53)
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html><body>Sign in</body></html>", "web page"),
        (pickle.dumps({"a": 1}), "not a whole safetensors file"),
        (b"PK\x03\x04" + bytes(60), "not a whole safetensors file"),
        (b"abc", "not a whole safetensors file"),
        (with_header(b"{}", 2**40), "not a whole safetensors file"),
        (with_header(b"{}", 500), "not a whole safetensors file"),
        (with_header(b'{"a":'), "not a whole safetensors file"),
        (with_header(b'{"a":1}'), "not a whole safetensors file"),
        (with_header(b"[" * 100_000), "not a whole safetensors file"),
        (with_header(b'{"a":{"data_offsets":[0,Infinity]}}'), "not a whole safetensors file"),
        (with_header(b'{"__metadata__":{"srpl.format":"1","srpl.critic":3}}'), "not a whole safetensors file"),
    ],
)
def test_foreign_content_and_hostile_headers(tmp_path, content, word):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=word) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.fault(53)
@pytest.mark.parametrize("change", [lambda b: b[:-3], lambda b: b + b"xyz", lambda b: b[: len(b) // 2]])
def test_cut_and_padded_files(file, change):
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read(file)


@pytest.mark.fault(55)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".onnx"])
def test_other_suffix_is_refused_without_opening_it(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=rf"'{suffix}'.* may run code .*srpl convert .* --critic NAME"):
        read(path)


def test_missing_file_folder_and_link_loop(tmp_path):
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    for path in (tmp_path / "none.safetensors", loop):
        with pytest.raises(WeightsError, match="no such file"):
            read(path)
    with pytest.raises(WeightsError, match="is a folder"):
        read(tmp_path)


def test_safetensors_of_others(tmp_path):
    for metadata in (None, {"format": "pt"}):
        save_file({"conv.weight": torch.zeros(2)}, tmp_path / "x.safetensors", metadata=metadata)
        with pytest.raises(WeightsError, match=r"not one of this package.*conv\.weight.*srpl convert"):
            read(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"srpl.config": "{"}, "srpl.config"),
        ({"srpl.config": "[1]"}, "srpl.config"),
        ({"srpl.config": "[" * 100_000}, "srpl.config"),
        ({"srpl.format": "2", "srpl.version": "9.9"}, "format '2' by sr_perceptual_loss 9.9"),
    ],
)
def test_bad_header_entries(tmp_path, changes, words):
    header = {"srpl.format": "1", "srpl.critic": "small", "srpl.config": "{}"} | changes
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(WeightsError, match=words):
        read(tmp_path / "x.safetensors")


@pytest.mark.fault(56)
@pytest.mark.parametrize("config", ['{"foo": 1}', '{"width": "x"}', '{"normalisation": 3}', '{"std": "nonsense"}'])
def test_header_that_asks_for_what_cannot_be_built(tmp_path, config):
    header = {"srpl.format": "1", "srpl.critic": "efficient_pban", "srpl.config": config}
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(WeightsError, match=r"x\.safetensors.*efficient_pban"):
        create_critic("efficient_pban", weights=tmp_path / "x.safetensors")


def test_length_field_that_begins_like_a_pickle_is_still_ours(tmp_path):
    """A header of 640 bytes starts with the first two bytes of a pickle, 0x80 0x02."""
    path = tmp_path / "x.safetensors"
    for pad in range(700):
        header = {"srpl.format": "1", "srpl.critic": "small", "srpl.origin": "x" * pad}
        save_file({"a": torch.zeros(1)}, path, metadata=header)
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    assert path.read_bytes()[:2] == b"\x80\x02" and read(path).critic == "small"


@pytest.mark.fault(59)
def test_full_disk_keeps_the_old_file_and_leaves_nothing(small, file, monkeypatch):
    before = file.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sr_perceptual_loss.weights.file.os.fsync", full)
    with pytest.raises(WeightsError, match=r"cannot be written.*No space left.*SRPL_HOME"):
        save_weights(small, file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.fault(59)
def test_writing_replaces_in_one_step_and_keeps_links_and_umask(small, file, tmp_path):
    """A process that has the old file open or mapped keeps it."""
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    before, mask = file.read_bytes(), os.umask(0o027)
    try:
        with file.open("rb") as reader:
            small.body[0].weight.data.zero_()
            save_weights(small, link)
            assert reader.read() == before
    finally:
        os.umask(mask)
    assert link.is_symlink() and not read(file).state["body.0.weight"].any()
    assert file.stat().st_mode & 0o777 == 0o640
    (tmp_path / "file").write_text("x")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_weights(small, tmp_path / "file" / "x.safetensors")


def test_save_refuses_what_it_could_not_read_back(small, tmp_path):
    with pytest.raises(InputError, match=r"suffix '.pt'"):
        save_weights(small, tmp_path / "x.pt")
    small.config["fn"] = len
    with pytest.raises(InputError, match="constructor arguments"):
        save_weights(small, tmp_path / "x.safetensors")
    del small.config["fn"]
    small.body[0].weight.data[0] = float("nan")
    with pytest.raises(WeightsError, match=r"1 with NaN or infinity: body\.0\.weight"):
        save_weights(small, tmp_path / "x.safetensors")
    assert list(tmp_path.glob("*x*")) == []


@pytest.mark.fault(56)
def test_another_critic_and_other_arguments(small_class, file):
    words = r"mean=\(0\.5, 0\.5, 0\.5\).*mean=\(0\.0, 0\.0, 0\.0\).*create_critic"
    with pytest.raises(WeightsError, match=words):
        load_weights(small_class(mean=(0.0, 0.0, 0.0)), file)

    class Other(small_class):
        card = type(small_class.card)(**{**vars(small_class.card), "name": "other"})

    with pytest.raises(WeightsError, match="'small', not 'other'"):
        load_weights(Other(), file)
