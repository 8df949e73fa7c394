"""Balancing losses by the norms of their gradients at the SR output.

Each loss is differentiated with respect to the SR image alone, on a detached leaf, so its graph is freed before the
next one is built; the network then sees one backward pass of the weighted sum of these gradients. Weights such that the
averaged norms stand in given shares make the result blind to the scale and the offset of every loss.

Norms are per image, averaged over the batch and over the ranks of ``torch.distributed`` where that runs, and smoothed
by a debiased moving average.

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
from sr_perceptual_loss.losses.distributed import format_ranks, mean_over_ranks, ranks_with_flag, world_size
from sr_perceptual_loss.losses.gradients import LossTerm, gradient_at, gradient_cosine, per_image_norms, surrogate

__all__ = ["BalanceState", "GradNormBalancer"]


class BalanceState:
    """Debiased moving averages of norms, as plain numbers: m <- d*m + (1 - d)*x, read as m / (1 - d^k).

    Args:
        decay: d in [0, 1); 0 keeps the last value only.
    """

    def __init__(self, decay: float) -> None:
        self.decay = as_float("ema_decay", decay, minimum=0.0, maximum=1.0)
        if self.decay == 1:
            raise InputError("ema_decay: got 1, expected a number in [0, 1); 1 would never learn the norms.")
        self._averages: dict[str, tuple[float, int]] = {}

    def update(self, name: str, value: float) -> None:
        """Take a new value of one norm into its average."""
        mean, count = self._averages.get(name, (0.0, 0))
        self._averages[name] = (self.decay * mean + (1 - self.decay) * value, count + 1)

    def get(self, name: str) -> float | None:
        """The average of one norm, or None before its first update."""
        if name not in self._averages:
            return None
        mean, count = self._averages[name]
        return mean / (1 - self.decay**count)

    def state_dict(self) -> dict[str, list[float]]:
        """[m, k] by name: built-in types, so ``torch.load(weights_only=True)`` reads them."""
        return {name: [mean, count] for name, (mean, count) in self._averages.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._averages = {
            name: (as_float(f"norm of '{name}'", mean, minimum=0.0), as_int(f"count of '{name}'", count, minimum=1))
            for name, (mean, count) in state.items()
        }


class GradNormBalancer(nn.Module):
    """sum_i share_i * w_i * L_i, w_i = norm_reference / norm_i: the gradients at the SR output have the given shares.

    The reference is the first loss of ``shares`` that takes part; it keeps w = 1, so a learning rate tuned for it stays
    valid. With ``total_norm`` T instead, w_i = T / norm_i. The returned value is sum_i share_i * L_i: the weights act
    on the gradient only, so logs do not jump with them. Losses must reach the network through the SR image alone.

    Args:
        shares: name -> share >= 0, divided by their sum. A loss of share 0 is never computed.
        ema_decay: of the norms, in [0, 1).
        eps: added to a norm that divides; a norm not above it is taken as vanished.
        max_weight: upper limit of w.
        total_norm: norm of the combined gradient if all point the same way; None takes the reference's own.

    Raises:
        InputError: a share that is not a number >= 0, no positive share, or an option out of bounds.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        *,
        ema_decay: float = 0.9,
        eps: float = 1e-12,
        max_weight: float = 1e4,
        total_norm: float | None = None,
    ) -> None:
        super().__init__()
        given = {str(name): as_float(f"share of '{name}'", share, minimum=0.0) for name, share in shares.items()}
        if not any(given.values()):
            raise InputError(f"shares: got {dict(shares)!r}, expected names with at least one positive share.")
        self.shares = {name: share / sum(given.values()) for name, share in given.items()}
        self.eps = as_float("balance_eps", eps, minimum=0.0)
        self.max_weight = as_float("max_weight", max_weight, minimum=1e-12)
        self.total_norm = None if total_norm is None else as_float("total_norm", total_norm, minimum=1e-12)
        self.norms = BalanceState(ema_decay)
        #: Detached 0-d tensors of the last call: norm_<name>, weight_<name> (= w), cos_<a>_<b>; 0 where not computed.
        self.terms: dict[str, Tensor] = {}
        self._iteration: int | None = None
        self._updated_at: int | None = None
        self._warned: set[str] = set()

    @property
    def term_names(self) -> tuple[str, ...]:
        """Keys of ``terms``; the same in every call."""
        names = list(self.shares)
        cosines = (f"cos_{a}_{b}" for i, a in enumerate(names) for b in names[i + 1 :])
        return (*(f"norm_{n}" for n in names), *(f"weight_{n}" for n in names), *cosines)

    def step(self, iteration: int) -> None:
        """Tell the global iteration; averages then advance at most once per iteration (accumulation, closures).

        Args:
            iteration: number of the coming optimizer step.
        """
        self._iteration = as_int("iteration", iteration)

    def forward(self, sr: Tensor, losses: Mapping[str, LossTerm]) -> Tensor:
        """Same as :meth:`combine`."""
        return self.combine(sr, losses)

    def combine(
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
            check: raise at non-finite values; if False, they flow on and the averages ignore them.

        Returns:
            0-d tensor, float32 or wider; its gradient with respect to ``sr`` is sum_i share_i * w_i * grad L_i.

        Raises:
            InputError: an unknown name, a loss that is not 0-d, or a reentrant checkpoint in a loss.
            NonFiniteError: a loss or a gradient norm is NaN or infinite, on any rank; or a loss raised on another rank.
        """
        value, self.terms = self.balance(sr, losses, factors=factors, check=check)
        return value

    def balance(
        self,
        sr: Tensor,
        losses: Mapping[str, LossTerm],
        *,
        factors: Mapping[str, float] | None = None,
        check: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`combine` without writing to ``terms``, for callers in several threads; the arguments are the same.

        Returns:
            The balanced loss, and the terms.
        """
        check_known_keys("losses", losses, self.shares)
        check_known_keys("factors", factors or {}, self.shares)
        shares = {n: s * float((factors or {}).get(n, 1.0)) for n, s in self.shares.items() if n in losses}
        shares = {name: share for name, share in shares.items() if share > 0}
        terms = dict.fromkeys(self.term_names, torch.zeros((), device=sr.device))
        dtype = torch.promote_types(sr.dtype, torch.float32)
        value = torch.zeros((), dtype=dtype, device=sr.device)
        if not (torch.is_grad_enabled() and sr.requires_grad):
            for name, share in shares.items():
                loss = losses[name]
                value = value + share * (loss if isinstance(loss, Tensor) else loss(sr)).to(dtype)
            return value, terms
        leaf = sr.detach().to(dtype).requires_grad_()
        values, gradients, failed = self._differentiate({n: losses[n] for n in shares}, sr, leaf)
        norms, found = self._measure(values, gradients, check, failed)
        terms.update(found)
        weights = self._weights(shares, norms)
        total = torch.zeros_like(leaf, requires_grad=False)
        for name, share in shares.items():
            total.add_(gradients[name], alpha=share * weights[name])
            value = value + share * values[name]
            terms[f"weight_{name}"] = value.new_tensor(weights[name])
        return surrogate(sr, total, value), terms

    @staticmethod
    def _differentiate(
        losses: Mapping[str, LossTerm], sr: Tensor, leaf: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Exception | None]:
        """Values, gradients, and what went wrong where other ranks wait in the collective call that comes next."""
        values, gradients, failed = {}, {}, None
        nothing = leaf.new_zeros((), requires_grad=False)
        for name, loss in losses.items():
            try:
                # The mean over no images is NaN; a rank without images still has to take part in the collective call.
                values[name], gradients[name] = gradient_at(loss if len(sr) else nothing, sr, leaf, name)
            except Exception as error:
                if world_size() == 1:
                    raise
                failed = failed or error
                values[name], gradients[name] = nothing * math.nan, torch.zeros_like(leaf, requires_grad=False)
        return values, gradients, failed

    @staticmethod
    def _measure(
        values: Mapping[str, Tensor], gradients: Mapping[str, Tensor], check: bool, failed: Exception | None
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Norms averaged over images and ranks, checked, and the terms made of them. One device sync for all."""
        names, terms = list(values), {}
        if not names:
            return {}, {}
        per_image = torch.stack([per_image_norms(gradients[n]) for n in names])
        # A value that is bad on one rank only must stop all of them, or the others wait for ever.
        bad = torch.stack([~torch.isfinite(values[n]) for n in names]).to(per_image.dtype)
        means = mean_over_ranks(torch.cat([per_image.sum(1), bad]), per_image.shape[1])
        numbers = means.tolist()
        norms = dict(zip(names, numbers, strict=False))
        for position, name in enumerate(names):
            terms[f"norm_{name}"] = means[position]
            for other in names[position + 1 :]:
                terms[f"cos_{name}_{other}"] = gradient_cosine(gradients[name], gradients[other])
        problems = [
            f"{name}: {'the loss' if wrong else 'the norm of its gradient at the SR output'} is NaN or infinite"
            for name, wrong in zip(names, numbers[len(names) :], strict=True)
            if wrong or not math.isfinite(norms[name])
        ]
        # The same on all ranks, so that all of them make this collective call or none.
        here = bool(bad.any()) or not bool(torch.isfinite(per_image).all())
        ranks = ranks_with_flag(here, means.device) if check and problems else []
        if failed is not None:
            raise failed
        if check and problems:
            raise NonFiniteError(f"{problems[0]}{format_ranks(ranks)}. Stopped before the optimizer step.")
        return norms, terms

    def _weights(self, shares: Mapping[str, float], norms: Mapping[str, float]) -> dict[str, float]:
        """Weights of the losses, after the averages have taken in the new norms."""
        advance = self.training and (self._iteration is None or self._iteration != self._updated_at)
        averages: dict[str, float] = {}
        for name, norm in norms.items():
            if advance and self.eps < norm < math.inf:
                # A vanished gradient says nothing about the scale of a loss, so the average leaves it out; else w would
                # grow to its limit, and hit when the gradient returns.
                self.norms.update(name, norm)
                self._updated_at = self._iteration
            average = self.norms.get(name)
            averages[name] = norm if average is None else average
            if norm <= self.eps:
                self._warn(
                    name,
                    f"the gradient of '{name}' at the SR output has vanished (norm {norm:g} <= {self.eps:g}): the loss "
                    "is detached from the image or saturated. "
                    + ("Its weight is that of the last average." if average else "There is no average yet."),
                )
        reference = next(iter(shares), "")
        wanted = averages.get(reference, 0.0) if self.total_norm is None else self.total_norm
        if wanted <= self.eps:
            # Weights of zero would stop the others too.
            return dict.fromkeys(shares, 1.0)
        weights = {n: wanted / (averages[n] + self.eps) if averages[n] + self.eps else math.inf for n in shares}
        if self.total_norm is None:
            weights[reference] = 1.0
        for name, weight in weights.items():
            if weight > self.max_weight and norms[name] > self.eps:
                self._warn(f"{name} limit", f"the weight of '{name}', {weight:.3g}, is cut to max_weight.")
        return {name: min(weight, self.max_weight) for name, weight in weights.items()}

    def _warn(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(f"balance: {message}", stacklevel=4)

    def get_extra_state(self) -> dict[str, list[float]]:
        """The averages, for ``state_dict``: built-in types, under a kilobyte."""
        return self.norms.state_dict()

    def set_extra_state(self, state: dict[str, list[float]]) -> None:
        """Take the averages over from ``load_state_dict``.

        Raises:
            InputError: they belong to other losses.
        """
        check_known_keys("balancer state", state, self.shares)
        self.norms.load_state_dict(state)
