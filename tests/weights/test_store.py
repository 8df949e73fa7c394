"""Finding: which file, which message, and never the network unless asked (fault matrix 52)."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from sr_perceptual_loss.errors import WeightsError
from sr_perceptual_loss.weights import places, save_weights, store


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
    assert str(store.home()) == expected.format(home=tmp_path)


@pytest.mark.fault(52)
def test_local_never_touches_the_network(store_home, locate, monkeypatch):
    def blocked(*_, **__):
        raise AssertionError("a connection was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, blocked)
    with pytest.raises(WeightsError) as error:
        locate("local")
    for words in (
        "small: the weights 'official' are not on this machine",
        "https://huggingface.co/someone/small/resolve/main/small_weights.pt",
        "581 MB",
        "licence: CC BY-NC 4.0",
        "trained on: PIPAL",
        "SHA-256: not published",
        "srpl fetch small",
        "weights: official",
        "srpl convert small_weights.pt --critic small",
        str(store_home / "weights" / "small-official.safetensors"),
        "weights: None means random",
    ):
        assert words in str(error.value), words
    assert not store_home.exists()


def test_local_finds_a_file_that_a_person_put_there(store_home, locate, small):
    path = store_home / "weights" / "small-official.safetensors"
    save_weights(small, path)
    assert locate("local") == locate("official") == path


def test_bundled_file(store_home, locate, small, entry, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "BUNDLED", tmp_path / "bundled")
    digest = save_weights(small, tmp_path / "bundled" / "small.safetensors")
    bundled = dataclasses.replace(entry, tag="bundled", repo_id="", filename="small.safetensors", sha256=digest)
    assert locate("local", {"bundled": bundled}) == tmp_path / "bundled" / "small.safetensors"
    with pytest.raises(WeightsError, match=f"got SHA-256 {digest}, expected {'0' * 64}"):
        locate("bundled", {"bundled": dataclasses.replace(bundled, sha256="0" * 64)})
    with pytest.raises(WeightsError, match="reinstall the package"):
        locate("local", {"bundled": dataclasses.replace(bundled, filename="none.safetensors")})
    assert not store_home.exists()


@pytest.mark.parametrize("weights", ["local", "official"])
def test_critic_without_published_weights(store_home, locate, weights):
    with pytest.raises(WeightsError, match=r"nobody has published weights.*Train it.*srpl convert FILE --critic small"):
        locate(weights, {})


def test_paths_and_unknown_tags(store_home, locate, small, tmp_path, monkeypatch):
    save_weights(small, tmp_path / "mine.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(tmp_path / "mine.safetensors") == locate("~/mine.safetensors") == tmp_path / "mine.safetensors"
    assert locate("~/mine.safetensors", {}) == tmp_path / "mine.safetensors"
    words = r"no weights 'offical'. Did you mean 'official'\?.*\./my_weights\.safetensors"
    with pytest.raises(WeightsError, match=words):
        locate("offical")
    for missing in (tmp_path / "none.safetensors", "none.safetensors", "some/none"):
        words = r"no file .*none.*existing \.safetensors file, 'local', or a tag \(official\)"
        with pytest.raises(WeightsError, match=words):
            locate(missing)


@pytest.mark.parametrize("weights", [[], 3, "x" * 5000 + ".safetensors", "a\0b.safetensors"])
def test_what_is_no_name_of_a_file(store_home, locate, weights):
    with pytest.raises(WeightsError, match=r"expected 'local', a tag, a path|Give the path of an existing"):
        locate(weights)
