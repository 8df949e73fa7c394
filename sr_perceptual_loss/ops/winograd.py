"""3x3 convolutions with fixed weights by Winograd's minimal filtering: equal results, 2.25 times fewer products.

A tile of 2x2 outputs is a bilinear function of a window of 4x4 pixels and of the kernel. Through the values of
polynomials at 0, 1, -1 and infinity it needs 16 products instead of 36:

    Y = A [ (G g G^T) * (B d B^T) ] A^T

The sums over channels are one batched matrix product. For the gradient the kernel is turned by 180 degrees, which
exchanges 0 and infinity. So both directions use the same transformed weights, and no image is stored.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, F(2x2, 3x3).
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sr_perceptual_loss.ops.fold import frozen_parameter

__all__ = ["WinogradConv", "with_winograd"]

M = TypeVar("M", bound=nn.Module)

TILE, WINDOW = 2, 4
BEFORE = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0))  # B
KERNEL = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))  # G
AFTER = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))  # A
#: Order of the kernel's values for the turned kernel.
TURNED = [3, 1, 2, 0]

#: Channels, of input and of output, from which it is faster. Measured on a CPU with AVX2, one thread, forward or
#: backward, against oneDNN's direct convolution: 64 channels lose 25 %, 128 gain 6 % alone and nothing inside a critic,
#: 256 gain 15 to 25 %, 512 to 1024 gain 25 to 50 %. In float32 its error is half as large. With larger tiles (4x4) the
#: transforms cost what the products save.
MIN_CHANNELS = 256


@functools.cache
def _transforms(turned: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Matrices for the pixels of a window (16, 16) and of a tile (4, 16); on the CPU."""
    before, after = (torch.tensor(rows, dtype=dtype, device="cpu") for rows in (BEFORE, AFTER))
    if turned:
        before, after = before[TURNED], after[:, TURNED]
    return torch.kron(before, before), torch.kron(after, after)


def _filter(image: Tensor, weight: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor:
    """(N, C, H, W) with transformed weights (16, C, O) -> (N, O, H, W) in channels-last memory."""
    n, channels, height, width = image.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    margin = (0, 0, 1, columns * TILE + 1 - width, 1, rows * TILE + 1 - height)
    padded = F.pad(image.permute(0, 2, 3, 1), margin)
    s = padded.stride()
    shape, steps = (WINDOW, WINDOW, n, rows, columns, channels), (s[1], s[2], s[0], TILE * s[1], TILE * s[2], s[3])
    before, after = _transforms(turned, image.dtype)
    windows = before @ padded.as_strided(shape, steps).reshape(len(before), -1)
    products = torch.bmm(windows.view(len(before), -1, channels), weight)
    tiles = (after @ products.view(len(before), -1)).view(TILE, TILE, n, rows, columns, -1).permute(2, 3, 0, 4, 1, 5)
    # Not a view of another tensor, so that the caller may modify it in place.
    size = (n, tiles.shape[-1], rows * TILE, columns * TILE)
    result = torch.empty(size, dtype=image.dtype, device=image.device, memory_format=torch.channels_last)
    torch.add(tiles, 0 if bias is None else bias, out=result.permute(0, 2, 3, 1).view(tiles.shape))
    if result.shape[2:] == (height, width):
        return result
    return result[:, :, :height, :width].contiguous(memory_format=torch.channels_last)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return _filter(image, weight, bias, turned=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _filter(grad, weight.mT, None, turned=True), None, None


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 with a zero border of 1, whose weights never change.

    Inside autocast and away from the CPU it is the ordinary convolution. Its weights take 2.8 times the memory.

    Args:
        conv: with bias; not modified, its tensors are shared.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        with torch.no_grad():
            # In float64, so that a weight is rounded once.
            wide = conv.weight.double()
            kernel = wide.new_tensor(KERNEL)
            transformed = torch.einsum("ai,bj,ocij->abco", kernel, kernel, wide).flatten(0, 1).contiguous()
        self.weight, self.bias = frozen_parameter(conv.weight), frozen_parameter(conv.bias)
        self.transformed = frozen_parameter(transformed.to(conv.weight.dtype))

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H, W)."""
        if image.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return F.conv2d(image, self.weight, self.bias, padding=1)
        result: Tensor = _Winograd.apply(image, self.transformed, self.bias)
        return result


def _is_faster(conv: nn.Conv2d) -> bool:
    settings = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    plain = settings == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and conv.bias is not None
    # On other devices the libraries use such algorithms themselves.
    return plain and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS and conv.weight.device.type == "cpu"


def with_winograd(module: M) -> M:
    """Replace the convolutions inside a module by :class:`WinogradConv` where that is faster; in place.

    Args:
        module: part of an inference form: frozen and not used elsewhere.

    Returns:
        The module.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and _is_faster(child):
                setattr(parent, name, WinogradConv(child))
    return module
