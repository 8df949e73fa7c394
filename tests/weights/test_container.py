"""Our file: round trip, header, and every way in which a file can be wrong (fault matrix 53 to 56, 58, 59)."""

from __future__ import annotations

import json
import os
import pickle
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights import WeightsFile, load_weights, save_weights
from sr_perceptual_loss.weights.container import read
from sr_perceptual_loss.weights.disk import sha256_of


@pytest.fixture
def file(small, tmp_path):
    path = tmp_path / "with a space" / "small.safetensors"
    facts = {"training": "3 epochs", "training_data": "ours", "licence": "MIT", "origin": "us"}
    save_weights(small, path, commercial_use=True, **facts)
    return path


@pytest.fixture
def no_tensor_is_read(monkeypatch):
    """A file that is refused is refused before anything of its content is used."""

    def used(*_):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("sr_perceptual_loss.weights.container.load_file", used)


def test_round_trip_is_exact_and_leaves_the_alias_out(small, small_class, file):
    found = read(file)
    assert isinstance(found, WeightsFile)
    assert found.critic == "small"
    assert found.config == {"width": 2, "mean": (0.5, 0.5, 0.5)}
    assert all(key.startswith("body.") for key in found.state)
    assert len(found.state) == 7
    other = small_class(**found.config)
    load_weights(other, file)
    for key, value in small.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key
    assert int(other.again[1].num_batches_tracked) == 7


def test_header_says_what_a_person_must_know(file):
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    assert header == {
        "srpl.format": "1",
        "srpl.critic": "small",
        "srpl.config": '{"width": 2, "mean": [0.5, 0.5, 0.5]}',
        "srpl.version": "0.1.0",
        "srpl.training": "3 epochs",
        "srpl.training_data": "ours",
        "srpl.licence": "MIT",
        "srpl.commercial_use": "yes",
        "srpl.origin": "us",
        "srpl.source_sha256": "",
    }
    assert read(file).metadata == header


def test_save_returns_the_hash_and_read_finds_the_same(small, tmp_path):
    digest = save_weights(small, tmp_path / "a.safetensors")
    assert digest == sha256_of(tmp_path / "a.safetensors") == read(tmp_path / "a.safetensors").sha256
    assert len(digest) == 64


@pytest.mark.fault(54)
def test_hash_sees_a_flipped_byte_that_safetensors_does_not(file):
    before = read(file).sha256
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    os.utime(file, ns=(1, 1))
    assert read(file).sha256 != before


def test_half_precision_file_is_widened(small, small_class, tmp_path):
    path = tmp_path / "half.safetensors"
    save_weights(small_class().half(), path)
    load_weights(small, path)
    assert small.body[0].weight.dtype == torch.float32


@pytest.mark.fault(57)
def test_tied_tensors_that_are_no_alias_are_stored_twice(small, small_class, tmp_path):
    small.body[1].running_var = small.body[1].running_mean
    save_weights(small, tmp_path / "tied.safetensors")
    other = small_class()
    load_weights(other, tmp_path / "tied.safetensors")
    assert torch.equal(other.body[1].running_var, other.body[1].running_mean)


@pytest.mark.fault(53)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty", "0 bytes", "get it again"]),
        (b"<!DOCTYPE html><html>404</html>", ["web page", "HTML", "/resolve/"]),
        (b"\n <html><body>Sign in</body></html>", ["web page"]),
        (pickle.dumps({"a": 1}), ["pickle", "srpl convert", "--critic NAME"]),
        (b"PK\x03\x04" + bytes(60), ["pickle", "srpl convert"]),
        (b"abc", ["not a safetensors file"]),
        (struct.pack("<Q", 2**40) + b"{}", ["header of 1099511627776 bytes", "at most"]),
        (struct.pack("<Q", 500) + b"{}", ["truncated"]),
        (struct.pack("<Q", 5) + b'{"a":', ["damaged safetensors header"]),
        (struct.pack("<Q", 7) + b'{"a":1}', ["damaged safetensors header"]),
        (struct.pack("<Q", 35) + b'{"a":{"data_offsets":[0,Infinity]}}', ["damaged safetensors header"]),
    ],
)
def test_foreign_content_is_named(tmp_path, content, words, no_tensor_is_read):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as error:
        read(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


@pytest.mark.fault(55)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
def test_checkpoint_suffix_is_refused_without_opening_it(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"may run code when opened.*srpl convert .* --critic NAME"):
        read(path)


def test_other_suffix_missing_file_and_folder(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"12345678")
    with pytest.raises(WeightsError, match=r"suffix '.onnx', expected a .safetensors file"):
        read(tmp_path / "x.onnx")
    with pytest.raises(WeightsError, match="no such file"):
        read(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="is a folder"):
        read(tmp_path)


@pytest.mark.fault(53)
@pytest.mark.parametrize(
    ("change", "word"), [(lambda b: b[:-3], "truncated"), (lambda b: b + b"xyz", "trailing bytes")]
)
def test_cut_and_padded_files(file, change, word, no_tensor_is_read):
    data = change(file.read_bytes())
    file.write_bytes(data)
    with pytest.raises(WeightsError, match=f"{word}: got {len(data)} bytes"):
        read(file)


def test_safetensors_of_others(tmp_path):
    path = tmp_path / "x.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"conv.weight": torch.zeros(2)}, path, metadata=metadata)
        with pytest.raises(WeightsError, match=r"not one of this package.*conv\.weight.*srpl convert"):
            read(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"srpl.config": "{"}, "no valid JSON"),
        ({"srpl.config": "[1]"}, "holds list, expected an object"),
        ({"srpl.format": "2", "srpl.version": "9.9"}, "format '2' by sr_perceptual_loss 9.9.*Upgrade"),
    ],
)
def test_bad_header_entries(tmp_path, changes, words):
    header = {"srpl.format": "1", "srpl.critic": "small", "srpl.config": "{}"} | changes
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(WeightsError, match=words):
        read(tmp_path / "x.safetensors")


