"""Features of the last reference batch, for several losses of one step that share a critic."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sr_perceptual_loss.critics.base import TargetFeatures

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TargetMemo"]


class TargetMemo:
    """Features of the last reference batch, given again for the same memory with the same values only.

    On the CPU, where NumPy may write unseen, the values are compared. Elsewhere a change that autograd does not count
    (``.data``) is not noticed. Nothing is kept longer than the reference tensor lives.

    Attributes:
        hits: calls that were answered without computing.
        misses: calls that were computed.
    """

    def __init__(self) -> None:
        self.hits, self.misses = 0, 0
        self.clear()

    def clear(self) -> None:
        """Forget the features; the counters stay."""
        self._view: tuple[object, ...] | None = None
        self._storage: weakref.ref[Any] | None = None
        self._values: Tensor | None = None
        self._features: TargetFeatures = ()

    def features(self, hr: Tensor, encode: Callable[[Tensor], TargetFeatures]) -> TargetFeatures:
        """``encode(hr)``, computed or remembered.

        Args:
            hr: reference images, (N, 3, H, W).
            encode: computes the features.

        Returns:
            The features.
        """
        if torch.is_inference_mode_enabled() or hr.is_inference():
            # Such tensors count no changes, and features made there cannot be used in training.
            return encode(hr)
        view = (hr._version, hr.storage_offset(), hr.shape, hr.stride(), hr.dtype)
        storage = hr.untyped_storage()
        known = self._view == view and self._storage is not None and self._storage() is storage
        if known and (self._values is None or torch.equal(self._values, hr)):
            self.hits += 1
            return self._features
        self.misses += 1
        self.clear()  # frees the old features before new ones are made
        features = encode(hr)
        if not any(feature.requires_grad for feature in features):
            self._view, self._features = view, features
            self._storage = weakref.ref(storage, self._forget_later())
            self._values = hr.detach().clone() if hr.device.type == "cpu" else None
        return features

    def _forget_later(self) -> Callable[[object], None]:
        memo = weakref.ref(self)

        def forget(_: object) -> None:
            this = memo()
            if this is not None:
                this.clear()

        return forget

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()
