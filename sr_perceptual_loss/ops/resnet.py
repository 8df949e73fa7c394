"""Parts of residual networks, in the key layout of torchvision and timm.

Source: He et al., arXiv 1512.03385; the stride of a bottleneck sits in its 3x3 convolution.
"""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

__all__ = ["init_convolutions", "residual_stage"]


def residual_stage(
    block: type[BasicBlock] | type[Bottleneck], channels: int, planes: int, blocks: int, stride: int
) -> nn.Sequential:
    """Residual blocks in a row; the first one changes size and width.

    Args:
        block: ``BasicBlock``, or ``Bottleneck``, which makes four times ``planes`` channels.
        channels: in.
        planes: channels inside a block.
        blocks: how many.
        stride: of the first one.

    Returns:
        The stage; out come ``planes * block.expansion`` channels.
    """
    shortcut, out = None, planes * block.expansion
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    first = block(channels, planes, stride, shortcut)
    return nn.Sequential(first, *(block(out, planes) for _ in range(blocks - 1)))


def init_convolutions(*parts: nn.Module) -> None:
    """Start values of torchvision's ResNet; training usually replaces them by ImageNet weights."""
    for module in (m for part in parts for m in part.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
