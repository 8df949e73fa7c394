"""A small rated data set: eight references, each with darkened and tinted versions whose score falls with the level."""

from __future__ import annotations

import csv

import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from sr_perceptual_loss.lab.training.config import read_config


def save(path, image):
    Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


def make_rated_set(root, *, contents=8, side=40):
    root.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)
    rows = []
    for content in range(contents):
        low = torch.rand(1, 3, 6, 6, generator=generator)
        ref = F.interpolate(low, size=(side, side), mode="bicubic", align_corners=False)[0].clamp(0, 1)
        ref = (ref + 0.1 * torch.randn(3, side, side, generator=generator)).clamp(0, 1)
        save(root / f"r{content}.png", ref)
        for level in (1, 2, 3):
            # So simple that a tiny network learns them within seconds.
            dark, tinted = ref * (1 - 0.25 * level), ref * torch.tensor([1 - 0.3 * level, 1.0, 1.0]).view(3, 1, 1)
            for kind, image in (("dark", dark), ("tint", tinted)):
                name = f"r{content}_{kind}_{level}.png"
                save(root / name, image)
                rows.append((f"r{content}.png", name, 5 - level - (0.5 if kind == "dark" else 0), kind))
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("ref", "dist", "score", "distortion"))
        writer.writerows(rows)
    return root


@pytest.fixture(scope="session")
def rated(tmp_path_factory):
    """Folder with ``labels.csv``."""
    return make_rated_set(tmp_path_factory.mktemp("rated"))


#: A network of 32x32 images without dropout, so that the number of processes does not change it.
TINY = {
    "side": 32,
    "patch": 8,
    "width": 16,
    "depth": 5,
    "heads": 2,
    "taps": [0, 1, 2, 3],
    "dropout": 0.0,
    "drop_path": 0.0,
}


@pytest.fixture
def settings(rated, tmp_path):
    """A function: training file content, with changes -> TrainingConfig."""

    def make(*overrides, **sections):
        content = {
            "out": str(tmp_path / "run"),
            "critic": {"name": "rqi_maniqa", "config": TINY},
            "data": {"dataset": "table", "root": str(rated)},
            "optimizer": {"lr": 1e-3},
            "epochs": 2,
            "batch": 4,
            "workers": 0,
            "device": "cpu",
            "log_every": 1,
            **sections,
        }
        path = tmp_path / "train.yml"
        path.write_text(yaml.safe_dump(content))
        return read_config(path, overrides)

    return make
