"""Gradients of losses at the SR output, their norms and cosines, and a loss with a prescribed gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from sr_perceptual_loss.errors import InputError

__all__ = ["LossTerm", "gradient_at", "gradient_cosine", "per_image_norms", "surrogate"]

#: A function of the SR image with a 0-d value, or such a value already computed from the SR tensor.
LossTerm: TypeAlias = Callable[[Tensor], Tensor] | Tensor


def per_image_norms(gradient: Tensor) -> Tensor:
    """Euclidean norm of the gradient of each image's own loss: N * ||g_i|| for a loss that is a mean over N images.

    Args:
        gradient: gradient of a batch mean with respect to the images, (N, ...).

    Returns:
        (N,); the factor N makes norms comparable between batches, and ranks, of different size.
    """
    return len(gradient) * gradient.flatten(1).norm(dim=1)


def gradient_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between two gradients, over the whole batch.

    Args:
        a: gradient, any shape.
        b: gradient, same shape.

    Returns:
        0-d tensor in [-1, 1]; 0 where one of them is zero.
    """
    return torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm()).clamp_min(torch.finfo(a.dtype).tiny)


def gradient_at(loss: LossTerm, sr: Tensor, leaf: Tensor, name: str = "loss") -> tuple[Tensor, Tensor]:
    """Value and gradient of one loss at the SR image.

    Args:
        loss: function of the image, called with ``leaf``; or a value computed from ``sr``, whose graph is kept.
        sr: the network's output, (N, C, H, W).
        leaf: ``sr`` detached, in the precision of the result, requiring grad.
        name: name of the loss, for messages.

    Returns:
        Detached 0-d value, and the gradient in the shape of ``leaf``; zero if the loss does not depend on the image.

    Raises:
        InputError: the value is not 0-d, or the loss uses a reentrant checkpoint.
    """
    computed = isinstance(loss, Tensor)
    value = loss if isinstance(loss, Tensor) else loss(leaf)
    if value.dim() != 0:
        raise InputError(f"{name}: got a loss of shape {tuple(value.shape)}, expected a 0-d tensor (reduction: mean).")
    if not value.requires_grad:
        return value.to(leaf.dtype), torch.zeros_like(leaf)
    try:
        # Outside autocast, as an ordinary backward pass: autocast would round the gradient.
        with torch.autocast(device_type=leaf.device.type, enabled=False):
            (gradient,) = torch.autograd.grad(value, sr if computed else leaf, retain_graph=computed, allow_unused=True)
    except RuntimeError as error:
        if "heckpoint" in str(error):
            raise InputError(
                f"{name}: its network uses a reentrant checkpoint, which cannot give the gradient to the image alone; "
                "use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
            ) from error
        raise
    gradient = torch.zeros_like(leaf) if gradient is None else gradient.to(leaf.dtype)
    return value.detach().to(leaf.dtype), gradient


def surrogate(sr: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
    """A scalar with a given value and a given gradient with respect to ``sr``.

    Args:
        sr: SR images, part of the network's graph.
        gradient: same shape; a constant, so a backward pass with ``create_graph=True`` raises InputError.
        value: 0-d.

    Returns:
        0-d tensor: value + (s - s.detach()) with s = sum(sr * gradient).
    """
    s = (sr.to(gradient.dtype) * gradient).sum()
    if s.requires_grad:
        s.register_hook(_refuse_second_derivatives)
    return value.detach() + (s - s.detach())


def _refuse_second_derivatives(_: Tensor) -> None:
    # Grad mode is on in a backward pass only under create_graph=True.
    if torch.is_grad_enabled():
        raise InputError(
            "balance: second derivatives (create_graph=True) are not supported: the balanced gradient is a constant. "
            "Use a plain weighted sum, such as `loss_balance: none`."
        )
