"""Networks with fixed weights: batch norms folded, convolutions merged, tensors shared."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from sr_perceptual_loss.ops.backbones import residual_stage
from sr_perceptual_loss.ops.fold import folded, frozen_copy, merge_convs


def normed(bn):
    """Statistics and parameters that are not those of a fresh one."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        bn.running_mean.normal_(generator=g)
        bn.running_var.uniform_(0.3, 2, generator=g)
        if bn.affine:
            bn.weight.normal_(generator=g)
            bn.bias.normal_(generator=g)
    return bn.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_after_a_convolution_is_folded(bias, affine):
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=bias).double()
    bn = normed(nn.BatchNorm2d(6, affine=affine, eps=0.1).double())
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    new = folded(nn.Sequential(conv, bn))
    assert isinstance(new[1], nn.Identity) and not isinstance(conv, nn.Identity)
    torch.testing.assert_close(new(x), bn(conv(x)), rtol=1e-12, atol=1e-12)
    assert not any(p.requires_grad for p in new.parameters()) and conv.weight.requires_grad


def test_a_batch_norm_that_follows_nothing_stays():
    new = folded(nn.Sequential(nn.ReLU(), normed(nn.BatchNorm2d(3))))
    assert isinstance(new[1], nn.BatchNorm2d)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_folded_network(block):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), residual_stage(block, 8, 4, 2, 2)).double()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            normed(part)
    net.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    new = folded(net)
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(new(x), net(x), rtol=1e-11, atol=1e-11)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in new.modules())
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_merged_convolutions():
    convs = [nn.Conv2d(3, out, 3, padding=1).double() for out in (2, 5)]
    x = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    merged = merge_convs(*convs)
    assert merged.out_channels == 7 and not merged.weight.requires_grad
    torch.testing.assert_close(merged(x), torch.cat([conv(x) for conv in convs], 1), rtol=1e-12, atol=1e-12)


def test_a_frozen_copy_shares_memory_and_can_be_cast_alone():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    new = frozen_copy(net)
    assert new[0].weight.data_ptr() == net[0].weight.data_ptr()
    assert new[1].running_mean.data_ptr() == net[1].running_mean.data_ptr()
    assert net[0].weight.requires_grad and not new[0].weight.requires_grad and not new.training
    new.double()
    assert net[0].weight.dtype == net[1].running_mean.dtype == torch.float32
    assert new[0].weight.dtype == new[1].running_mean.dtype == torch.float64
