"""Finding: which file, which message, which licence, and never the network unless asked (fault matrix 52, 54, 60)."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from unicodedata import normalize

import pytest
import torch

from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights import records, save_weights, store

LEVEL = "SRPL_REQUIRE_LICENCE"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SRPL_HOME": "~/mine", "XDG_CACHE_HOME": "/xdg"}, "{home}/mine"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/sr_perceptual_loss"),
        ({}, "{home}/.cache/sr_perceptual_loss"),
    ],
)
def test_home_is_read_at_call_time(monkeypatch, tmp_path, variables, expected):
    for name in ("SRPL_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(records.home()) == expected.format(home=tmp_path)


def test_relative_home_stays_where_it_was_first(monkeypatch, tmp_path):
    monkeypatch.setenv("SRPL_HOME", f"rel-{tmp_path.name}")
    monkeypatch.chdir(tmp_path)
    first = records.home()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert records.home() == first == tmp_path / f"rel-{tmp_path.name}"


def test_homes_that_cannot_be(monkeypatch, tmp_path, locate):
    (tmp_path / "file").write_text("x")
    for value in (str(tmp_path / "file"), "~no_such_user/x"):
        monkeypatch.setenv("SRPL_HOME", value)
        with pytest.raises(WeightsError, match=f"{value}.*SRPL_HOME"):
            locate("local")
    for name in ("SRPL_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, as its specification says
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without HOME and an entry in passwd
    with pytest.raises(WeightsError, match=r"\.cache.*SRPL_HOME"):
        locate("official")


def test_bundled_file_needs_no_store_and_is_verified(store_home, locate, small, entry, tmp_path, monkeypatch):
    monkeypatch.setattr("sr_perceptual_loss.weights.records.resources.files", lambda package: tmp_path / package)
    path = tmp_path / "sr_perceptual_loss" / "weights" / "bundled" / "small.safetensors"
    sha256 = save_weights(small, path)
    bundled = dataclasses.replace(
        entry, tag="b", repo_id="", filename="weights/bundled/small.safetensors", sha256=sha256
    )
    assert locate("local", {"b": bundled}) == locate("b", {"b": bundled}) == path
    assert (bundled.url, records.on_this_machine("small", bundled)) == ("", True)
    with pytest.raises(WeightsError, match=f"{sha256}.*{'0' * 64}"):
        locate("local", {"b": dataclasses.replace(bundled, sha256="0" * 64)})
    path.unlink()
    with pytest.raises(WeightsError, match=f"no file.*{sha256}"):
        locate("local", {"b": bundled})
    assert not store_home.exists()


def test_origin_of_a_file_is_told(store_home, locate, hub, small, entry, caplog):
    """Copied to its place, or downloaded by this package."""
    path = store_home / "weights" / "small-official.safetensors"
    save_weights(small, path)
    locate("local")
    assert records.origin("small", entry) == records.BY_USER and records.BY_USER in caplog.text
    path.unlink()
    caplog.clear()
    locate("official")
    locate("local")
    assert "SHA-256" in records.origin("small", entry) and records.BY_USER not in caplog.text


@pytest.mark.fault(52)
def test_local_never_touches_the_network(store_home, locate, monkeypatch):
    def blocked(*_, **__):
        raise AssertionError("a connection was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, blocked)
    with pytest.raises(WeightsError) as error:
        locate("local")
    for words in (
        "small: the weights 'official'",
        "https://huggingface.co/someone/small/resolve/main/small_weights.pt",
        "581 MB",
        "licence: CC BY-NC 4.0",
        "trained on: PIPAL",
        "SHA-256: not published",
        "srpl fetch small",
        "weights: official",
        "srpl convert small_weights.pt --critic small",
        str(store_home / "weights" / "small-official.safetensors"),
    ):
        assert words in str(error.value), words
    assert not store_home.exists()


@pytest.mark.fault(59)
def test_local_finds_a_file_that_was_put_there_or_linked(store_home, locate, small, tmp_path):
    path = store_home / "weights" / "small-official.safetensors"
    save_weights(small, path)
    assert locate("local") == locate("official") == path
    path.rename(tmp_path / "moved.safetensors")
    path.symlink_to(tmp_path / "moved.safetensors")
    assert store.read(locate("local")).critic == "small"
    (tmp_path / "moved.safetensors").unlink()
    with pytest.raises(WeightsError, match="srpl fetch small"):
        locate("local")


@pytest.mark.parametrize("weights", ["local", "official"])
def test_critic_without_published_weights(store_home, locate, weights):
    with pytest.raises(WeightsError, match=r"^small: .*srpl convert FILE --critic small"):
        locate(weights, {})


def test_paths_and_unknown_tags(store_home, locate, small, tmp_path, monkeypatch):
    save_weights(small, tmp_path / "mine.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(tmp_path / "mine.safetensors") == locate("~/mine.safetensors") == tmp_path / "mine.safetensors"
    assert locate("~/mine.safetensors", {}) == tmp_path / "mine.safetensors"
    with pytest.raises(WeightsError, match=r"'offical'. Did you mean 'official'"):
        locate("offical")
    for missing in (tmp_path / "none.safetensors", "none.safetensors", "some/none"):
        with pytest.raises(WeightsError, match=r"none.*no such file.*official"):
            locate(missing)


@pytest.mark.parametrize(("typed", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_composed_and_decomposed(store_home, locate, small, tmp_path, typed, on_disk):
    path = tmp_path / normalize(on_disk, "über") / normalize(on_disk, "café.safetensors")
    save_weights(small, path)
    asked = tmp_path / normalize(typed, "über") / normalize(typed, "café.safetensors")
    assert store.read(locate(asked)).path.samefile(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("w.safetensors ", r"w\.safetensors : no such file.*'w\.safetensors'"),
        ("sub\\w.safetensors", "'/'"),
        ("folder", "is a folder"),
        ("pipe.safetensors", "pipe"),
        ("link.safetensors", "gone"),
        ("w.safetensors/x.safetensors", "x.safetensors: no such file"),
    ],
)
def test_what_is_no_file_is_said(store_home, locate, small, tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    save_weights(small, "w.safetensors")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "link.safetensors").symlink_to("gone")
    for path in (name, tmp_path / name):
        with pytest.raises(WeightsError, match=words):
            locate(path)
    with pytest.raises(WeightsError, match="pipe"):  # is not replaced by a file
        save_weights(small, "pipe.safetensors")


@pytest.mark.parametrize("weights", [[], 3, "x" * 5000 + ".safetensors", "a\0b.safetensors"])
def test_what_cannot_be_the_name_of_a_file(store_home, locate, weights):
    with pytest.raises(WeightsError, match="'local'"):
        locate(weights)


def test_install_of_a_checkpoint_that_was_downloaded_by_hand(store_home, locate, small_class, entry, checkpoint):
    def install(path):
        return store.install("small", entry, path, small_class(), key=None, suggest=None)

    report = install(checkpoint)
    assert report.out == store_home / "weights" / "small-official.safetensors" == locate("local")
    pin = json.loads((store_home / "weights.lock.json").read_text())["weights"]["small-official"]
    assert (pin["revision"], pin["sha256"], pin["file_sha256"]) == ("", report.source_sha256, report.sha256)
    torch.save({"a": torch.zeros(1)}, checkpoint)
    with pytest.raises(WeightsError, match=rf"pinned {report.source_sha256}"):
        install(checkpoint)
    with pytest.raises(WeightsError, match="no such file"):
        install(checkpoint.with_name("none.pt"))


@pytest.mark.fault(54)
def test_pin_of_the_first_release_is_read_and_its_file_verified(store_home, locate, small, entry):
    """The lock file's format stays. A changed file or another manifest is refused."""
    path = store_home / "weights" / "small-official.safetensors"
    digest = save_weights(small, path)
    pin = {"repo": "someone/small", "filename": "small_weights.pt", "revision": "c" * 40, "sha256": "1" * 64}
    pin |= {"bytes": 3, "time": "2026-01-01T00:00:00+00:00", "file": path.name, "file_sha256": digest}
    lock = store_home / "weights.lock.json"
    lock.write_text(json.dumps({"format": 1, "weights": {"small-official": pin}}))
    assert locate("local") == locate("official") == path
    with pytest.raises(WeightsError, match=f"{'1' * 64}.* pins {'2' * 64}"):
        locate("local", {"official": dataclasses.replace(entry, sha256="2" * 64)})
    small.body[0].weight.data.zero_()
    changed = save_weights(small, path)
    for weights in ("local", "official"):
        with pytest.raises(WeightsError, match=f"{changed}, expected {digest}.*srpl fetch small"):
            locate(weights)
    for damaged in ("{", '{"weights": {"small-official": {"sha256": "1"}}}', '{"weights": []}'):
        lock.write_text(damaged)
        with pytest.raises(WeightsError, match=r"weights\.lock\.json: damaged"):
            locate("local")


