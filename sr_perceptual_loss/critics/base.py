"""The interface of a critic: an image pair in, one score per pair out, higher is better.

A critic has no sign, crops, freezing or schedule of a loss, so that the same class can be trained, evaluated and used
as a loss. A new critic is one file: a subclass of :class:`Critic` with a ``card``,
``_encode_target`` and ``_compare``, decorated with ``register_critic`` and named in the table of ``registry.py``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import RangeCheck, check_pair
from sr_perceptual_loss.critics.card import CriticCard, SizeRule
from sr_perceptual_loss.critics.construction import plain_construction
from sr_perceptual_loss.critics.maps import enlarged_sum, gradient_map, with_mean
from sr_perceptual_loss.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["IMAGENET", "Constants", "Critic", "InferenceForm", "TargetFeatures", "normalise"]

#: What a critic computes from ``hr`` alone.
TargetFeatures = tuple[Tensor, ...]
#: Mean and standard deviation per channel.
Constants = tuple[tuple[float, ...], tuple[float, ...]]
IMAGENET: Constants = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(image - mean) / std for each channel of (N, C, H, W), with the constants in the image's precision."""
    shape = (1, len(mean), 1, 1)
    return (image - image.new_tensor(mean).view(shape)) / image.new_tensor(std).view(shape)


def _without_graph(hr: Tensor) -> Tensor:
    """``hr`` detached; inference-mode tensors are copied, since autograd cannot save them."""
    hr = hr.detach()
    return hr.clone() if hr.is_inference() and not torch.is_inference_mode_enabled() else hr


