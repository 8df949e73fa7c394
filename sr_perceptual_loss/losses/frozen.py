"""FrozenCritic: a critic that no host can train, flip, save, or copy by accident."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sr_perceptual_loss._checks import InputError
from sr_perceptual_loss.critics.base import Critic, TargetFeatures
from sr_perceptual_loss.critics.registry import create_critic

__all__ = ["FrozenCritic"]


class FrozenCritic(nn.Module):
    """Holds a critic outside the module tree: eval for ever, no parameters or state exposed, input gradients flow.

    ``parameters()``, ``state_dict()``, ``modules()`` of the host do not reach the critic, so optimizers, EMA,
    checkpoints, DDP, ``train()``, ``requires_grad_()`` and ``apply(init)`` cannot touch it. ``to(device)`` moves it;
    ``half()`` of a host leaves it float32, ``double()`` is followed. Copies share the critic; pickles refer to its name
    and weights where it was made from a name.

    Args:
        critic: registered name, or a :class:`Critic`, which is frozen in place.
        weights: as in :func:`create_critic`; only with a name.
        critic_size: ``"full"`` or ``"tiny"``; only with a name.
    """

    critic: Critic

    def __init__(
        self, critic: str | Critic, *, weights: str | Path | None = "local", critic_size: str = "full"
    ) -> None:
        super().__init__()
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

    def score(self, sr: Tensor, hr: Tensor, *, target_features: TargetFeatures | None = None) -> Tensor:
        """The critic's :meth:`Critic.score`, in eval mode whatever anybody did.

        Args:
            sr: judged images, (N, 3, H, W) RGB in [0, 1].
            hr: reference images, same shape.
            target_features: see :meth:`Critic.score`.

        Returns:
            (N,) scores, higher is better.
        """
        if self.critic.training:
            self.critic.eval()
        return self.critic.score(sr, hr, target_features=target_features)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Same as :meth:`score`."""
        return self.score(sr, hr)

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and values of all tensors of the critic."""
        total = hashlib.sha256()
        for name, value in sorted(self.critic.state_dict().items()):
            total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

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
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        for key, value in self.__dict__.items():
            object.__setattr__(new, key, value if key == "critic" else copy.deepcopy(value, memo))
        return new

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
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
