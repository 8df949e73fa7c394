"""Exact deformable convolution that mixes channels first and samples after, in chunks of taps to bound the memory.

Sampling, S(f; r) = sum_q beta(q, r) f(q), is the same for all channels, and a tap's matrix W_t is the same at all
pixels, so the two finite sums can be exchanged:

    y(p) = sum_t W_t S(x; r_t(p)) = sum_t S(W_t x; r_t(p)),   r_t(p) = p + d_t + offset_t(p)

The products W_t x of many taps are one matrix product, and sampling reads the output channels instead of the input
channels. Corners are explicit indices, so that the derivative at a whole-number position is that of torchvision's
operator (to the right).

Source: Dai et al., arXiv 1703.06211, equations (2)-(4); the exchange of sums is elementary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["mixed_deformable", "tap_weights"]

#: Bytes that the temporaries of one chunk of taps may take; at least one tap is processed at a time. Measured: 8, 12
#: and 16 MiB take the same time at 16x16 and 8x8 pixels (batch 4). 12 lowers the peak memory at 16x16, 16 does not,
#: since it processes the 81 taps of a 9x9 kernel at once. On another CPU 32 took 30 % longer.
CHUNK_BYTES = 12 * 2**20
#: Bytes of rows gathered at a time; they are read again immediately and should still be in a cache.
GATHER_BYTES = 2 * 2**20

#: Up to this many pixels of a map, gradients use the sampling as a dense matrix: its products cost less than sorting
#: and gathering rows (measured: a tenth less time in all at 64 pixels, equal at 144, 45 % more at 256).
DENSE_PIXELS = 100

# Corners of a bilinear sample in this order: (i, j), i down, j right.
CORNERS = 4


def tap_weights(weights: Sequence[Tensor]) -> Tensor:
    """Convolution weights as one matrix per tap; differentiable.

    Args:
        weights: (O, C, k, k) of each branch, the same O and C in all.

    Returns:
        (T, O, C), the branches' taps one after the other, row-major inside a branch; T = sum of k*k.
    """
    return torch.cat([weight.flatten(2).permute(2, 0, 1) for weight in weights])


def mixed_deformable(image: Tensor, offset: Tensor, taps: Tensor, kernels: Sequence[int]) -> Tensor:
    """Stride-1 "same" deformable convolutions of several kernel sizes side by side, without bias.

    Differentiable once with respect to all three tensors; only they are kept for the backward pass. Computed in the
    precision of ``taps`` also inside autocast; positions at least in float32.

    Args:
        image: (N, C, H, W).
        offset: (N, 2*T, H, W), (dy, dx) of each tap in the order of ``taps``.
        taps: (T, O, C), see :func:`tap_weights`.
        kernels: side of each branch's kernel, odd; T = sum of k*k.

    Returns:
        (N, len(kernels)*O, H, W) in channels-last memory, the branches one after the other.
    """
    # Casts are part of the graph; the function itself receives one precision.
    with torch.autocast(image.device.type, enabled=False):
        wide = torch.promote_types(taps.dtype, torch.float32)
        result: Tensor = _MixedDeformable.apply(image.to(taps.dtype), offset.to(wide), taps, tuple(kernels))
    return result


@dataclass(frozen=True)
class _Chunk:
    """Taps ``first`` to ``last - 1``, of one branch, processed together, and their shifts (taps, 2)."""

    branch: int
    first: int
    last: int
    shifts: Tensor


@dataclass(frozen=True)
class _Corners:
    """Samples of one chunk, all (P, K*4) for P pixels of all images and K taps.

    ``index``: rows of the mixed map, ordered (image, pixel, tap). ``beta``: their weights, zero outside the image. The
    slopes are the derivatives of ``beta`` with respect to the position.
    """

    index: Tensor
    beta: Tensor
    slope_y: Tensor
    slope_x: Tensor


def _chunks(kernels: Sequence[int], per_chunk: int, like: Tensor) -> Iterator[_Chunk]:
    start = 0
    for branch, k in enumerate(kernels):
        line = torch.arange(k, device=like.device, dtype=like.dtype) - k // 2
        shifts = torch.cartesian_prod(line, line)
        # Chunks of nearly equal size.
        count = -(-(k * k) // per_chunk)
        for part in range(count):
            first, last = part * k * k // count, (part + 1) * k * k // count
            yield _Chunk(branch, start + first, start + last, shifts[first:last])
        start += k * k


def _taps_per_chunk(size: tuple[int, int, int], out: int, dtype: torch.dtype, *, backward: bool) -> int:
    """How many taps fit: per tap and pixel the mixed row, its gradient, a matrix row if dense, and the corners."""
    n, height, width = size
    pixels = height * width
    values = (2 * out + 6 * CORNERS + (2 * pixels if pixels <= DENSE_PIXELS else 0)) if backward else out + 3 * CORNERS
    return max(1, CHUNK_BYTES // (n * pixels * values * dtype.itemsize))


def _axis(position: Tensor, size: int) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Per axis: lower index, (weight of the lower, of the upper corner), (their validity as 0 or 1)."""
    lower = position.floor()
    fraction = position - lower
    # A very large position may not fit into an integer. From -2 down and from `size` up both corners are outside.
    lower = lower.clamp(-2, size)
    valid = ((lower >= 0) & (lower < size)).to(position.dtype), ((lower >= -1) & (lower < size - 1)).to(position.dtype)
    # Products, not `where`: a position that is NaN makes the result NaN.
    return lower.to(torch.int32), ((1 - fraction) * valid[0], fraction * valid[1]), valid


