"""The contract of a critic: an image pair in, one score per pair out, higher is better.

A critic does not know that it is a loss: no weights files, signs, crops, freezing or schedules here, so the same class
is trained, evaluated and used as a loss.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sr_perceptual_loss.checks import MINUS_ONE_TO_ONE, RANGE_CHECKED_CALLS, check_pair, check_range
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.weights.manifest import WeightsEntry

__all__ = ["Critic", "CriticCard", "SizeRule", "TargetFeatures", "normalise"]

#: What a critic computes from ``hr`` alone.
TargetFeatures = tuple[Tensor, ...]


@dataclass(frozen=True)
class SizeRule:
    """Which image sizes a critic takes.

    Attributes:
        minimum: smallest side.
        multiple_of: both sides must be a multiple of it.
        fixed: the only side allowed (square), or None.
    """

    minimum: int = 1
    multiple_of: int = 1
    fixed: int | None = None

    def accepts(self, height: int, width: int) -> bool:
        """Whether an image of this size can be scored as it is."""
        if self.fixed is not None:
            return height == width == self.fixed
        return min(height, width) >= self.minimum and height % self.multiple_of == width % self.multiple_of == 0

    def describe(self) -> str:
        """The rule in words, for messages and tables."""
        if self.fixed is not None:
            return f"exactly {self.fixed}x{self.fixed}"
        multiple = f", multiples of {self.multiple_of}" if self.multiple_of > 1 else ""
        return f"sides >= {self.minimum}{multiple}"

    def check(self, height: int, width: int, critic: str) -> None:
        """Raise if the size cannot be scored.

        Args:
            height: image height.
            width: image width.
            critic: name, for the message.

        Raises:
            InputError: got, expected, cure.
        """
        if self.accepts(height, width):
            return
        side = self.fixed or self.minimum
        raise InputError(
            f"{critic}: got {height}x{width}, takes {self.describe()}. Score crops: CropPlan(size={side}) in a loss "
            f"(YAML `crops: {{size: {side}}}`, with `gt_size: {side}` or larger), or let small patches grow with "
            f"`crops: {{size: {side}, small: resize}}`."
        )


@dataclass(frozen=True)
class CriticCard:
    """What a person should know about a critic before using it.

    Attributes:
        name: file = registry name = YAML value = test id.
        paper: citation.
        input_size: sizes that the full network takes.
        score_range: what trained weights give, roughly.
        relative: True if 0 means "as good as the reference" and scores may be negative.
        symmetric: True if swapping the two images leaves the score as it is.
        capped: True if a score above 0 ("better than the reference") is known to be an artefact: losses then use the
            hinge unless told otherwise.
        differences: from the reference code, one sentence each.
        weights: published or bundled weights by tag; empty for a weight-free critic. The first tag is the default one.
        needs_weights: False for a critic that is a formula.
    """

    name: str
    paper: str
    input_size: SizeRule
    score_range: tuple[float, float]
    relative: bool
    symmetric: bool = False
    capped: bool = False
    differences: tuple[str, ...] = ()
    weights: Mapping[str, WeightsEntry] = field(default_factory=dict)
    needs_weights: bool = True


def normalise(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(image - mean) / std per channel, the constants in the image's own precision.

    Args:
        image: (N, C, H, W).
        mean: C numbers.
        std: C numbers.

    Returns:
        Tensor of the same shape.
    """
    shape = (1, len(mean), 1, 1)
    return (image - image.new_tensor(mean).view(shape)) / image.new_tensor(std).view(shape)


