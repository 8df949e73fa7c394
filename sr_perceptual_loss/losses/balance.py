"""Balancing losses by the norms of their gradients at the SR output.

Each loss is differentiated with respect to the SR image alone, on a detached leaf, so its graph is freed before the
next one is built. The network then sees one backward pass of the weighted sum of these gradients. The weights give the
averaged norms the wanted shares, so the result does not depend on the scale or the offset of any loss.

Source: the balancer of EnCodec (Defossez et al., "High fidelity neural audio compression", arXiv 2210.13438, section
3.4), with the first loss as the reference instead of a fixed total norm.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import as_float, as_int, check_known_keys
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.losses.base import STOPPED
from sr_perceptual_loss.losses.distributed import format_ranks, mean_over_ranks, ranks_with_flag, world_size
from sr_perceptual_loss.losses.gradients import LossTerm, gradient_at, gradient_cosine, per_image_norms, surrogate

__all__ = ["GradNormBalancer"]

#: Share of the past in the averaged norms.
EMA_DECAY = 0.9
#: Gradient norms up to this value count as vanished.
VANISHED = 1e-12
#: Upper limit of the weights.
MAX_WEIGHT = 1e4


class GradNormBalancer(nn.Module):
    """sum_i share_i * w_i * L_i, w_i = norm_reference / norm_i: the gradients at the SR output have the given shares.

    The reference is the first loss of ``shares`` that takes part. It keeps w = 1, so a learning rate tuned for it stays
    valid. The returned value is sum_i share_i * L_i: the weights act on the gradient only, so logs do not jump with
    them. Losses must reach the network through the SR image alone.

    Give an adversarial loss no share; add it to the returned value with a plain weight. The gradient of an untrained
    discriminator is noise, and a share would scale it up to its full norm.

    Norms are per image, averaged over the batch and over the ranks of ``torch.distributed``, and smoothed by a debiased
    moving average m <- d*m + (1 - d)*x, read as m / (1 - d^k), which is the state of this module.

    Args:
        shares: name -> share >= 0, divided by their sum. A loss of share 0 is never computed.

    Attributes:
        terms: detached 0-d tensors of the last call: norm_<name>, weight_<name> (= w), cos_<a>_<b>; 0 where not
            computed.

    Raises:
        InputError: a share that is not a number >= 0, or no positive share.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        super().__init__()
        given = {str(name): as_float(f"share of '{name}'", share, minimum=0.0) for name, share in shares.items()}
        if not any(given.values()):
            raise InputError(f"shares: got {dict(shares)!r}, expected names with at least one positive share.")
        self.shares = {name: share / sum(given.values()) for name, share in given.items()}
        self.terms: dict[str, Tensor] = {}
        # name -> (m, k)
        self._averages: dict[str, tuple[float, int]] = {}
        self._iteration: int | None = None
        self._updated_at: int | None = None
        self._warned: set[str] = set()

    @property
    def term_names(self) -> tuple[str, ...]:
        """Keys of ``terms``; the same in every call."""
        names = list(self.shares)
        cosines = (f"cos_{a}_{b}" for i, a in enumerate(names) for b in names[i + 1 :])
        return (*(f"norm_{n}" for n in names), *(f"weight_{n}" for n in names), *cosines)

    def extra_repr(self) -> str:
        """The shares, which add up to 1."""
        return ", ".join(f"{name}={share:.4g}" for name, share in self.shares.items())

    def step(self, iteration: int) -> None:
        """Set the global iteration; averages advance at most once per iteration (accumulation, closures).

        Args:
            iteration: number of the coming optimizer step.
        """
        self._iteration = as_int("iteration", iteration)

    def average(self, name: str) -> float | None:
        """The averaged gradient norm of a loss, or None before its first call."""
        if name not in self._averages:
            return None
        mean, count = self._averages[name]
        return mean / (1 - EMA_DECAY**count)

    def forward(
        self,
        sr: Tensor,
        losses: Mapping[str, LossTerm],
        *,
        factors: Mapping[str, float] | None = None,
        check: bool = True,
    ) -> Tensor:
        """The balanced loss of a batch.

        Without grad (validation) it is the plain sum of share_i * L_i and nothing is remembered; in eval mode with grad
        the averages are used but not advanced. In a distributed run every rank has to call it with grad.

        Args:
            sr: the network's output, (N, C, H, W).
            losses: name -> function of the image with a 0-d value (preferred: its graph is freed at once), or a 0-d
                value already computed from ``sr``. Names without a share are refused.
            factors: name -> factor on its share in this call, such as a schedule's; a factor on the loss itself would
                be cancelled by the balance. At 0 the loss is not called.
            check: raise an error for non-finite values; if False, they are passed on and the averages ignore them.

        Returns:
            0-d tensor, float32 or wider; its gradient with respect to ``sr`` is sum_i share_i * w_i * grad L_i.

        Raises:
            InputError: an unknown name, a loss that is not 0-d, or a reentrant checkpoint in a loss.
            NonFiniteError: a loss or a gradient norm is NaN or infinite, on any rank; or a loss raised on another rank.
        """
        factors = factors or {}
        check_known_keys("losses", losses, self.shares)
        check_known_keys("factors", factors, self.shares)
        shares = {n: s * float(factors.get(n, 1.0)) for n, s in self.shares.items() if n in losses}
        shares = {name: share for name, share in shares.items() if share > 0}
        dtype = torch.promote_types(sr.dtype, torch.float32)
        value = torch.zeros((), dtype=dtype, device=sr.device)
        self.terms = dict.fromkeys(self.term_names, value)
        if not (torch.is_grad_enabled() and sr.requires_grad):
            for name, share in shares.items():
                loss = losses[name]
                value = value + share * (loss if isinstance(loss, Tensor) else loss(sr)).to(dtype)
            return value
        leaf = sr.detach().to(dtype).requires_grad_()
        values, gradients, failed = self._differentiate({n: losses[n] for n in shares}, sr, leaf)
        weights = self._weights(shares, self._measure(values, gradients, check, failed))
        total = torch.zeros_like(leaf, requires_grad=False)
        for name, share in shares.items():
            total.add_(gradients[name], alpha=share * weights[name])
            value = value + share * values[name]
            self.terms[f"weight_{name}"] = value.new_tensor(weights[name])
        return surrogate(sr, total, value)

    @staticmethod
    def _differentiate(
        losses: Mapping[str, LossTerm], sr: Tensor, leaf: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Exception | None]:
        """Values and gradients; with several ranks also the first error, raised after the next collective call."""
        values, gradients, failed = {}, {}, None
        zero = leaf.new_zeros((), requires_grad=False)
        for name, loss in losses.items():
            try:
                # The mean over no images is NaN; a rank without images still takes part in the collective call.
                values[name], gradients[name] = gradient_at(loss if len(sr) else zero, sr, leaf, name)
            except Exception as error:
                if world_size() == 1:
                    raise
                failed = failed or error
                values[name], gradients[name] = zero * math.nan, torch.zeros_like(leaf, requires_grad=False)
        return values, gradients, failed

    def _measure(
        self, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor], check: bool, failed: Exception | None
    ) -> dict[str, float]:
        """Norms averaged over images and ranks, checked with one device sync; also fills ``terms``."""
        names = list(values)
        if not names:
            return {}
        per_image = torch.stack([per_image_norms(gradients[n]) for n in names])
        # A non-finite value on one rank must stop all ranks, or the others would wait forever.
        bad = torch.stack([~torch.isfinite(values[n]) for n in names]).to(per_image.dtype)
        means = mean_over_ranks(torch.cat([per_image.sum(1), bad]), per_image.shape[1])
        numbers = means.tolist()
        for position, name in enumerate(names):
            self.terms[f"norm_{name}"] = means[position]
            for other in names[position + 1 :]:
                self.terms[f"cos_{name}_{other}"] = gradient_cosine(gradients[name], gradients[other])
        norms = dict(zip(names, numbers, strict=False))
        problems = [
            f"{name}: {'the loss' if wrong else 'the norm of its gradient at the SR output'} is NaN or infinite"
            for name, wrong in zip(names, numbers[len(names) :], strict=True)
            if wrong or not math.isfinite(norms[name])
        ]
        ranks: list[int] = []
        if check and problems:  # the same on all ranks, so all of them make this collective call or none
            on_this_rank = bool(bad.any()) or not bool(torch.isfinite(per_image).all())
            ranks = ranks_with_flag(on_this_rank, means.device)
        if failed is not None:
            raise failed
        if check and problems:
            raise NonFiniteError(f"{problems[0]}{format_ranks(ranks)}. {STOPPED}")
        return norms

    def _weights(self, shares: Mapping[str, float], norms: Mapping[str, float]) -> dict[str, float]:
        """Update the averages with the new norms and compute the weights from them."""
        advance = self.training and (self._iteration is None or self._iteration != self._updated_at)
        averages: dict[str, float] = {}
        for name, norm in norms.items():
            if advance and VANISHED < norm < math.inf:
                # A vanished gradient gives no information about the scale of a loss, so the average leaves it out.
                mean, count = self._averages.get(name, (0.0, 0))
                self._averages[name] = (EMA_DECAY * mean + (1 - EMA_DECAY) * norm, count + 1)
                self._updated_at = self._iteration
            average = self.average(name)
            averages[name] = norm if average is None else average
            if norm <= VANISHED:
                self._warn(
                    name,
                    f"the gradient of '{name}' at the SR output has vanished (norm {norm:g}): the loss is detached "
                    "from the image or saturated.",
                )
        reference = averages.get(next(iter(shares), ""), 0.0)
        if reference <= VANISHED:
            # Weights of zero would stop the other losses too.
            return dict.fromkeys(shares, 1.0)
        weights = {n: reference / (averages[n] + VANISHED) for n in shares}
        weights[next(iter(shares))] = 1.0
        for name, weight in weights.items():
            if weight > MAX_WEIGHT and norms[name] > VANISHED:
                self._warn(f"{name} limit", f"the weight of '{name}', {weight:.3g}, is cut to {MAX_WEIGHT:g}.")
        return {name: min(weight, MAX_WEIGHT) for name, weight in weights.items()}

    def _warn(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(f"balance: {message}", stacklevel=4)

    def get_extra_state(self) -> dict[str, list[float]]:
        """Name -> [m, k], for ``state_dict``."""
        return {name: [mean, count] for name, (mean, count) in self._averages.items()}

    def set_extra_state(self, state: dict[str, list[float]]) -> None:
        """Restore the averages for ``load_state_dict``.

        Raises:
            InputError: the state belongs to other losses, or holds something other than norms and counts.
        """
        check_known_keys("balancer state", state, self.shares)
        self._averages = {
            name: (as_float(f"norm of '{name}'", mean, minimum=0.0), as_int(f"count of '{name}'", count, minimum=1))
            for name, (mean, count) in state.items()
        }
