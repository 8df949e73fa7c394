"""SSIMPerceptualRatioLoss: a distortion measure and a critic in the proportion alpha : beta.

The ratio printed in the Efficient-PBAN paper cannot be used as a loss (see ``losses/eq12.py``). The default here
balances the norms of both gradients at the SR output. It is our well-posed reading of "alpha and beta are weighting
ratios" and does not reproduce the paper's Table 2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytorch_msssim
import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_float, as_weight, check_choice
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.losses.base import STOPPED, PairLoss, zeros_on_graph
from sr_perceptual_loss.losses.critic_loss import CriticLoss
from sr_perceptual_loss.losses.distributed import world_size
from sr_perceptual_loss.losses.eq12 import check_eq12_weights, eq12
from sr_perceptual_loss.losses.schedule import Schedule
from sr_perceptual_loss.ops.crops import CropPlan
from sr_perceptual_loss.ops.ssim import ssim_checked

__all__ = ["DISTORTIONS", "SSIMPerceptualRatioLoss"]

LOSS_BALANCES = ("grad_norm", "eq12", "none")

#: MS-SSIM halves the image four times, and the 11-pixel window must fit into the smallest one.
MS_SSIM_SIDE = 161


def _ms_ssim(sr: Tensor, hr: Tensor) -> Tensor:
    if min(sr.shape[-2:]) < MS_SSIM_SIDE:
        raise InputError(
            f"ms_ssim: got {sr.shape[2]}x{sr.shape[3]} patches, needs sides >= {MS_SSIM_SIDE}: set gt_size: 192 or "
            "larger in the YAML, or use `distortion: ssim`."
        )
    with torch.device(sr.device):  # the library makes its window on the default device
        return pytorch_msssim.ms_ssim(sr, hr, data_range=1.0, size_average=False)


def _l1(sr: Tensor, hr: Tensor) -> Tensor:
    return -(sr - hr).abs().mean((1, 2, 3))


def _charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    return -((sr - hr) ** 2 + 1e-12).sqrt().mean((1, 2, 3))


#: name -> (score per image, higher is better; constant that the score is subtracted from to give the loss).
DISTORTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "ssim": (ssim_checked, 1.0),
    "ms_ssim": (_ms_ssim, 1.0),
    "l1": (_l1, 0.0),
    "charbonnier": (_charbonnier, 0.0),
}


class SSIMPerceptualRatioLoss(PairLoss):
    """loss_weight * balance(L_D, L_P; alpha : beta), by default L_D = 1 - SSIM and L_P = -score of a critic.

    With a = alpha / (alpha + beta) and b = beta / (alpha + beta):

    * ``grad_norm``: value a*L_D + b*L_P, gradient at the SR output a*g_D + b*lambda*g_P with lambda = |g_D| / |g_P|
      (averages per image, over batch, ranks and iterations): shares a : b at any scale and offset of the critic;
    * ``none``: alpha*L_D + beta*L_P;
    * ``eq12``: the printed ratio of the batch-mean scores, for study (see ``losses/eq12.py``).

    The distortion is measured on the whole patch, the critic's score on crops. At beta = 0 the critic is never called.

    Args:
        critic: registered name, or a :class:`Critic` (frozen in place).
        alpha: share of the distortion, >= 0.
        beta: share of the critic, >= 0; 1/9 to 7/3 is the working range of beta/alpha.
        loss_balance: ``grad_norm``, ``eq12`` or ``none``.
        distortion: ``ssim``, ``l1``, ``charbonnier`` or ``ms_ssim`` (sides >= 161).
        loss_weight: factor on the whole loss, >= 0.
        weights: weights of the critic, as in :func:`create_critic`.
        crops: as in :class:`CriticLoss`.
        form: ``linear``, ``hinge`` or ``softplus``, as in :class:`CriticLoss`.
        margin: for ``hinge`` and ``softplus``.
        schedule: of the whole loss; a guard that limits its weight acts on the critic's share alone (except ``eq12``).
        precision: precision of the critic, ``fp32`` or ``bf16``, as in :class:`CriticLoss`.

    Terms that a call does not compute are 0; norms, lambda and cosine belong to ``grad_norm``.

    Raises:
        InputError, UnknownNameError, WeightsError: at construction.

    Source: arXiv 2602.21482, equation (12), and arXiv 2210.13438, section 3.4, for the balance.
    """

    def __init__(
        self,
        critic: str | Critic,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        loss_balance: str = "grad_norm",
        distortion: str = "ssim",
        loss_weight: float = 1.0,
        weights: str | Path | None = "local",
        crops: CropPlan | Mapping[str, object] | int | None = None,
        form: str = "linear",
        margin: float = 0.0,
        schedule: Schedule | Mapping[str, object] | None = None,
        precision: str = "fp32",
    ) -> None:
        super().__init__(loss_weight=loss_weight, schedule=schedule)
        self.alpha, self.beta = as_weight("alpha", alpha), as_weight("beta", beta)
        if self.alpha == self.beta == 0:
            raise InputError("alpha and beta are both 0; expected at least one positive share.")
        self.loss_balance = check_choice("loss_balance", loss_balance, LOSS_BALANCES)
        self.distortion = check_choice("distortion", distortion, tuple(DISTORTIONS))
        if self.loss_balance == "eq12":
            if form != "linear" or DISTORTIONS[self.distortion][1] == 0:
                raise InputError(
                    f"loss_balance: eq12 is a ratio of two scores; got distortion: {distortion} and form: {form}, "
                    "expected distortion: ssim or ms_ssim, and form: linear."
                )
            warnings.warn(check_eq12_weights(self.alpha, self.beta), stacklevel=2)
        self.balancer = GradNormBalancer({"distortion": self.alpha, "perceptual": self.beta})
        self._critic_cap, self._critic_multiplier = 1.0, 1.0
        # Weights are read last, after the cheap checks. Only the unreduced values of this loss are used.
        self.perceptual = CriticLoss(
            critic, weights=weights, crops=crops, form=form, margin=margin, precision=precision, reduction="none"
        )
        self.term_names = (
            *self.perceptual.term_names,
            *("distortion_score", "distortion_loss", "perceptual_loss"),
            *("distortion_norm", "perceptual_norm", "lambda", "cosine"),
        )
        measure = "psnr" if self.distortion in ("l1", "charbonnier") else "ssim"
        self.optimises = (self.critic.card.name, *((measure,) if self.alpha else ()))

    @property
    def critic(self) -> Critic:
        """The frozen critic."""
        return self.perceptual.critic

    @property
    def label(self) -> str:
        """Name of this loss in messages."""
        return f"{type(self).__name__}({self.critic.card.name})"

    def extra_repr(self) -> str:
        """Both parts, their shares and balance."""
        shares = f"{self.alpha:g} {self.distortion} : {self.beta:g} {self.perceptual}, {self.loss_balance}"
        return f"{shares}, {super().extra_repr()}"

    def scores(self, sr: Tensor, hr: Tensor) -> Tensor | None:
        """The critic's scores for monitoring; see :meth:`PairLoss.scores`."""
        return self.perceptual.scores(sr, hr)

    def limit_weight(self, cap: float, multiplier: float) -> None:
        """Limit the critic's share, as a guard does; the distortion keeps its weight (except under ``eq12``).

        Args:
            cap: upper bound of the schedule's factor, in [0, 1].
            multiplier: in [0, 1].

        Raises:
            InputError: a number out of bounds.
        """
        if self.loss_balance == "eq12":
            # A smaller beta could change which score eq12 lowers.
            super().limit_weight(cap, multiplier)
            return
        self._critic_cap = as_float("cap", cap, minimum=0.0, maximum=1.0)
        self._critic_multiplier = as_float("multiplier", multiplier, minimum=0.0, maximum=1.0)

    @property
    def _critic_factor(self) -> float:
        """Factor on beta. Times the schedule's factor on the whole loss it is min(schedule, cap) * multiplier."""
        scheduled = self.factor
        return min(scheduled, self._critic_cap) * self._critic_multiplier / scheduled if scheduled else 0.0

    def step(self, iteration: int) -> None:
        """Set the global iteration: crops are a function of it, and the averaged norms advance once per iteration.

        Args:
            iteration: number of the coming optimizer step.
        """
        super().step(iteration)
        self.perceptual.step(iteration)
        self.balancer.step(iteration)

    def _values(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One value for the batch, as (1,): the balance has no per-image form."""
        terms: dict[str, Tensor] = {}
        if self.loss_balance == "grad_norm":
            value = self._grad_norm(sr, hr, terms)
        elif self.loss_balance == "eq12":
            scores = self._distortion_loss(sr, hr, terms)[1]
            value = eq12(scores.mean(), -self._perceptual_loss(sr, hr, terms), self.alpha, self.beta)
        else:
            beta, value = self.beta * self._critic_factor, zeros_on_graph(sr).sum()
            if self.alpha:
                value = value + self.alpha * self._distortion_loss(sr, hr, terms)[0]
            if beta:
                value = value + beta * self._perceptual_loss(sr, hr, terms)
            terms["lambda"] = torch.ones((), device=sr.device)
        return value.view(1), terms

    def _empty(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """In training the balance averages over ranks, so a rank without images must take part."""
        averages = self.loss_balance == "grad_norm" and world_size() > 1
        if averages and sr.requires_grad and torch.is_grad_enabled():
            return self._values(sr, hr)
        return super()._empty(sr, hr)

    def _distortion_loss(self, sr: Tensor, hr: Tensor, terms: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """L_D, and the scores (N,) that it is computed from."""
        measure, best = DISTORTIONS[self.distortion]
        scores = measure(sr, hr)
        loss = best - scores.mean()
        terms.update(distortion_score=scores, distortion_loss=loss)
        return loss, scores

    def _perceptual_loss(self, sr: Tensor, hr: Tensor, terms: dict[str, Tensor]) -> Tensor:
        """L_P."""
        values, critic_terms = self.perceptual._values(sr, hr)
        loss = values.mean()
        terms.update(critic_terms, perceptual_loss=loss)
        return loss

    def _grad_norm(self, sr: Tensor, hr: Tensor, terms: dict[str, Tensor]) -> Tensor:
        try:
            value = self.balancer(
                sr,
                {
                    "distortion": lambda image: self._distortion_loss(image, hr, terms)[0],
                    "perceptual": lambda image: self._perceptual_loss(image, hr, terms),
                },
                factors={"perceptual": self._critic_factor},
                check=self.on_nonfinite == "raise",
            )
        except NonFiniteError as error:
            raise NonFiniteError(f"{self.label}: {str(error).removesuffix(STOPPED)}{STOPPED}") from None
        balance = self.balancer.terms
        terms.update({f"{part}_norm": balance[f"norm_{part}"] for part in ("distortion", "perceptual")})
        terms.update({"lambda": balance["weight_perceptual"], "cosine": balance["cos_distortion_perceptual"]})
        return value
