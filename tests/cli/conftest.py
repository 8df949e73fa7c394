"""A runner, images, and a small critic that is registered for one test."""

from __future__ import annotations

import pytest
import torch
from local_hub import LocalHub
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from sr_perceptual_loss.cli.app import app
from sr_perceptual_loss.critics import registry
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.weights.manifest import WeightsEntry


class Small(Critic):
    """Takes 8x8 only; the score is minus the mean absolute difference times a weight."""

    card = CriticCard(
        name="small",
        paper="Nobody, 2026",
        input_size=SizeRule(fixed=8),
        score_range=(-1.0, 0.0),
        relative=True,
        learned_from="PIPAL",
        bad_at="its scale",
        weights={
            "official": WeightsEntry(
                tag="official",
                repo_id="someone/small",
                filename="small_weights.pt",
                revision="main",
                sha256="",
                bytes=1_000_000,
                licence="MIT",
                training_data="PIPAL",
                origin="the authors",
                commercial_use=None,
            )
        },
    )

    def __init__(self, mode: str = "plain", scale: float = 1.0) -> None:
        super().__init__(config={"mode": mode, "scale": scale})
        self.weight = nn.Parameter(torch.tensor([1.0]))

    @classmethod
    def tiny(cls):
        return cls()

    def _encode_target(self, hr):
        return (hr,)

    def _compare(self, sr, hr, target):
        return -(sr - target[0]).abs().mean((1, 2, 3)) * self.weight * self.config["scale"]


@pytest.fixture
def srpl(tmp_path, monkeypatch):
    monkeypatch.setenv("SRPL_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(registry._CRITICS, "small", Small)
    return Small


@pytest.fixture
def checkpoint(small, tmp_path):
    path = tmp_path / "small_weights.pt"
    torch.save({"params": {"weight": torch.tensor([2.0])}}, path)
    return path


@pytest.fixture
def hub(monkeypatch, checkpoint):
    with LocalHub(checkpoint.read_bytes()) as served:
        served.connect(monkeypatch)
        yield served


@pytest.fixture
def picture(tmp_path):
    """Writes a gray image of one level, or a given uint8 tensor (3 channels, or 1)."""

    def make(name, level=100, height=20, width=24, image=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = torch.full((3, height, width), level, dtype=torch.uint8) if image is None else image
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(path)
        return path

    return make
