"""A critic small enough to write, cut and damage its file in every test, and a hub on this machine that serves it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from local_hub import LocalHub
from torch import nn

from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.weights import store
from sr_perceptual_loss.weights.manifest import WeightsEntry


class Small(Critic):
    """Two names for one module, a counter, and an argument that is a tuple."""

    card = CriticCard(
        name="small", paper="none", input_size=SizeRule(minimum=4), score_range=(0.0, 1.0), relative=False
    )
    aliases = (("again.", "body."),)
    unused = ("head.",)

    def __init__(self, width: int = 2, mean: tuple[float, ...] = (0.5, 0.5, 0.5)) -> None:
        super().__init__(config={"width": width, "mean": mean})
        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
        self.again = self.body

    @staticmethod
    def remap_official(state):
        return {key.replace("trunk.", "body."): value for key, value in state.items()}

    def _encode_target(self, hr):
        return (self.body(hr),)

    def _compare(self, sr, hr, target):
        return -(self.body(sr) - target[0]).square().mean((1, 2, 3))


class Bomb:
    """Makes the folder ``mark`` when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def published(critic: Small) -> dict[str, torch.Tensor]:
    """Its entries as a reference code would have saved them: other names, an alias, a part that is never used."""
    state = {k.replace("body.", "trunk."): v.clone() for k, v in critic.state_dict().items() if k.startswith("body.")}
    state |= {k.replace("trunk.", "again."): v for k, v in state.items()}
    return state | {"head.weight": torch.zeros(3)}


@pytest.fixture
def small():
    torch.manual_seed(0)
    critic = Small()
    critic.body[1].num_batches_tracked += 7
    return critic


@pytest.fixture
def store_home(tmp_path, monkeypatch):
    home = tmp_path / "store"
    monkeypatch.setenv("SRPL_HOME", str(home))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SRPL_REQUIRE_LICENCE"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def entry():
    return WeightsEntry(
        tag="official",
        repo_id="someone/small",
        filename="small_weights.pt",
        revision="main",
        sha256="",
        bytes=580_970_000,
        licence="CC BY-NC 4.0",
        training_data="PIPAL",
        origin="the authors",
        commercial_use=False,
    )


@pytest.fixture
def checkpoint(small, tmp_path):
    path = tmp_path / "small_weights.pt"
    torch.save(published(small), path)
    return path


@pytest.fixture
def hub(monkeypatch, checkpoint):
    """The published checkpoint on a hub of this machine, for the real client."""
    with LocalHub(checkpoint.read_bytes()) as served:
        served.connect(monkeypatch)
        yield served


@pytest.fixture
def small_class():
    return Small


@pytest.fixture
def as_published():
    return published


@pytest.fixture
def bomb():
    return Bomb


@pytest.fixture
def locate(entry, small_class):
    def call(weights, entries=None):
        entries = {"official": entry} if entries is None else entries
        return store.locate("small", entries, weights, remap=small_class.remap_official, build=small_class)

    return call


@pytest.fixture
def fetch(entry, small_class):
    def call(progress=None, **changes):
        changed = dataclasses.replace(entry, **changes)
        return store.fetch("small", changed, remap=small_class.remap_official, build=small_class, progress=progress)

    return call
