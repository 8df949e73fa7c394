from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pairs import make_pair

from sr_perceptual_loss.critics.haarpsi import haarpsi

TID = Path(__file__).parents[3] / "shared" / "data" / "tid2013_i01"


def direct(sr, hr):
    """The paper's formulas with plain loops over scales and a full convolution cut like MATLAB's 'same'."""
    yiq = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=torch.float64)

    def same(plane, kernel):
        k = kernel.shape[0]
        full = F.conv2d(plane[None, None], kernel.flip(0, 1)[None, None], padding=k - 1)[0, 0]
        start = k // 2
        return full[start : start + plane.shape[0], start : start + plane.shape[1]]

    def prepare(image):
        planes = torch.einsum("oc,chw->ohw", yiq, image * 255)
        box = torch.full((2, 2), 0.25, dtype=torch.float64)
        return [same(p, box)[::2, ::2] for p in planes], box

    (y1, i1, q1), box = prepare(sr)
    (y2, i2, q2), _ = prepare(hr)

    def s(a, b):
        return (2 * a * b + 30) / (a**2 + b**2 + 30)

    sims, weights = [], []
    for turn in (lambda k: k, lambda k: k.t()):
        coefficients = []
        for scale in (1, 2, 3):
            kernel = torch.full((2**scale, 2**scale), 2.0**-scale, dtype=torch.float64)
            kernel[: 2 ** (scale - 1)] *= -1
            coefficients.append((same(y1, turn(kernel)).abs(), same(y2, turn(kernel)).abs()))
        sims.append((s(*coefficients[0]) + s(*coefficients[1])) / 2)
        weights.append(torch.maximum(*coefficients[2]))
    sims.append((s(same(i1, box).abs(), same(i2, box).abs()) + s(same(q1, box).abs(), same(q2, box).abs())) / 2)
    weights.append((weights[0] + weights[1]) / 2)
    sim, weight = torch.stack(sims), torch.stack(weights)
    mean = (torch.sigmoid(4.2 * sim) * weight).sum() / weight.sum()
    return (torch.logit(mean) / 4.2) ** 2


def test_equals_the_formulas():
    sr, hr = make_pair(3, 49, 38, dtype=torch.float64)
    expected = torch.stack([direct(a, b) for a, b in zip(sr, hr, strict=True)])
    # The small constant that keeps 0/0 away costs less than 1e-7.
    torch.testing.assert_close(haarpsi(sr, hr), expected, rtol=0, atol=1e-7)


def test_equal_images_score_one_and_worse_ones_less():
    sr, hr = make_pair(2, 64, 64)
    torch.testing.assert_close(haarpsi(hr, hr), torch.ones(2))
    assert (haarpsi(hr, hr) <= 1).all()
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    levels = [haarpsi((hr + a * noise).clamp(0, 1), hr) for a in (0.0, 0.02, 0.05, 0.1, 0.3)]
    assert all((a > b).all() for a, b in pairwise(levels))
    assert (haarpsi(sr, hr) < 1).all() and (haarpsi(sr, hr) > 0).all()


def test_black_images_score_one_with_zero_gradient():
    black = torch.zeros(1, 3, 32, 32, requires_grad=True)
    score = haarpsi(black, torch.zeros(1, 3, 32, 32))
    score.backward()
    assert score.item() == 1.0 and black.grad.abs().max() == 0


def test_close_to_piq():
    piq = pytest.importorskip("piq")
    sr, hr = make_pair(4, 97, 130, dtype=torch.float64)
    # piq rounds its colour matrix and pads otherwise; it is itself 3e-5 off the published value below.
    torch.testing.assert_close(haarpsi(sr, hr), piq.haarpsi(sr, hr, reduction="none"), rtol=0, atol=2e-4)


@pytest.mark.skipif(not TID.is_dir(), reason="the TID2013 pair is in ../shared/data only")
def test_published_value():
    """TID2013 I01 against i01_01_5: 0.71706527 from the authors' MATLAB code (quoted in piq's tests)."""
    import numpy as np
    from PIL import Image

    def read(name):
        array = np.array(Image.open(TID / name).convert("RGB"))
        return torch.from_numpy(array).permute(2, 0, 1)[None].double() / 255

    score = haarpsi(read("i01_01_5.bmp"), read("I01.BMP"))
    assert abs(score.item() - 0.71706527) < 5e-8