def _corners(offset: Tensor, chunk: _Chunk, size: tuple[int, int, int], dtype: torch.dtype) -> _Corners:
    """Indices and weights for ``offset`` (P, 2T), images of ``size`` (N, H, W)."""
    n, height, width = size
    count = chunk.last - chunk.first
    shift = offset[:, 2 * chunk.first : 2 * chunk.last].view(n, height, width, count, 2)
    line_y = torch.arange(height, device=offset.device, dtype=offset.dtype).view(-1, 1, 1)
    line_x = torch.arange(width, device=offset.device, dtype=offset.dtype).view(-1, 1)
    y0, weight_y, valid_y = _axis(shift[..., 0] + (line_y + chunk.shifts[:, 0]), height)
    x0, weight_x, valid_x = _axis(shift[..., 1] + (line_x + chunk.shifts[:, 1]), width)
    row = torch.arange(n, device=offset.device, dtype=torch.int32).view(-1, 1, 1, 1) * height
    tap = torch.arange(count, device=offset.device, dtype=torch.int32)
    # Corners outside the image have weight zero; their index only has to be valid.
    rows = [(row + (y0 + i).clamp(0, height - 1)) * width for i in (0, 1)]
    columns = [(x0 + j).clamp(0, width - 1) for j in (0, 1)]

    def stack(corner: Callable[[int, int], Tensor]) -> Tensor:
        return torch.stack([corner(i, j) for i in (0, 1) for j in (0, 1)], dim=-1).view(-1, count * CORNERS)

    sign = (-1, 1)
    return _Corners(
        stack(lambda i, j: (rows[i] + columns[j]) * count + tap),
        stack(lambda i, j: weight_y[i] * weight_x[j]).to(dtype),
        stack(lambda i, j: sign[i] * valid_y[i] * weight_x[j]).to(dtype),
        stack(lambda i, j: sign[j] * weight_y[i] * valid_x[j]).to(dtype),
    )