class Critic(nn.Module, ABC):
    """Base class of all critics.

    A subclass defines ``card``, ``_encode_target`` and ``_compare``. The arguments of its ``__init__`` are plain
    numbers, strings and sequences, since they are stored with the weights. All have defaults.

    Args:
        config: the constructor's arguments by name.
        input_size: sizes that this instance takes; the card's by default.
    """

    card: CriticCard
    #: (duplicate prefix, kept prefix) where one module has two names in the published key layout.
    aliases: ClassVar[tuple[tuple[str, str], ...]] = ()
    #: Prefixes of published entries that never influence the score.
    unused: ClassVar[tuple[str, ...]] = ()
    #: Prefixes of the parameters that the published training keeps fixed.
    published_frozen: tuple[str, ...] = ()
    #: Class that :meth:`inference_form` builds; set in the package of the critic.
    inference_class: ClassVar[type[InferenceForm] | None] = None
    #: Names of what :attr:`parts` holds.
    part_names: ClassVar[tuple[str, ...]] = ()
    #: ``origin`` of a critic that was created with ``weights=None``.
    RANDOM: ClassVar[str] = "random weights"

    def __init__(self, config: Mapping[str, Any] | None = None, input_size: SizeRule | None = None) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(config or {})
        #: What `create_critic` knows about the weights, as text, and the absolute path of their file.
        self.origin = "own weights" if self.card.needs_weights else "formula"
        self.weights_file: Path | None = None
        #: Parts of the scores of the last call, (N,) each, detached, by `part_names`; for logs.
        self.parts: dict[str, Tensor] = {}
        self.input_size = input_size or self.card.input_size
        #: torch.bfloat16 runs matrix products and convolutions in it; None computes everything in `compute_dtype`.
        self.autocast_dtype: torch.dtype | None = None
        #: "auto": the fastest equal implementation for device and size; "reference": the operators as published.
        self.kernels = "auto"
        self._check_range = RangeCheck(self.card.name)

    @classmethod
    def tiny(cls) -> Self:
        """The same network with random weights, small enough to take milliseconds on a CPU; for tests."""
        return cls()

    @staticmethod
    def remap_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of a published checkpoint, unwrapped, in the layout of ``state_dict()``; a new dict."""
        return dict(state)

    def inference_form(self) -> Critic:
        """A critic for fixed weights with the same scores and gradients to ``sr``, but less time and memory.

        It may merge or leave out layers, so its state dict and target features differ, and it cannot be trained. It is
        in eval mode and shares unchanged tensors. ``self`` if there is none, or if ``kernels`` is "reference".
        """
        if self.inference_class is None or self.kernels == "reference":
            return self
        with plain_construction():
            return self.inference_class(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of ``nn.Module``; a critic on the meta device, which has no memory, takes the given tensors themselves."""
        self.origin, self.weights_file = "own weights", None
        return super().load_state_dict(state_dict, strict, assign or any(p.is_meta for p in self.parameters()))

    @abstractmethod
    def _encode_target(self, hr: Tensor) -> TargetFeatures:
        """Features that depend on ``hr`` alone; ``hr`` is (N, 3, H, W) in the compute dtype."""

    @abstractmethod
    def _compare(self, sr: Tensor, hr: Tensor, target: TargetFeatures) -> Tensor:
        """Scores (N,), from images in the compute dtype and the result of ``_encode_target(hr)``."""

    def compute_dtype(self, image: Tensor) -> torch.dtype:
        """The dtype of the parameters; for a formula the image's dtype, at least float32."""
        for parameter in self.parameters():
            return parameter.dtype
        return torch.promote_types(image.dtype, torch.float32)

    def score(self, sr: Tensor, hr: Tensor, *, target_features: TargetFeatures | None = None) -> Tensor:
        """Quality of ``sr`` compared with ``hr``; higher is better.

        Computed in the critic's precision (float32 unless cast) even inside autocast, unless ``autocast_dtype`` is set.
        No gradient reaches ``hr``. The value scale is checked in the first calls only.

        Args:
            sr: SR (distorted) image, (N, 3, H, W) RGB in [0, 1]; slight overshoot is allowed and not clamped.
            hr: reference image, same shape.
            target_features: result of :meth:`encode_target` for this ``hr``; computed if None.

        Returns:
            (N,) scores; a score does not depend on the other pairs of the batch.

        Raises:
            InputError: wrong rank, channels, size, dtype, device or value scale.
        """
        check_pair(sr, hr)
        self.input_size.check(sr.shape[2], sr.shape[3], self.card.name)
        self._check_range(sr, hr)
        return self.score_checked(sr, hr, target_features)

    def score_checked(self, sr: Tensor, hr: Tensor, target_features: TargetFeatures | None = None) -> Tensor:
        """:meth:`score`, with the same arguments and result, for callers that have validated the images."""
        dtype = self.compute_dtype(sr)
        if sr.shape[0] == 0:
            return sr.sum((1, 2, 3)).to(dtype)
        with torch.autocast(sr.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            target = self.encode_target(hr) if target_features is None else target_features
            score = self._compare(sr.to(dtype), _without_graph(hr).to(dtype), target).to(dtype)
        if score.shape != (sr.shape[0],):
            raise InputError(
                f"{self.card.name}: _compare returned the shape {tuple(score.shape)}, expected one score per pair "
                f"({sr.shape[0]},)."
            )
        return score

    @property
    def map_form(self) -> str:
        """What :meth:`score_map` shows: ``local`` or ``gradient``."""
        return "gradient" if type(self)._lost is Critic._lost else "local"

    def _lost(self, sr: Tensor, target: TargetFeatures) -> Sequence[Tensor]:
        """Maps (N, C, h, w) >= 0 of any resolution, in proportion to what each position costs; none by default."""
        return ()

    def score_map(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Where ``sr`` loses quality: 0 where nothing is lost, larger is worse.

        * ``map_form`` is ``local``: the critic compares the images place by place, and the map is made of these parts.
          Its mean is what the score lost: the largest score (the second number of the card's ``score_range``) - score.
        * ``gradient``: the score's gradient times the difference of the images; see :func:`maps.gradient_map`.

        The border counts as in the score. HaarPSI has zeros beyond it, as published, so the outer 8 pixels of the maps
        of haarpsi and texture_stats are about 3 times as bright as the same error elsewhere.

        Arguments and errors are those of :meth:`score`; a metric without gradient is an InputError too.

        Returns:
            (N, 1, H, W) >= 0, without graph; does not depend on the other pairs of the batch.
        """
        check_pair(sr, hr)
        self.input_size.check(sr.shape[2], sr.shape[3], self.card.name)
        self._check_range(sr, hr)
        with torch.inference_mode(False), torch.no_grad():
            dtype = self.compute_dtype(sr)
            sr, hr = (_without_graph(image).to(dtype) for image in (sr, hr))
            if len(sr) == 0:
                return sr.sum(1, keepdim=True)
            target = self.encode_target(hr)
            if self.map_form == "gradient":
                return gradient_map(lambda image: self.score_checked(image, hr, target), sr, hr)
            lost = self.card.score_range[1] - self.score_checked(sr, hr, target)
            with torch.autocast(sr.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
                parts = self._lost(sr, target)
            return with_mean(enlarged_sum(parts, sr.shape[2], sr.shape[3]), lost.clamp(min=0)[:, None])

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Same as :meth:`score`."""
        return self.score(sr, hr)

    def encode_target(self, hr: Tensor) -> TargetFeatures:
        """Features of ``hr``, (N, 3, H, W) RGB in [0, 1], that several calls of :meth:`score` may share; no validation.

        They have a graph only while the critic itself is being trained.
        """
        trained = torch.is_grad_enabled() and self._is_trained()
        scope = torch.autocast(hr.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)
        with torch.set_grad_enabled(trained), scope:
            return self._encode_target(_without_graph(hr).to(self.compute_dtype(hr)))

    def _is_trained(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and values of all tensors."""
        total = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return total.hexdigest()


class InferenceForm(Critic):
    """Base class of what :meth:`Critic.inference_form` builds.

    Args:
        critic: the original, not modified. Its card, config and settings are taken over, unchanged tensors are shared.
    """

    def __init__(self, critic: Critic) -> None:
        self.card = critic.card
        # Not super(): a subclass may also inherit from the network, whose __init__ would build its layers.
        Critic.__init__(self, config=critic.config, input_size=critic.input_size)
        self.autocast_dtype, self.kernels = critic.autocast_dtype, critic.kernels

    def inference_form(self) -> Critic:
        """``self``."""
        return self

    def _is_trained(self) -> bool:
        return False
