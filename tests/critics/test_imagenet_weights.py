"""The tag `imagenet`: torchvision's file from torch's folder, or a download of it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from pairs import make_pair

from sr_perceptual_loss import WeightsError, create_critic
from sr_perceptual_loss.critics.lpips import LpipsSqueeze
from sr_perceptual_loss.weights.file import sha256_of

NAME = "squeezenet1_1-b8a52dc0.pth"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A file as torchvision publishes it, with random weights, and the card's entry for it; empty folders."""
    monkeypatch.setenv("SRPL_HOME", str(tmp_path / "store"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / NAME)
    entry = LpipsSqueeze.card.weights["imagenet"]
    entry = dataclasses.replace(entry, sha256=sha256_of(tmp_path / NAME))
    monkeypatch.setattr(LpipsSqueeze, "card", dataclasses.replace(LpipsSqueeze.card, weights={"imagenet": entry}))
    return tmp_path / NAME


def put(file, tmp_path):
    place = tmp_path / "hub" / "checkpoints" / NAME
    place.parent.mkdir(parents=True)
    shutil.copy(file, place)
    return place


def test_a_file_in_torchs_folder_is_used_without_a_download(published, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.download_url_to_file", None)
    put(published, tmp_path)
    critic = create_critic("lpips_squeeze").requires_grad_(False)
    state = torch.load(published, weights_only=True)
    assert torch.equal(critic.trunk.features[0].weight, state["features.0.weight"])
    assert [round(float(head.sum()), 3) for head in critic.heads] == HEAD_SUMS
    sr, hr = make_pair(1, 40, 40)
    score = critic.score(sr, hr)
    # The second time from the store.
    published.unlink()
    shutil.rmtree(tmp_path / "hub")
    assert torch.equal(create_critic("lpips_squeeze", weights="imagenet").score(sr, hr), score)


#: Sums of the seven heads of LPIPS v0.1 for SqueezeNet.
HEAD_SUMS = [5.69, 1.185, 16.327, 71.013, 37.371, 24.263, 17.591]


def test_the_tag_downloads_and_local_does_not(published, monkeypatch):
    asked = []

    def download(url, path, progress):
        asked.append(url)
        shutil.copy(published, path)

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(WeightsError) as error:
        create_critic("lpips_squeeze")
    url = f"https://download.pytorch.org/models/{NAME}"
    assert url in str(error.value) and str(Path(torch.hub.get_dir()) / "checkpoints" / NAME) in str(error.value)
    assert "srpl fetch lpips_squeeze" in str(error.value) and not asked
    assert create_critic("lpips_squeeze", weights="imagenet").card.name == "lpips_squeeze"
    assert asked == [url]


def test_another_file_under_the_name_is_refused(published, tmp_path):
    place = put(published, tmp_path)
    place.write_bytes(place.read_bytes() + b"0")
    with pytest.raises(WeightsError, match=sha256_of(published)):
        create_critic("lpips_squeeze", weights="imagenet")


def test_no_network(published, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=f"HF_HUB_OFFLINE.*{NAME}"):
        create_critic("lpips_squeeze", weights="imagenet")
