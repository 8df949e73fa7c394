"""Convolutional networks trained on ImageNet, as lists of feature maps: EfficientNet-Lite0, AlexNet, VGG16, SqueezeNet.

Source: Tan, Le, "EfficientNet", arXiv 1905.11946, in the Lite form (no squeeze-and-excitation, ReLU6); Krizhevsky,
arXiv 1404.5997; Simonyan, Zisserman, arXiv 1409.1556; Iandola et al., SqueezeNet 1.1, arXiv 1602.07360. Layer numbers
of the last three are those of torchvision's ``features``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TAPS", "EfficientNetLite0", "L2Pool", "Trunk"]

#: kernel, stride, expansion, channels, blocks of the seven stages.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM = 32
#: Layers whose outputs LPIPS compares, in torchvision's numbering.
TAPS: Mapping[str, tuple[int, ...]] = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" zero border, followed by ReLU6 unless it is linear.

    It gives ceil(side / stride) outputs; if the border cannot be symmetric, the larger part is right and below.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, linear: bool = False
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)
        self.linear = linear
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear" if linear else "relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, ceil(H / stride), ceil(W / stride))."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        if stride == 1:
            x = F.conv2d(x, self.weight, self.bias, padding=kernel // 2, groups=self.groups)
        else:
            totals = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in (x.shape[3], x.shape[2])]
            x = F.pad(x, [part for total in totals for part in (total // 2, total - total // 2)])
            x = F.conv2d(x, self.weight, self.bias, stride, groups=self.groups)
        return x if self.linear else F.relu6(x)


class InvertedResidual(nn.Module):
    """Expansion (1x1), depthwise convolution, linear projection (1x1); added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = SameConv(inputs, width, 1) if expansion > 1 else nn.Identity()
        self.depthwise = SameConv(width, width, kernel, stride, groups=width)
        self.project = SameConv(width, outputs, 1, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its head, with batch norms folded into the convolutions.

    Args:
        width: factor on all numbers of channels; 1 for the published network.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = max(2, round(STEM * width))
        self.stem = SameConv(3, channels, 3, 2)
        self.channels, self.stages = [channels], nn.ModuleList()
        for kernel, stride, expansion, outputs, blocks in STAGES:
            stage = nn.Sequential()
            for number in range(blocks):
                before, channels = channels, max(2, round(outputs * width))
                stage.append(InvertedResidual(before, channels, kernel, 1 if number else stride, expansion))
            self.stages.append(stage)
            self.channels.append(channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The stem after its ReLU6, then seven stages, which are linear: their values have both signs.

        Args:
            image: (N, 3, H, W) in [-1, 1].

        Returns:
            Eight maps; sides / 2, 2, 4, 8, 16, 16, 32, 32, rounded up.
        """
        x = self.stem(image.contiguous(memory_format=torch.channels_last))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Trunk(nn.Module):
    """The tapped layers of a network of torchvision, in its key layout ``features.NUMBER``.

    Args:
        name: one of :data:`TAPS`.
        width: factor on all numbers of channels; 1 for the published network.
    """

    def __init__(self, name: str, width: float = 1.0) -> None:
        super().__init__()
        self.taps = TAPS[name]
        self.features = _LAYERS[name](width)[: self.taps[-1] + 1]
        self.channels: list[int] = []
        for number, layer in enumerate(self.features):
            for part in layer.modules():
                if isinstance(part, nn.Conv2d):
                    nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                    channels = part.out_channels * (2 if isinstance(layer, Fire) else 1)
            if number in self.taps:
                self.channels.append(channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W), normalised as ImageNet -> the outputs of the tapped layers."""
        x, maps = image, []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                maps.append(x)
        return maps


class Fire(nn.Module):
    """SqueezeNet's block: 1x1 convolution, then 1x1 and 3x3 convolutions side by side; names as in torchvision."""

    def __init__(self, inputs: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, 2 wide, H, W)."""
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(inplace=True)]


def _alex(width: float) -> nn.Sequential:
    a, b, c, d = (round(width * channels) for channels in (64, 192, 384, 256))
    layers = [*_conv(3, a, 11, 4, 2), nn.MaxPool2d(3, 2), *_conv(a, b, 5, padding=2), nn.MaxPool2d(3, 2)]
    return nn.Sequential(*layers, *_conv(b, c, 3, padding=1), *_conv(c, d, 3, padding=1), *_conv(d, d, 3, padding=1))


def _vgg(width: float) -> nn.Sequential:
    layers, inputs = [], 3
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            outputs = round(width * channels)
            layers += _conv(inputs, outputs, 3, padding=1)
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _squeeze(width: float) -> nn.Sequential:
    inputs = round(width * 64)
    layers = _conv(3, inputs, 3, stride=2)
    for blocks in (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256))):
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for squeezed, expanded in blocks:
            narrow, wide = round(width * squeezed), round(width * expanded)
            layers.append(Fire(inputs, narrow, wide))
            inputs = 2 * wide
    return nn.Sequential(*layers)


_LAYERS: Mapping[str, Callable[[float], nn.Sequential]] = {"alex": _alex, "vgg": _vgg, "squeeze": _squeeze}


class L2Pool(nn.Module):
    """sqrt(binomial 3x3 mean of x^2) at every second pixel, which does not alias as a maximum does (DISTS)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        row = x.new_tensor((0.25, 0.5, 0.25))
        kernel = torch.outer(row, row).expand(x.shape[1], 1, 3, 3).contiguous()
        return (F.conv2d(x * x, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
