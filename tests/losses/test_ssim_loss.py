from __future__ import annotations

import pytest
import torch
from pairs import make_pair

from sr_perceptual_loss import InputError, SSIMLoss, ssim


def test_value_and_direction():
    sr, hr = make_pair(2, 32, 40)
    loss = SSIMLoss(loss_weight="2e-1")
    sr.requires_grad_()
    value = loss(sr, hr)
    torch.testing.assert_close(value, 0.2 * (1 - ssim(sr, hr)).mean())
    value.backward()
    better = (sr - 0.05 * sr.grad / sr.grad.abs().max()).detach()
    assert ssim(better, hr).mean() > ssim(sr, hr).mean() + 1e-4
    torch.testing.assert_close(loss.terms["score"], ssim(sr, hr).mean().detach())


@pytest.mark.fault(7)
def test_equal_images_cost_nothing():
    _, hr = make_pair(1, 32, 32)
    torch.testing.assert_close(SSIMLoss()(hr, hr), torch.tensor(0.0), atol=1e-6, rtol=0)


@pytest.mark.fault(27)
def test_no_gradient_to_hr():
    sr, hr = make_pair(1, 32, 32)
    SSIMLoss()(sr.requires_grad_(), hr.requires_grad_()).backward()
    assert hr.grad is None and sr.grad.abs().sum() > 0


def test_bad_window():
    for window in (2, 10):
        with pytest.raises(InputError, match="window"):
            SSIMLoss(window=window)