class Critic(nn.Module, ABC):
    """Base of all critics.

    A subclass has a ``card``, an ``__init__`` whose arguments are plain numbers, strings and tuples (they are stored
    with the weights), ``_encode_target`` and ``_compare``, and a ``tiny``.

    Args:
        config: the constructor's arguments by name.
        input_size: sizes that this instance takes; the card's by default.
    """

    card: ClassVar[CriticCard]
    #: (duplicate prefix, kept prefix) where one module has two names in the published key layout.
    aliases: ClassVar[tuple[tuple[str, str], ...]] = ()
    #: Prefixes of published entries that never influence the score.
    unused: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Mapping[str, Any] | None = None, input_size: SizeRule | None = None) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(config or {})
        self.input_size = input_size or self.card.input_size
        #: torch.bfloat16 lets matrix products and convolutions run in it; None computes all in `compute_dtype`.
        self.autocast_dtype: torch.dtype | None = None
        #: "auto": the fastest equal implementation for device and size; "reference": the operators as published.
        self.kernels = "auto"
        self._range_checks_left = RANGE_CHECKED_CALLS
        self._warned_range = False

    def inference_form(self) -> Critic:
        """A critic with the same scores and the same gradients to ``sr``, prepared for weights that never change again.

        It may fold, merge or leave out parts, so its state dict is its own and it cannot be trained. Where nothing can
        be gained it is this critic itself.

        Returns:
            A critic in eval mode that shares unchanged tensors with this one.
        """
        return self

    @property
    def published_frozen(self) -> tuple[str, ...]:
        """Prefixes of what the reference training keeps fixed."""
        return ()

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """The same code path at a size that takes milliseconds on a CPU, for tests. Random weights."""

    @staticmethod
    def remap_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published key layout -> ours; the argument is not modified.

        Args:
            state: unwrapped state dict of a published checkpoint.

        Returns:
            A new dict in the layout of ``state_dict()`` without the ``aliases``.
        """
        return dict(state)

    @abstractmethod
    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        """Everything that depends on ``hr`` alone; (N, 3, H, W) checked, in the compute dtype."""

    @abstractmethod
    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        """Scores (N,) of checked images in the compute dtype."""

    def compute_dtype(self, image: Tensor) -> torch.dtype:
        """The dtype of the parameters; for a formula the image's own, at least float32."""
        for parameter in self.parameters():
            return parameter.dtype
        return torch.promote_types(image.dtype, torch.float32)

    def score(self, sr: Tensor, hr: Tensor, *, target_features: TargetFeatures | None = None) -> Tensor:
        """Quality of ``sr`` judged against ``hr``; higher is better.

        Computed in the critic's own precision (float32 unless cast) even inside autocast, unless ``autocast_dtype`` is
        set on the critic. No gradient reaches ``hr``.

        Args:
            sr: judged image, (N, 3, H, W) RGB in [0, 1]; slight overshoot allowed, not clamped.
            hr: reference image, same shape.
            target_features: result of :meth:`encode_target` for this ``hr``, to save the work.

        Returns:
            (N,) scores; a score never depends on the other pairs of the batch.

        Raises:
            InputError: wrong rank, channels, size, dtype, device or value scale.
        """
        check_pair(sr, hr)
        self.input_size.check(sr.shape[2], sr.shape[3], self.card.name)
        if len(sr) == 0:
            return sr.sum((1, 2, 3)).to(self.compute_dtype(sr))
        self._check_range(sr, hr)
        dtype = self.compute_dtype(sr)
        with self._island(sr.device.type):
            target = self.encode_target(hr) if target_features is None else target_features
            return self._compare(sr.to(dtype), self._plain(hr).to(dtype), target).to(dtype)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Same as :meth:`score`."""
        return self.score(sr, hr)

    def encode_target(self, hr: Tensor) -> TargetFeatures:
        """Features of ``hr`` that several calls of :meth:`score` may share.

        A graph is recorded only while the critic itself is being trained.

        Args:
            hr: (N, 3, H, W) RGB in [0, 1].

        Returns:
            A tuple of tensors whose meaning is the critic's own.
        """
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        with torch.set_grad_enabled(trained), self._island(hr.device.type):
            return self._encode_target(self._plain(hr).to(self.compute_dtype(hr)))

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and values of all tensors."""
        total = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

    def _island(self, device_type: str) -> torch.autocast:
        """The host's autocast never reaches inside; ``autocast_dtype`` is the only one that counts."""
        enabled = self.autocast_dtype is not None
        return torch.autocast(device_type=device_type, dtype=self.autocast_dtype, enabled=enabled)

    @staticmethod
    def _plain(hr: Tensor) -> Tensor:
        """``hr`` without a graph; inference-mode tensors are copied, since autograd refuses them."""
        hr = hr.detach()
        return hr.clone() if hr.is_inference() and not torch.is_inference_mode_enabled() else hr

    def _check_range(self, sr: Tensor, hr: Tensor) -> None:
        """Value scale: ``sr`` in the first calls; ``hr`` always on the CPU, elsewhere too in the first calls only."""
        if torch.compiler.is_compiling() or (self._range_checks_left <= 0 and hr.device.type != "cpu"):
            return
        first = self._range_checks_left > 0
        self._range_checks_left -= first
        if check_range(sr if first else None, hr) and not self._warned_range:
            self._warned_range = True
            warnings.warn(f"{self.card.name}: {MINUS_ONE_TO_ONE}", stacklevel=3)