@pytest.mark.fault(60)
@pytest.mark.parametrize(
    ("level", "licence", "commercial", "passes"),
    [
        ("", "", None, True),
        ("stated", "", None, False),
        ("stated", "not stated by the authors", None, False),
        ("stated", "CC BY-NC 4.0", False, True),
        ("commercial", "CC BY-NC 4.0", False, False),
        ("commercial", "MIT", None, False),
        ("commercial", "MIT", True, True),
        ("commercial", "", True, False),
    ],
)
def test_licence_switch_refuses_before_the_download(
    store_home, locate, hub, entry, small, tmp_path, monkeypatch, level, licence, commercial, passes
):
    monkeypatch.setenv(LEVEL, level)
    changed = dataclasses.replace(entry, licence=licence, commercial_use=commercial)
    path = tmp_path / "mine.safetensors"
    save_weights(small, path, licence=licence, commercial_use=commercial)
    if passes:
        assert locate(path) == path
        assert locate("official", {"official": changed}) == locate("local", {"official": changed})
        return
    for weights in (path, "official"):
        with pytest.raises(WeightsError, match=rf"licence {licence or 'not stated'}.*{LEVEL}={level}"):
            locate(weights, {"official": changed})
    assert hub.requests == [] and not store_home.exists()
    save_weights(small, store_home / "weights" / "small-official.safetensors")
    with pytest.raises(WeightsError, match=f"{LEVEL}={level}"):
        locate("local", {"official": changed})


@pytest.mark.fault(60)
def test_misspelt_licence_switch_lets_nothing_through(store_home, locate, small, tmp_path, monkeypatch):
    monkeypatch.setenv(LEVEL, "comercial")
    save_weights(small, tmp_path / "mine.safetensors", licence="MIT", commercial_use=True)
    for weights in ("official", tmp_path / "mine.safetensors"):
        with pytest.raises(InputError, match=rf"{LEVEL}: got 'comercial'. Did you mean 'commercial'"):
            locate(weights)


@pytest.mark.fault(60)
def test_unknown_licence_is_shown_where_weights_are_missing(store_home, locate, entry):
    with pytest.raises(WeightsError, match="licence: not stated"):
        locate("local", {"official": dataclasses.replace(entry, licence="", commercial_use=None)})
