"""Features of the reference used again: within a step (:class:`TargetMemo`) and over a run (:class:`TargetCache`).

Neither can give features of another picture: the memo looks at the memory itself, the cache at the contents.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from sr_perceptual_loss.checks import as_float
from sr_perceptual_loss.critics.base import TargetFeatures
from sr_perceptual_loss.errors import InputError

__all__ = ["TargetCache", "TargetMemo", "image_digests"]

MEGABYTE = 2**20

Encode = Callable[[Tensor], TargetFeatures]


class Kept(NamedTuple):
    """What a memo remembers."""

    owner: object
    view: tuple[object, ...]
    storage: weakref.ref[Any]
    values: Tensor | None
    features: TargetFeatures

    def shows(self, hr: Tensor) -> bool:
        """Whether ``hr`` looks at the same memory with the same values."""
        storage = self.storage()
        if storage is None or storage is not hr.untyped_storage():
            return False
        return self.values is None or torch.equal(self.values, hr)


class TargetMemo:
    """Features of the last reference batch, for calls that share the tensor: losses of one step, a guard, scales.

    They are given again only for the same memory, seen in the same way and not written to since. On the CPU, where
    NumPy may write unseen, the values are compared as well; elsewhere a change that autograd does not see (``.data``)
    is not seen here either. Nothing is kept longer than the reference tensor itself lives, and the tensor is not kept
    alive.

    Attributes:
        hits: calls that were answered without computing.
        misses: calls that were computed.
    """

    def __init__(self) -> None:
        self.hits, self.misses = 0, 0
        # Replaced as a whole and read once per call: another thread may keep something else in between.
        self._kept: Kept | None = None

    def features(self, hr: Tensor, owner: object, encode: Encode) -> TargetFeatures:
        """``encode(hr)``, computed or remembered.

        Args:
            hr: reference images.
            owner: what the features are for; another one (compared with ``is``) makes them worthless.
            encode: computes them.

        Returns:
            The features.
        """
        if torch.is_inference_mode_enabled() or hr.is_inference() or hr.device.type == "meta":
            # Such tensors count no changes, and features made there cannot be used in training.
            return encode(hr)
        view = (hr._version, hr.storage_offset(), hr.shape, hr.stride(), hr.dtype)
        kept = self._kept
        if kept is not None and kept.owner is owner and kept.view == view and kept.shows(hr):
            self.hits += 1
            return kept.features
        self.misses += 1
        # Freed before the new ones are made.
        self._kept = kept = None
        features = encode(hr)
        if not any(feature.requires_grad for feature in features):
            self._kept = self._keep(hr, owner, view, features)
        return features

    def _keep(self, hr: Tensor, owner: object, view: tuple[object, ...], features: TargetFeatures) -> Kept:
        memo = weakref.ref(self)

        def forget(dead: object) -> None:
            this = memo()
            if this is not None and this._kept is not None and this._kept.storage is dead:
                this._kept = None

        values = hr.detach().clone() if hr.device.type == "cpu" else None
        return Kept(owner, view, weakref.ref(hr.untyped_storage(), forget), values, features)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


class TargetCache:
    """Features per reference image, least recently used first to go, bounded in bytes.

    For references that come again as the same pixels: a fixed validation set, or training on fixed crops. Random crops
    never come again and only cost. The key is the content of each image together with its shape, dtype and device and
    with the owner (the digest of the critic's weights, its kernels and precision), so the batch that an image came in
    does not matter and nothing can be stale. On an accelerator the digest needs a transfer of the image to the CPU in
    every call; explicit keys avoid it.

    Copies and pickles have the limit, not the contents.

    Args:
        megabytes: limit of the sum of all stored features, in 2^20 bytes.

    Attributes:
        hits: images found.
        misses: images computed.
        bytes: held now.

    Raises:
        InputError: the limit is not a positive number.
    """

    def __init__(self, megabytes: float) -> None:
        self.megabytes = as_float("target_cache", megabytes, minimum=0.0)
        if not self.megabytes:
            raise InputError("target_cache: got 0, expected a limit in MB; leave it out (null) for no cache.")
        self.hits, self.misses, self.bytes = 0, 0, 0
        self._entries: OrderedDict[Hashable, TargetFeatures] = OrderedDict()
        # Not held while features are computed.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def features(
        self, hr: Tensor, owner: Hashable, encode: Encode, keys: Sequence[Hashable] | None = None
    ) -> TargetFeatures:
        """``encode(hr)``, with the images that are known taken from the cache.

        Args:
            hr: reference images, (N, 3, H, W).
            owner: what else the features depend on.
            encode: computes the features of some images, each tensor with the images along its first dimension.
            keys: N names, each of which stands for exactly one picture (sample, crop and augmentation); None: digests
                of the contents.

        Returns:
            The features of the batch.

        Raises:
            InputError: not one key per image, or the critic's features are not per image.
        """
        if keys is not None and len(keys) != len(hr):
            raise InputError(f"target_key: got {len(keys)} keys for {len(hr)} images, expected one per image.")
        contents: Sequence[Hashable] = image_digests(hr) if keys is None else keys
        common = (owner, keys is None, tuple(hr.shape[1:]), hr.dtype, hr.device)
        names: list[Hashable] = [(common, content) for content in contents]
        with self._lock:
            found = {name: self._entries[name] for name in names if name in self._entries}
            for name in found:
                self._entries.move_to_end(name)
            missing = list(dict.fromkeys(name for name in names if name not in found))
            self.misses += len(missing)
            self.hits += len(names) - len(missing)
        if missing:
            places = [names.index(name) for name in missing]
            whole = len(places) == len(hr)
            fresh = encode(hr if whole else hr[places])
            self._check(fresh, len(places))
            for row, name in enumerate(missing):
                found[name] = tuple(feature[row : row + 1] for feature in fresh)
                self._store(name, found[name])
            if whole:
                return fresh
        rows: list[TargetFeatures] = [found[name] for name in names]
        return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    @staticmethod
    def _check(features: TargetFeatures, images: int) -> None:
        for feature in features:
            if feature.dim() == 0 or len(feature) != images:
                raise InputError(
                    f"target_cache: the critic's features have shape {tuple(feature.shape)} for {images} images, "
                    "expected the images along the first dimension; leave target_cache out for this critic."
                )

    def _store(self, name: Hashable, features: TargetFeatures) -> None:
        size = sum(feature.numel() * feature.element_size() for feature in features)
        limit = self.megabytes * MEGABYTE
        # What a graph or inference mode made is of no use in another step.
        if size > limit or any(feature.requires_grad or feature.is_inference() for feature in features):
            return
        # A slice would keep the whole batch.
        own = tuple(feature.clone() for feature in features)
        with self._lock:
            if name in self._entries:  # another thread was faster
                return
            while self._entries and self.bytes + size > limit:
                self._drop(next(iter(self._entries)))
            self._entries[name] = own
            self.bytes += size

    def _drop(self, name: Hashable) -> None:
        self.bytes -= sum(feature.numel() * feature.element_size() for feature in self._entries.pop(name))

    def clear(self) -> None:
        """Forget all features; the counters stay."""
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self.megabytes)

    def __reduce__(self) -> tuple[type[Self], tuple[float]]:
        return type(self), (self.megabytes,)


def image_digests(images: Tensor) -> list[bytes]:
    """A 32-byte BLAKE2 digest of the values of each image of a batch; a transfer where it is not on the CPU.

    Args:
        images: (N, C, H, W).

    Returns:
        N digests; shape and dtype are not part of them.
    """
    plain = images.detach().cpu().contiguous()
    return [hashlib.blake2b(row.view(torch.uint8).numpy().data, digest_size=32).digest() for row in plain.flatten(1)]
