"""Cache of the features of the last reference batch, for several losses of one step that share a critic."""

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
    """Keeps the features of the last reference batch and returns them for the same memory with the same values.

    On the CPU, where NumPy may write to the memory unnoticed, the values are compared. On other devices a change that
    autograd does not count (``.data``) is not noticed. Features are dropped when the memory of the reference is freed.

    Attributes:
        hits: number of calls answered from the cache.
        misses: number of calls that computed the features.
    """

    def __init__(self) -> None:
        self.hits, self.misses = 0, 0
        self.clear()

    def clear(self) -> None:
        """Drop the features; the counters stay."""
        self._view: tuple[object, ...] | None = None
        self._storage: weakref.ref[Any] | None = None
        self._values: Tensor | None = None
        self._features: TargetFeatures = ()

    def features(self, hr: Tensor, encode: Callable[[Tensor], TargetFeatures]) -> TargetFeatures:
        """``encode(hr)``, computed or from the cache.

        Args:
            hr: reference images, (N, 3, H, W).
            encode: computes the features.

        Returns:
            The features.
        """
        if torch.is_inference_mode_enabled() or hr.is_inference():
            # Tensors of inference mode count no changes, and their features cannot be used in training.
            return encode(hr)
        view = (hr._version, hr.storage_offset(), hr.shape, hr.stride(), hr.dtype)
        storage = hr.untyped_storage()
        same = self._view == view and self._storage is not None and self._storage() is storage
        if same and (self._values is None or torch.equal(self._values, hr)):
            self.hits += 1
            return self._features
        self.misses += 1
        self.clear()  # frees the old features before new ones are computed
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
