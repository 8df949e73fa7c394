from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import make_pair
from parity import golden

from sr_perceptual_loss import InputError, ssim
from sr_perceptual_loss.ops.ssim import ssim_checked

GOLDEN = np.load(Path(__file__).parents[1] / "parity" / "efficient_pban.npz")


@pytest.mark.parametrize(("height", "width"), [(128, 128), (192, 160)])
def test_golden_values_and_gradients(height, width):
    sr, hr = golden.pair(height, width)
    sr.requires_grad_()
    scores = ssim(sr, hr)
    key = f"ssim.{height}x{width}.f64"
    np.testing.assert_allclose(scores.detach().numpy(), GOLDEN[f"{key}.scores"], rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(scores.sum(), sr)
    flat = gradient.flatten()
    picked = flat[torch.arange(4096) * flat.numel() // 4096].numpy()
    expected = GOLDEN[f"{key}.grad_sub"]
    assert np.abs(picked - expected).max() <= 1e-12 * np.abs(expected).max() + 1e-18


@pytest.mark.fault(19, 20)
def test_in_half_precision_and_autocast_it_computes_in_float32():
    flat = torch.full((1, 3, 32, 32), 0.5) + 1e-3 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noisy = flat + 1e-3 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = ssim(flat, noisy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ssim(flat, noisy), expected)
    assert ssim(flat.bfloat16(), noisy).dtype == torch.float32


@pytest.mark.fault(7)
def test_equal_images_score_one():
    _, hr = make_pair(2, 33, 40)
    torch.testing.assert_close(ssim(hr, hr), torch.ones(2))


@pytest.mark.fault(16)
def test_it_is_per_image():
    sr, hr = make_pair(3, 33, 40, dtype=torch.float64)
    alone = torch.cat([ssim(sr[i : i + 1], hr[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(ssim(sr, hr), alone, rtol=1e-12, atol=0)
    assert torch.equal(ssim(sr, hr), ssim_checked(sr, hr))


def test_too_small_and_bad_window():
    sr, hr = make_pair(1, 16, 16)
    with pytest.raises(InputError, match="got 10x16, needs sides >= 11"):
        ssim(sr[:, :, :10], hr[:, :, :10])
    with pytest.raises(InputError, match="window: got 4"):
        ssim(sr, hr, window=4)