def _rows(image: Tensor) -> Tensor:
    """(N, C, H, W) -> (N*H*W, C), without a copy for channels-last memory."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def _as_image(rows: Tensor, size: tuple[int, int, int]) -> Tensor:
    return rows.view(*size, -1).permute(0, 3, 1, 2)


class _Sampling:
    """Adjoints of the linear map of one chunk, y(p) += sum of beta * rows; ``dense``: with one matrix per image."""

    def __init__(self, corners: _Corners, images: int, dense: bool) -> None:
        self.corners, self.images = corners, images
        self.matrix: Tensor | None = None
        if dense:
            pixels, entries = corners.index.shape
            per_image = pixels // images * (entries // CORNERS)
            index = corners.index.view(images, -1, entries).long()
            self.inner = index - per_image * torch.arange(images, device=index.device).view(-1, 1, 1)
            self.matrix = corners.beta.new_zeros(images, pixels // images, per_image)
            self.matrix.scatter_add_(2, self.inner, corners.beta.view_as(self.inner))

    def to_rows(self, grad: Tensor, count: int) -> Tensor:
        """Gradient of the mixed map's rows: (P, O) -> (P*K, O)."""
        if self.matrix is not None:
            return (self.matrix.mT @ grad.view(self.images, -1, grad.shape[1])).reshape(count, -1)
        # The transposed map: sort the entries by the row they read, then each row is a weighted sum of gradients.
        order, entry = self.corners.index.flatten().sort()
        starts = torch.searchsorted(order, torch.arange(count, device=order.device, dtype=order.dtype))
        pixel = entry // self.corners.index.shape[1]
        beta = self.corners.beta.flatten()[entry]
        return F.embedding_bag(pixel, grad, starts, mode="sum", per_sample_weights=beta)

    def to_beta(self, grad: Tensor, mixed: Tensor) -> Tensor:
        """Gradient of ``beta``, <gradient at the pixel, row> for every corner: (P, O), (P*K, O) -> (P, K*4)."""
        pixels, entries = self.corners.index.shape
        if self.matrix is not None:
            products = grad.view(self.images, -1, grad.shape[1]) @ mixed.view(self.images, -1, mixed.shape[1]).mT
            return products.gather(2, self.inner).view(pixels, entries)
        result = torch.empty_like(self.corners.beta)
        step = max(1, GATHER_BYTES // (entries * grad.shape[1] * grad.element_size()))
        for start in range(0, pixels, step):
            index = self.corners.index[start : start + step]
            gathered = mixed.index_select(0, index.flatten()).view(*index.shape, -1)
            result[start : start + step] = torch.bmm(gathered, grad[start : start + step, :, None]).squeeze(2)
        return result


class _MixedDeformable(torch.autograd.Function):
    """:func:`mixed_deformable`; the backward pass mixes again, chunk by chunk, instead of keeping mixed maps."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, offset: Tensor, taps: Tensor, kernels: tuple[int, ...]) -> Tensor:
        # The gradient with respect to the image does not need the image.
        needs_rows = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ctx.save_for_backward(image if needs_rows else None, offset, taps)
        ctx.kernels, ctx.shape = kernels, image.shape
        n, channels, height, width = image.shape
        size, out = (n, height, width), taps.shape[1]
        rows, flat = _rows(image), _rows(offset)
        result = [rows.new_zeros(len(rows), out) for _ in kernels]
        for chunk in _chunks(kernels, _taps_per_chunk(size, out, taps.dtype, backward=False), flat):
            mixed = F.linear(rows, taps[chunk.first : chunk.last].reshape(-1, channels)).view(-1, out)
            corners = _corners(flat, chunk, size, rows.dtype)
            result[chunk.branch] += F.embedding_bag(corners.index, mixed, mode="sum", per_sample_weights=corners.beta)
        return _as_image(torch.cat(result, dim=1), size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # `once_differentiable` does not raise where `grad` is a constant, and the second derivative is then wrong.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise NotImplementedError(
                "deformable convolution: second derivatives (create_graph=True) are not supported; use another critic."
            )
        image, offset, taps = ctx.saved_tensors
        needs_image, needs_offset, needs_taps = ctx.needs_input_grad[:3]
        n, channels, height, width = ctx.shape
        size, out = (n, height, width), taps.shape[1]
        with torch.autocast(grad.device.type, enabled=False):
            rows, flat = None if image is None else _rows(image), _rows(offset)
            pixels = len(flat)
            grad_branches = [part.contiguous() for part in _rows(grad).split(out, dim=1)]
            grad_rows = grad.new_zeros(pixels, channels) if needs_image else None
            grad_flat = torch.empty_like(flat) if needs_offset else None
            grad_taps = torch.empty_like(taps) if needs_taps else None
            per_chunk = _taps_per_chunk(size, out, taps.dtype, backward=True)
            for chunk in _chunks(ctx.kernels, per_chunk, flat):
                matrix = taps[chunk.first : chunk.last].reshape(-1, channels)
                corners = _corners(flat, chunk, size, taps.dtype)
                sampling = _Sampling(corners, n, dense=height * width <= DENSE_PIXELS)
                grad_branch = grad_branches[chunk.branch]
                if grad_flat is not None and rows is not None:
                    grad_beta = sampling.to_beta(grad_branch, F.linear(rows, matrix).view(-1, out))
                    slopes = torch.stack([corners.slope_y, corners.slope_x])
                    grad_position = (slopes * grad_beta).view(2, pixels, -1, CORNERS).sum(3)
                    grad_flat[:, 2 * chunk.first : 2 * chunk.last] = grad_position.permute(1, 2, 0).flatten(1)
                if grad_rows is None and grad_taps is None:
                    continue
                grad_mixed = sampling.to_rows(grad_branch, pixels * (chunk.last - chunk.first)).view(pixels, -1)
                if grad_rows is not None:
                    grad_rows.addmm_(grad_mixed, matrix)
                if grad_taps is not None and rows is not None:
                    grad_taps[chunk.first : chunk.last] = (grad_mixed.mT @ rows).view(-1, out, channels)
        grad_image = None if grad_rows is None else _as_image(grad_rows, size)
        return grad_image, None if grad_flat is None else _as_image(grad_flat, size), grad_taps, None
