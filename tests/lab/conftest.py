"""A small label set with image files."""

from __future__ import annotations

import pytest
import torch
from pairs import make_pair
from torchvision.transforms.functional import to_pil_image

from sr_perceptual_loss.critics.haarpsi import HaarPSI
from sr_perceptual_loss.lab.data.labels import LabelSet, RatedImage
from sr_perceptual_loss.lab.evaluation.protocol import PROTOCOLS
from sr_perceptual_loss.lab.evaluation.scoring import score_labels

SIDE = 32


@pytest.fixture
def labels(tmp_path):
    """Three references with four noise levels; people prefer less noise, except for reference c."""
    rated = []
    for number, content in enumerate("abc"):
        _, hr = make_pair(1, SIDE, SIDE, seed=number)
        ref = tmp_path / f"{content}.png"
        to_pil_image((hr[0] * 255).byte()).save(ref)
        for level in range(4):
            noise = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(level))
            dist = tmp_path / f"{content}_{level}.png"
            to_pil_image(((hr[0] + 0.06 * (level + 1) * noise).clamp(0, 1) * 255).byte()).save(dist)
            score = 4.0 - level if content != "c" else 1.0 + level
            rated.append(RatedImage(content, dist, ref, score, "noise" if level < 2 else "<b>much & noise</b>"))
    return LabelSet("made", tuple(rated), score_range=(1, 4), notes=("Made <for> a test.",))


@pytest.fixture
def score():
    """``score(labels, **options)``: scores of HaarPSI on whole images."""

    def scored(labels, **options):
        return score_labels(HaarPSI().eval(), labels, PROTOCOLS["full"], **options)

    return scored