def test_length_field_that_begins_like_a_pickle_is_still_ours(small, tmp_path):
    """A header of 640 bytes starts with the first two bytes of a pickle, 0x80 0x02."""
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.zeros(1)}
    for pad in range(700):
        save_file(tensors, path, metadata={"srpl.format": "1", "srpl.critic": "small", "srpl.origin": "x" * pad})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no padding gave the header length")
    assert read(path).critic == "small"


@pytest.mark.fault(59)
def test_full_disk_keeps_the_old_file_and_leaves_nothing(small, file, monkeypatch):
    before = file.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sr_perceptual_loss.weights.disk.os.fsync", full)
    with pytest.raises(WeightsError, match=r"cannot be written.*No space left.*SRPL_HOME"):
        save_weights(small, file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_reader_of_the_old_file_is_not_disturbed(small, file):
    """Replaced in one step, not written over: a process that has the old file open or mapped keeps it."""
    before = file.read_bytes()
    with file.open("rb") as reader:
        small.body[0].weight.data.zero_()
        save_weights(small, file)
        assert reader.read() == before
    assert file.read_bytes() != before


@pytest.mark.fault(59)
def test_place_that_cannot_be_written(small, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_weights(small, tmp_path / "file" / "x.safetensors")


def test_umask_decides_who_may_read(small, tmp_path):
    before = os.umask(0o027)
    try:
        save_weights(small, tmp_path / "x.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640


@pytest.mark.fault(59)
def test_symbolic_link_stays_a_link(small, file, tmp_path):
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    small.body[0].weight.data.zero_()
    save_weights(small, link)
    assert link.is_symlink()
    assert not read(file).state["body.0.weight"].any()


def test_save_refuses_what_it_could_not_read_back(small, tmp_path):
    with pytest.raises(InputError, match=r"suffix '.pt'"):
        save_weights(small, tmp_path / "x.pt")
    small.config["fn"] = len
    with pytest.raises(InputError, match="constructor arguments cannot be stored"):
        save_weights(small, tmp_path / "x.safetensors")
    del small.config["fn"]
    small.body[0].weight.data[0] = float("nan")
    with pytest.raises(WeightsError, match=r"1 entry: body\.0\.weight with NaN or infinity"):
        save_weights(small, tmp_path / "x.safetensors")
    assert list(tmp_path.glob("*x*")) == []


@pytest.mark.fault(56)
def test_another_critic_and_other_arguments(small_class, file, tmp_path):
    words = r"saved with mean=\(0\.5, 0\.5, 0\.5\); .* mean=\(0\.0, 0\.0, 0\.0\).*create_critic"
    with pytest.raises(WeightsError, match=words):
        load_weights(small_class(mean=(0.0, 0.0, 0.0)), file)

    class Other(small_class):
        card = type(small_class.card)(**{**vars(small_class.card), "name": "other"})

    with pytest.raises(WeightsError, match="weights of the critic 'small', not 'other'"):
        load_weights(Other(), file)


def test_config_is_plain_json(file):
    assert json.loads(read(file).metadata["srpl.config"])["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("value", [3, None, {}, ["{}"]])
def test_header_values_that_are_no_text(tmp_path, value):
    """Found by the fuzzers; safetensors itself is asked only later."""
    header = {"__metadata__": {"srpl.format": "1", "srpl.critic": "small", "srpl.config": value}}
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(WeightsError, match=r"'srpl\.config' in its header is no text"):
        read(tmp_path / "x.safetensors")
