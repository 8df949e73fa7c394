"""Weights of unknown licence: shown everywhere, refused on request (fault matrix 60)."""

from __future__ import annotations

import dataclasses

import pytest

from sr_perceptual_loss.errors import InputError, WeightsError
from sr_perceptual_loss.weights import save_weights

LEVEL = "SRPL_REQUIRE_LICENCE"


@pytest.mark.fault(60)
def test_unknown_licence_is_shown_where_weights_are_missing(store_home, locate, entry):
    unknown = dataclasses.replace(entry, licence="", commercial_use=None)
    with pytest.raises(WeightsError, match="licence: not stated"):
        locate("local", {"official": unknown})


@pytest.mark.fault(60)
@pytest.mark.parametrize(
    ("level", "licence", "commercial", "passes"),
    [
        ("", "", None, True),
        ("stated", "", None, False),
        ("stated", "CC BY-NC 4.0", False, True),
        ("commercial", "CC BY-NC 4.0", False, False),
        ("commercial", "MIT", None, False),
        ("commercial", "MIT", True, True),
        ("commercial", "", True, False),
    ],
)
def test_switch_refuses_before_the_download(
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
    words = rf"licence {licence or 'not stated'}, commercial use: .*{LEVEL}={level} asks for .*unset {LEVEL}"
    for weights in (path, "official", "local"):
        with pytest.raises(WeightsError, match=words):
            locate(weights, {"official": changed})
    assert hub.downloads == 0 and not store_home.exists()


@pytest.mark.fault(60)
def test_misspelt_switch_lets_nothing_through(store_home, locate, small, tmp_path, monkeypatch):
    monkeypatch.setenv(LEVEL, "comercial")
    save_weights(small, tmp_path / "mine.safetensors", licence="MIT", commercial_use=True)
    for weights in ("official", tmp_path / "mine.safetensors"):
        with pytest.raises(InputError, match=rf"{LEVEL}: got 'comercial'. Did you mean 'commercial'"):
            locate(weights)


@pytest.mark.fault(60)
def test_damaged_files_keep_their_own_message(store_home, locate, tmp_path, monkeypatch):
    monkeypatch.setenv(LEVEL, "stated")
    (tmp_path / "x.safetensors").write_bytes(b"<html>")
    assert locate(tmp_path / "x.safetensors") == tmp_path / "x.safetensors"
