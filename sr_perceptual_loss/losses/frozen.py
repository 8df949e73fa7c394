"""FrozenCritic: a critic that no host can train, flip, save, or copy by accident."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sr_perceptual_loss.checks import check_choice, check_pair
from sr_perceptual_loss.critics.base import Critic, TargetFeatures
from sr_perceptual_loss.critics.registry import create_critic
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.losses.target_memo import TargetMemo
from sr_perceptual_loss.ops.fold import frozen_copy

__all__ = ["PRECISIONS", "FrozenCritic", "share_critics"]

#: name -> what the critic's matrix products and convolutions run in; None leaves the critic's own setting.
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}


class ScoringForm:
    """The critic's ``inference_form()``, made when it is first needed and again when the critic was changed.

    Args:
        critic: the master.
        precision: one of PRECISIONS.
    """

    def __init__(self, critic: Critic, precision: str) -> None:
        self.critic, self.precision = critic, precision
        #: Another object whenever the form or its weights are others; the form may be the critic itself.
        self.generation = object()
        # (stamp, form), replaced as a whole: threads that share a loss make one form, and never see half of it.
        self._made: tuple[tuple[object, ...], Critic] | None = None
        self._lock = threading.RLock()
        self._digest: str | None = None
        # The dicts stay, whatever is put into them; walking the module tree in every step would cost milliseconds.
        self._tables = [table for module in critic.modules() for table in (module._parameters, module._buffers)]

    def get(self) -> Critic:
        """The form for the weights as they are now."""
        made = self._made
        if made is not None and (torch.compiler.is_compiling() or made[0] == self._now()):
            return made[1]
        with self._lock:
            stamp, made = self._now(), self._made
            if made is None or made[0] != stamp:
                # Freed before the new one is made.
                made = None
                self.forget()
                # What inference mode makes could not be used in training; autocast would round the folded weights.
                first = next(self.critic.parameters(), None)
                kind = "cpu" if first is None else first.device.type
                with torch.inference_mode(False), torch.autocast(device_type=kind, enabled=False):
                    made = (stamp, self._make())
                self._made = made
            return made[1]

    def forget(self) -> None:
        """Make a new one at the next call."""
        with self._lock:
            self._made = self._digest = None
            self.generation = object()

    def digest(self) -> str:
        """What features made by the form depend on: weights, kernels, precision."""
        form = self.get()
        if self._digest is None:
            self._digest = f"{self.critic.digest()} {form.kernels} {form.autocast_dtype} {type(form).__qualname__}"
        return self._digest

    def _make(self) -> Critic:
        form = self.critic.inference_form()
        if PRECISIONS[self.precision] is not None:
            if form is self.critic:
                # Others may use it, and it is theirs to say what it computes in.
                form = frozen_copy(form)
            form.autocast_dtype = PRECISIONS[self.precision]
        return form

    def _now(self) -> tuple[object, ...]:
        """Changes whenever a tensor of the critic is replaced or written to (except through ``.data``)."""
        stamp: list[object] = [self.critic.kernels, self.critic.autocast_dtype]
        for table in self._tables:
            for tensor in table.values():
                if tensor is not None:
                    stamp += (tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version)
        return tuple(stamp)


#: Attributes that copies have in common.
SHARED = ("critic", "_prepared")


class FrozenCritic(nn.Module):
    """Holds a critic outside the module tree: eval for ever, no parameters or state exposed, input gradients flow.

    ``parameters()``, ``state_dict()``, ``modules()`` of the host do not reach the critic, so optimizers, EMA,
    checkpoints, DDP, ``train()``, ``requires_grad_()`` and ``apply(init)`` cannot touch it. ``to(device)`` moves it;
    ``half()`` of a host leaves it float32, ``double()`` is followed. Copies share the critic; pickles refer to its name
    and weights where it was made from a name.

    Scores come from :meth:`Critic.inference_form`, made at the first call and again after a move, a cast or a change of
    the critic's weights or settings. The features of the reference are computed once for calls that share its tensor
    (see :class:`TargetMemo`).

    Args:
        critic: registered name, or a :class:`Critic`, which is frozen in place.
        weights: as in :func:`create_critic`; only with a name.
        critic_size: ``"full"`` or ``"tiny"``; only with a name.
        precision: ``"fp32"`` (the critic's own), or ``"bf16"``: matrix products and convolutions in bfloat16, whose
            gradients are not those of float32; needs a device with bfloat16 arithmetic to be faster. The critic itself
            is not changed.
    """

    critic: Critic
    _prepared: ScoringForm

    def __init__(
        self,
        critic: str | Critic,
        *,
        weights: str | Path | None = "local",
        critic_size: str = "full",
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.precision = check_choice("precision", precision, tuple(PRECISIONS))
        #: Remembers the features of the last reference; ``hits`` and ``misses`` count.
        self.memo = TargetMemo()
        self._source: tuple[str, str | Path | None, str] | None = None
        if isinstance(critic, str):
            # Random weights cannot be made again from a name.
            module = create_critic(critic, weights=weights, size=critic_size)
            if weights is not None or not module.card.needs_weights:
                self._source = (critic, weights, critic_size)
        elif isinstance(critic, Critic):
            if weights != "local" or critic_size != "full":
                raise InputError(
                    "critic: got a Critic together with `weights` or `critic_size`; these belong to a name. "
                    "Load the weights into the critic before, with load_weights(critic, path)."
                )
            module = critic
        else:
            raise InputError(f"critic: got {type(critic).__name__}, expected a registered name or a Critic.")
        self._hold(module)

    def _hold(self, module: Critic) -> None:
        module.eval().requires_grad_(False)
        # Past nn.Module.__setattr__, so that it is no child module.
        object.__setattr__(self, "critic", module)
        object.__setattr__(self, "_prepared", ScoringForm(module, self.precision))

    @property
    def form(self) -> Critic:
        """What scores: the critic prepared for weights that do not change."""
        if self.critic.training:
            self.critic.eval()
        return self._prepared.get()

    def encode_target(self, hr: Tensor) -> TargetFeatures:
        """Features of ``hr`` for :meth:`score`; computed once for calls that share the tensor.

        They belong to this object: after a move, a cast or a change of the critic they have to be made again.

        Args:
            hr: (N, 3, H, W) RGB in [0, 1].

        Returns:
            A tuple of tensors whose meaning is the critic's own; not to be modified.

        Raises:
            InputError: wrong rank, channels, size or dtype.
        """
        check_pair(hr, hr)
        form = self.form
        form.input_size.check(hr.shape[2], hr.shape[3], form.card.name)
        return self.memo.features(hr, self._prepared.generation, form.encode_target)

    def target_digest(self) -> str:
        """What features made by :meth:`encode_target` depend on beside the image: weights, kernels, precision."""
        return self._prepared.digest()

    def score(self, sr: Tensor, hr: Tensor, *, target_features: TargetFeatures | None = None) -> Tensor:
        """The critic's :meth:`Critic.score`, in eval mode whatever anybody did.

        Args:
            sr: judged images, (N, 3, H, W) RGB in [0, 1].
            hr: reference images, same shape.
            target_features: see :meth:`Critic.score`.

        Returns:
            (N,) scores, higher is better.
        """
        check_pair(sr, hr)
        if target_features is None and len(hr):
            target_features = self.encode_target(hr)
        return self.form.score(sr, hr, target_features=target_features)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Same as :meth:`score`."""
        return self.score(sr, hr)

    def kind(self) -> tuple[object, ...]:
        """Equal for two that may be expected to give the same scores; :meth:`digest` decides."""
        first = next(self.critic.parameters(), None)
        place = None if first is None else (first.device, first.dtype)
        settings = (self.precision, self.critic.kernels, self.critic.autocast_dtype, place)
        return (self._source or id(self.critic), *settings)

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and values of all tensors of the critic."""
        return self.critic.digest()

    def train(self, mode: bool = True) -> Self:
        """Set the flag of this wrapper only; the critic stays in eval mode."""
        self.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        first = next(self.critic.parameters(), None)
        if first is not None:
            # What the host's call would do to one of our tensors, without knowing which call it was.
            probe = fn(torch.empty(0, dtype=first.dtype, device=first.device))
            wide = probe.is_floating_point() and probe.dtype in (torch.float32, torch.float64)
            self.critic.to(device=probe.device, dtype=probe.dtype if wide else first.dtype)
        self._prepared.forget()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        for key, value in self.__dict__.items():
            object.__setattr__(new, key, value if key in SHARED else copy.deepcopy(value, memo))
        return new

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key != "_prepared"}
        if self._source is not None:
            first = next(self.critic.parameters(), None)
            state["critic"] = (None if first is None else (str(first.device), first.dtype), self.digest())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        held = state.pop("critic")
        self.__dict__.update(state)
        if isinstance(held, Critic):
            self._hold(held)
            return
        assert self._source is not None  # written together in __getstate__
        name, weights, size = self._source
        place, digest = held
        module = create_critic(name, weights=weights, size=size)
        self._hold(module if place is None else module.to(device=place[0], dtype=place[1]))
        if self.digest() != digest:
            raise InputError(f"{name}: the weights on this machine ({weights}) are not those that were pickled.")


def share_critics(host: nn.Module) -> int:
    """Let losses that hold equal critics hold one: same name and weights (or same object), precision, device, values.

    Saves their memory, and the features of a reference that several losses are given are computed once.

    Args:
        host: a module with the losses somewhere inside, modified in place; a list of losses, for example.

    Returns:
        How many were replaced.
    """
    kept: dict[object, FrozenCritic] = {}
    replaced = 0
    for module in host.modules():
        for name, child in list(module.named_children()):
            if not isinstance(child, FrozenCritic):
                continue
            first = kept.setdefault(child.kind(), child)
            if first is not child and (first.critic is child.critic or first.digest() == child.digest()):
                setattr(module, name, first)
                replaced += 1
    return replaced
