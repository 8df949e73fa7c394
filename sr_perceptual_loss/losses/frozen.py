"""FrozenCritic: a critic that a training cannot change, switch to training mode, save or copy by accident."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import check_choice
from sr_perceptual_loss.critics.base import Critic, TargetFeatures
from sr_perceptual_loss.critics.construction import plain_construction
from sr_perceptual_loss.critics.registry import create_critic
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.losses.target_memo import TargetMemo
from sr_perceptual_loss.ops.fold import frozen_copy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PRECISIONS", "FrozenCritic", "share_critics"]

#: name -> dtype of the critic's matrix products and convolutions; None leaves the critic's own setting.
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
#: Attributes that copies have in common.
SHARED = ("critic", "form")


class FrozenCritic(nn.Module):
    """A critic outside the module tree: always in eval mode, no parameters or state exposed, gradients flow to ``sr``.

    ``parameters()``, ``state_dict()`` and ``modules()`` of a parent module do not reach the critic, so optimizers, EMA,
    checkpoints, DDP, ``train()``, ``requires_grad_()`` and ``apply(init)`` cannot change it. ``to(device)`` moves it,
    ``double()`` casts it, ``half()`` and the meta device leave it as it is. Copies share the critic until one is moved.
    A pickle of a critic that was created from a name holds the name, ``weights`` and the absolute path of their file
    instead of tensors. Random weights give a UserWarning at every construction.

    Args:
        critic: registered name, or a :class:`Critic`, which is frozen in place and stays on its device: after a move,
            the attribute ``critic`` is a copy.
        weights: as in :func:`create_critic`; only with a name.
        precision: ``fp32`` (the critic's own), or ``bf16``: matrix products and convolutions in bfloat16, whose
            gradients are not those of float32; faster only on a device with bfloat16 arithmetic. For networks only.

    Attributes:
        critic: the critic, in eval mode and without gradients for its parameters.
        form: its inference form, which computes the scores; built at construction and after a move or cast.
        memo: cached features of the reference, for several losses that share this object; set by :func:`share_critics`.

    Raises:
        InputError: neither a name nor a critic, ``weights`` together with a critic, ``bf16`` with a formula, or a
            critic that was built on the meta device or in inference mode.
    """

    critic: Critic
    form: Critic
    memo: TargetMemo | None

    def __init__(self, critic: str | Critic, *, weights: str | Path | None = "local", precision: str = "fp32") -> None:
        super().__init__()
        self.precision = check_choice("precision", precision, tuple(PRECISIONS))
        self.memo = None
        #: Name, `weights` and their file, if the critic can be created again from them: random weights cannot.
        self._source: tuple[str, str | Path | None, Path | None] | None = None
        if isinstance(critic, str):
            module = create_critic(critic, weights=weights)
            if weights is not None or not module.card.needs_weights:
                self._source = (critic, weights, module.weights_file)
        elif isinstance(critic, Critic):
            if weights != "local":
                raise InputError(
                    "critic: got a Critic together with `weights`, which is only for a name. Load the weights into the "
                    "critic first, with load_weights(critic, path)."
                )
            module = critic
        else:
            raise InputError(
                f"critic: got {type(critic).__name__}, expected a name or a Critic, such as external(f, "
                "higher_is_better=...) makes of a function."
            )
        if self.precision != "fp32" and next(module.parameters(), None) is None:
            raise InputError(f"precision: got {precision!r}, but {module.card.name} is a formula; expected 'fp32'.")
        if any(t.is_meta or t.is_inference() for t in itertools.chain(module.parameters(), module.buffers())):
            raise InputError(
                f"critic: this {module.card.name} was built on the meta device, without values, or in inference mode, "
                "where no gradient passes. Give its name instead, or build it outside of that block."
            )
        self._freeze(module)
        if self.random_weights:
            note = f"{module.card.name} has random weights (weights=None): its scores are noise. Only for tests."
            # A registry of its own, or Python would drop the second warning as a repetition.
            warnings.warn_explicit(note, UserWarning, "sr_perceptual_loss", 0, registry={})

    @property
    def random_weights(self) -> bool:
        """Whether the critic was created with ``weights=None``, so that its scores are noise."""
        return self.critic.origin == Critic.RANDOM

    def extra_repr(self) -> str:
        """Critic, weights, and the precision if it is not fp32."""
        precision = "" if self.precision == "fp32" else f", precision={self.precision}"
        return f"{self.critic.card.name}, {self.critic.origin}{precision}"

    def _freeze(self, critic: Critic) -> None:
        critic.eval().requires_grad_(False)
        # Bypasses nn.Module.__setattr__, so that the critic is no child module.
        object.__setattr__(self, "critic", critic)
        self.rebuild()

    def rebuild(self) -> None:
        """Build the inference form again; needed after the critic's tensors or settings were changed."""
        with plain_construction():
            form = self.critic.inference_form()
            dtype = PRECISIONS[self.precision]
            if dtype is not None:
                # The critic itself may be in use elsewhere and keeps its precision.
                form = frozen_copy(form) if form is self.critic else form
                form.autocast_dtype = dtype
        object.__setattr__(self, "form", form)
        if self.memo is not None:
            self.memo.clear()

    def _device_and_dtype(self) -> tuple[torch.device, torch.dtype | None]:
        """Device and dtype of the critic's parameters; the CPU and None if it has none."""
        first = next(self.critic.parameters(), None)
        return (torch.device("cpu"), None) if first is None else (first.device, first.dtype)

    def encode_target(self, hr: Tensor) -> TargetFeatures:
        """Features of ``hr`` for :meth:`score`; not valid after a move, a cast or :meth:`rebuild`.

        Args:
            hr: (N, 3, H, W) RGB in [0, 1].

        Returns:
            A tuple of tensors whose meaning depends on the critic; must not be modified.
        """
        return self.form.encode_target(hr)

    def score(self, sr: Tensor, hr: Tensor, *, target_features: TargetFeatures | None = None) -> Tensor:
        """The critic's :meth:`Critic.score`.

        Args:
            sr: SR images, (N, 3, H, W) RGB in [0, 1].
            hr: reference images, same shape.
            target_features: see :meth:`Critic.score`.

        Returns:
            (N,) scores, higher is better.
        """
        if self.critic.training:
            self._keep_eval()
        return self.form.score(sr, hr, target_features=target_features)

    def score_checked(self, sr: Tensor, hr: Tensor) -> Tensor:
        """:meth:`score` for callers that have validated the pair.

        Args:
            sr: SR images, (N, 3, H, W) RGB in [0, 1].
            hr: reference images, same shape, without a graph.

        Returns:
            (N,) scores, higher is better.
        """
        if self.critic.training:
            self._keep_eval()
        target = None if self.memo is None else self.memo.features(hr, self.form.encode_target)
        return self.form.score_checked(sr, hr, target)

    def _keep_eval(self) -> None:
        # A critic passed as an object may be switched to training mode by its owner.
        self.critic.eval()
        self.form.eval()

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Same as :meth:`score`."""
        return self.score(sr, hr)

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and values of all tensors of the critic."""
        return self.critic.digest()

    def train(self, mode: bool = True) -> Self:
        """Set the flag of this wrapper only; the critic stays in eval mode."""
        self.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        before = self._device_and_dtype()
        if before[1] is not None:
            # An empty tensor shows to which device and dtype the call (to, half, cuda, ...) leads.
            sample = fn(torch.empty(0, dtype=before[1], device=before[0]))
            dtype = sample.dtype if sample.dtype in (torch.float32, torch.float64) else before[1]
            # On the meta device the weights would be lost.
            if (sample.device, dtype) != before and sample.device.type != "meta":
                self._freeze(self._moved(sample.device, dtype))
        return self

    def _moved(self, device: torch.device, dtype: torch.dtype) -> Critic:
        """A copy of the critic: other losses and copies of this one may use the same object."""
        with plain_construction():  # tensors that are made in inference mode let no gradient pass
            tensors = itertools.chain(self.critic.parameters(), self.critic.buffers())
            moved = {id(t): t.detach().to(device, dtype if t.is_floating_point() else t.dtype) for t in tensors}
            weights = {id(p): nn.Parameter(moved[id(p)], requires_grad=False) for p in self.critic.parameters()}
            return copy.deepcopy(self.critic, {**moved, **weights})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        for key, value in self.__dict__.items():
            object.__setattr__(new, key, value if key in SHARED else copy.deepcopy(value, memo))
        return new

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key != "form"}
        if self._source is not None:
            device, dtype = self._device_and_dtype()
            state["critic"] = (str(device), dtype, self.digest())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        critic = state["critic"]
        self.__dict__.update({key: value for key, value in state.items() if key != "critic"})
        if self._source is None:
            self._freeze(critic)
            return
        (name, weights, file), (device, dtype, digest) = self._source, critic
        # On another machine the file may have another path.
        weights = file if file is not None and file.is_file() else weights
        self._freeze(create_critic(name, weights=weights).to(device=device, dtype=dtype))
        if self.digest() != digest:
            raise InputError(f"{name}: the weights on this machine ({weights}) are not those that were pickled.")


def share_critics(host: nn.Module) -> int:
    """Make losses share equal critics: same name and weights (or same object), precision, device and values.

    This saves memory, and features of a reference that several losses receive are computed once.

    Args:
        host: a module that contains the losses; modified in place.

    Returns:
        Number of critics that were replaced.
    """
    first_by_key: dict[object, FrozenCritic] = {}
    replaced = 0
    for module in host.modules():
        for name, child in list(module.named_children()):
            if not isinstance(child, FrozenCritic):
                continue
            critic = child.critic
            settings = (child.precision, critic.kernels, critic.autocast_dtype, *child._device_and_dtype())
            first = first_by_key.setdefault(((child._source or (id(critic),))[::2], *settings), child)
            if first is not child and (first.critic is critic or first.digest() == child.digest()):
                first.memo = first.memo or TargetMemo()
                setattr(module, name, first)
                replaced += 1
    return replaced
