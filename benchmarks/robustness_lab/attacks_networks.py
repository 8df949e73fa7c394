"""Small x4 networks with the three kinds of up-sampling head, because each kind draws artefacts of its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sr_perceptual_loss.checks import as_int, check_choice

__all__ = ["HEADS", "SmallSR"]

#: Sub-pixel shuffle (can write a period-4 grid with its biases), transposed convolution, enlargement and convolution.
HEADS = ("shuffle", "transposed", "interpolate")
SCALE = 4


def _head(kind: str, width: int) -> nn.Module:
    if kind == "shuffle":
        return nn.Sequential(nn.Conv2d(width, 3 * SCALE**2, 3, padding=1), nn.PixelShuffle(SCALE))
    layers: list[nn.Module] = []
    for _ in range(2):
        if kind == "transposed":
            layers.append(nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1))
        else:
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, width // 2, 3, padding=1)]
        layers.append(nn.LeakyReLU(0.1))
        width //= 2
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))


class SmallSR(nn.Module):
    """Bicubic enlargement plus what a residual body at LR size and one head add; 60 to 70 thousand parameters.

    Args:
        head: one of :data:`HEADS`.
        width: channels of the body, a multiple of 4.
        blocks: residual blocks of two convolutions.

    Raises:
        UnknownNameError: no such head.
    """

    def __init__(self, head: str = "shuffle", width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        check_choice("head", head, HEADS)
        width = as_int("width", width, minimum=4)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(as_int("blocks", blocks, minimum=1))
        )
        self.head = _head(head, width)
        last = [m for m in self.head.modules() if isinstance(m, nn.Conv2d)][-1]
        # It starts as bicubic, so that short trainings measure the loss and not the initialisation.
        nn.init.normal_(last.weight, std=1e-3)
        assert last.bias is not None
        nn.init.zeros_(last.bias)

    def forward(self, lr: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, 3, 4 h, 4 w), not clamped."""
        x = F.leaky_relu(self.first(lr), 0.1)
        for block in self.body:
            x = x + block(x)
        return F.interpolate(lr, scale_factor=SCALE, mode="bicubic", align_corners=False) + self.head(x)
