"""SSIMPerceptualRatioLoss: a distortion measure and a critic in the proportion alpha : beta.

The ratio that the Efficient-PBAN paper prints cannot be used (see ``functional/eq12.py``). The default here, balancing
the norms of both gradients at the SR output, is our well-posed reading of "alpha and beta are weighting ratios"; it
does not reproduce the paper's Table 2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytorch_msssim
import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_float, as_int, check_choice
from sr_perceptual_loss.critics.base import Critic
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.losses.balance import GradNormBalancer
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.critic_loss import CriticLoss
from sr_perceptual_loss.ops.crops import CropPlan
from sr_perceptual_loss.losses.distributed import format_ranks, mean_over_ranks, ranks_with_flag, world_size
from sr_perceptual_loss.losses.eq12 import EQ12_SIGNS, check_eq12_weights, eq12
from sr_perceptual_loss.losses.schedule import Schedule
from sr_perceptual_loss.ops.ssim import ssim

__all__ = ["DISTORTIONS", "SSIMPerceptualRatioLoss"]

LOSS_BALANCES = ("grad_norm", "weighted_sum", "loss_norm", "eq12")

#: MS-SSIM halves the image four times, and the 11-pixel window must fit into what is left.
MS_SSIM_SIDE = 161


def _ms_ssim(sr: Tensor, hr: Tensor) -> Tensor:
    if min(sr.shape[-2:]) < MS_SSIM_SIDE:
        raise InputError(
            f"ms_ssim: got {sr.shape[2]}x{sr.shape[3]} patches, needs sides >= {MS_SSIM_SIDE}: set gt_size: 192 or "
            "larger in the YAML, or use `distortion: ssim`."
        )
    return pytorch_msssim.ms_ssim(sr, hr, data_range=1.0, size_average=False)


def _l1(sr: Tensor, hr: Tensor) -> Tensor:
    return -(sr - hr).abs().mean((1, 2, 3))


def _charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    return -((sr - hr) ** 2 + 1e-12).sqrt().mean((1, 2, 3))


#: name -> (score per image, higher is better; what the score is subtracted from to give the loss).
DISTORTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "ssim": (ssim, 1.0),
    "ms_ssim": (_ms_ssim, 1.0),
    "l1": (_l1, 0.0),
    "charbonnier": (_charbonnier, 0.0),
}


class SSIMPerceptualRatioLoss(PairLoss):
    """loss_weight * (balance(L_D, L_P; alpha : beta) + pixel_weight * L1), L_D = 1 - SSIM and L_P = -score of a critic.

    With a = alpha / (alpha + beta) and b = beta / (alpha + beta):

    * ``grad_norm``: value a*L_D + b*L_P, gradient at the SR output a*g_D + b*lambda*g_P with lambda = |g_D| / |g_P|
      (averages per image, over batch, ranks and iterations): shares a : b whatever the critic's scale and offset;
    * ``weighted_sum``: alpha*L_D + beta*L_P;
    * ``loss_norm``: alpha*L_D / mean|S| + beta*L_P / mean|Q|, the denominators constants; for scores far from 0;
    * ``eq12``: the printed ratio of the batch-mean scores, for study (see ``functional/eq12.py``).

    The distortion is measured on the whole patch, the critic's score on its own crops. beta = 0 never calls the critic.

    Args:
        critic: registered name, or a :class:`Critic` (frozen in place).
        alpha: share of the distortion, >= 0.
        beta: share of the critic, >= 0; 1/9 to 7/3 is the working range of beta/alpha.
        loss_balance: ``grad_norm``, ``weighted_sum``, ``loss_norm`` or ``eq12``.
        distortion: ``ssim``, ``l1``, ``charbonnier`` or ``ms_ssim`` (sides >= 161).
        eq12_sign: ``printed`` or ``table2``, for ``eq12``.
        allow_equal: accept ``eq12`` at alpha = beta, where its gradient is zero.
        ema_decay: of the gradient norms, in [0, 1); 0 forgets.
        balance_eps: gradient norms not above it count as vanished.
        max_weight: upper limit of lambda.
        denom_floor: smallest divisor of ``loss_norm`` and ``eq12``.
        pixel_weight: of an L1 loss outside the balance.
        loss_weight: factor on everything.
        weights: of the critic, as in :func:`create_critic`.
        crops: as in :class:`CriticLoss`.
        form: ``linear``, ``hinge`` or ``softplus``, as in :class:`CriticLoss`.
        margin: for ``hinge`` and ``softplus``.
        temperature: for ``softplus``.
        on_nonfinite: ``raise``, ``raise_all`` (ranks agree), ``skip`` or ``propagate``; see :class:`PairLoss`.
        critic_size: ``"full"`` or ``"tiny"`` (tests).
        schedule: of the whole loss; a guard that restrains it acts on the critic's share alone (except ``eq12``).
        precision: of the critic, ``fp32`` or ``bf16``, as in :class:`CriticLoss`.
        target_cache: megabytes for features of reference crops that come again, as in :class:`CriticLoss`.

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
        eq12_sign: str = "printed",
        allow_equal: bool = False,
        ema_decay: float = 0.9,
        balance_eps: float = 1e-12,
        max_weight: float = 1e4,
        denom_floor: float = 1e-3,
        pixel_weight: float = 0.0,
        loss_weight: float = 1.0,
        weights: str | Path | None = "local",
        crops: CropPlan | Mapping[str, object] | int | None = None,
        form: str = "linear",
        margin: float = 0.0,
        temperature: float = 1.0,
        on_nonfinite: str = "raise",
        critic_size: str = "full",
        schedule: Schedule | Mapping[str, object] | None = None,
        precision: str = "fp32",
        target_cache: float | None = None,
    ) -> None:
        super().__init__(loss_weight=loss_weight, on_nonfinite=on_nonfinite, schedule=schedule)
        self.alpha = as_float("alpha", alpha, minimum=0.0)
        self.beta = as_float("beta", beta, minimum=0.0)
        if self.alpha == self.beta == 0:
            raise InputError("alpha and beta are both 0; expected at least one positive share.")
        self.loss_balance = check_choice("loss_balance", loss_balance, LOSS_BALANCES)
        self.distortion = check_choice("distortion", distortion, tuple(DISTORTIONS))
        self.eq12_sign = check_choice("eq12_sign", eq12_sign, EQ12_SIGNS)
        self.denom_floor = as_float("denom_floor", denom_floor, minimum=0.0)
        self.pixel_weight = as_float("pixel_weight", pixel_weight, minimum=0.0)
        if self.loss_balance == "eq12":
            self._check_eq12(form, allow_equal)
        self.balancer = GradNormBalancer(
            {"distortion": self.alpha, "perceptual": self.beta},
            ema_decay=ema_decay,
            eps=balance_eps,
            max_weight=max_weight,
        )
        self._warned_floor = False
        self._critic_cap, self._critic_multiplier = 1.0, 1.0
        # The cheap checks are done: now the heavy part. What is not finite is found here, by name.
        self.perceptual = CriticLoss(
            critic,
            weights=weights,
            crops=crops,
            form=form,
            margin=margin,
            temperature=temperature,
            reduction="none",
            on_nonfinite="propagate",
            critic_size=critic_size,
            precision=precision,
            target_cache=target_cache,
        )

    def _check_eq12(self, form: str, allow_equal: bool) -> None:
        if form != "linear" or DISTORTIONS[self.distortion][1] == 0:
            raise InputError(
                f"loss_balance: eq12 is a ratio of two scores; got distortion: {self.distortion} and form: {form}, "
                "expected distortion: ssim or ms_ssim, and form: linear."
            )
        # Both weights zero-sum or equal: the run will not do what its author expects, so it is said once, loudly.
        _, _, warning = check_eq12_weights(self.alpha, self.beta, eq12_sign=self.eq12_sign, allow_equal=allow_equal)
        warnings.warn(warning, stacklevel=3)

    @property
    def critic(self) -> Critic:
        """The frozen critic."""
        return self.perceptual.critic

    @property
    def label(self) -> str:
        """Name of this loss in messages."""
        return f"{type(self).__name__}({self.critic.card.name})"

    @property
    def term_names(self) -> tuple[str, ...]:
        """Keys of ``terms`` beside ``loss``; 0 for what a call did not compute (norms, cosine: ``grad_norm`` only)."""
        return (
            *self.perceptual.term_names,
            *("distortion_score", "distortion_loss", "perceptual_loss", "pixel_loss"),
            *("distortion_norm", "perceptual_norm", "lambda", "cosine"),
        )

    @property
    def optimises(self) -> tuple[str, ...]:
        """The critic's name, and the measure that the distortion raises."""
        pixelwise = self.distortion in ("l1", "charbonnier")
        return (self.critic.card.name, *(("psnr" if pixelwise else "ssim",) if self.alpha else ()))

    def scores(self, sr: Tensor, hr: Tensor) -> Tensor | None:
        """The critic's scores for an onlooker; see :meth:`PairLoss.scores`."""
        return self.perceptual.scores(sr, hr)

    def limit_weight(self, cap: float, multiplier: float) -> None:
        """What a guard may do; the distortion is what holds a critic in check, so only the critic's share is cut.

        Args:
            cap: upper bound of the schedule's factor, in [0, 1].
            multiplier: in [0, 1].
        """
        if self.loss_balance == "eq12":
            # Another beta could swap which score eq12 punishes.
            super().limit_weight(cap, multiplier)
            return
        self._critic_cap = as_float("cap", cap, minimum=0.0, maximum=1.0)
        self._critic_multiplier = as_float("multiplier", multiplier, minimum=0.0, maximum=1.0)

    @property
    def _critic_factor(self) -> float:
        """On beta, so that with the schedule's factor the critic has min(schedule, cap) * multiplier."""
        whole = self.factor
        return min(whole, self._critic_cap) * self._critic_multiplier / whole if whole else 0.0

    def step(self, iteration: int) -> None:
        """Tell the global iteration: crop boxes follow it, and the averages of the norms advance once in each.

        Args:
            iteration: number of the coming optimizer step.
        """
        super().step(iteration)
        self.perceptual.step(iteration)
        self.balancer.step(as_int("iteration", iteration))

    def _values(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One value for the batch, as (1,): the balance has no per-image form."""
        hr = hr.detach()
        if not self.beta and len(sr):
            self._look_at_scale(sr, hr)
        terms = dict.fromkeys(self.term_names, torch.zeros((), device=sr.device))
        combine = self._grad_norm if self.loss_balance == "grad_norm" else self._fixed
        value = combine(sr, hr, terms)
        if self.pixel_weight and len(sr):
            pixel = -_l1(*self._wide(sr, hr)).mean()
            terms["pixel_loss"] = pixel
            value = value + self.pixel_weight * pixel
        return value.view(1), terms

    def _empty(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """No images: nothing, except that the norms of the other ranks have to be waited for."""
        return self._values(sr, hr) if self._collective(sr) else super()._empty(sr, hr)

    def _collective(self, sr: Tensor) -> bool:
        """Whether this call averages over ranks: validation may run on one rank only, so it must not wait."""
        averages = self.loss_balance in ("grad_norm", "loss_norm") and world_size() > 1
        return averages and sr.requires_grad and torch.is_grad_enabled()

    @staticmethod
    def _wide(sr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(sr.dtype, torch.float32)
        return sr.to(dtype), hr.to(dtype)

    def _distortion_scores(self, sr: Tensor, hr: Tensor) -> Tensor:
        with torch.autocast(device_type=sr.device.type, enabled=False):
            return DISTORTIONS[self.distortion][0](*self._wide(sr, hr))

    def _distortion_loss(self, sr: Tensor, hr: Tensor, terms: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """L_D, and the scores (N,) that it is made of."""
        scores = self._distortion_scores(sr, hr)
        loss = DISTORTIONS[self.distortion][1] - scores.mean()
        terms.update(distortion_score=scores.detach(), distortion_loss=loss.detach())
        return loss, scores

    def _perceptual_loss(self, sr: Tensor, hr: Tensor, terms: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """L_P, and its values (N,)."""
        values, found = self.perceptual._values(sr, hr)
        loss = values.mean()
        terms.update({name: found[name].detach() for name in self.perceptual.term_names})
        terms["perceptual_loss"] = loss.detach()
        return loss, values

    def _grad_norm(self, sr: Tensor, hr: Tensor, terms: dict[str, Tensor]) -> Tensor:
        value, found = self.balancer.balance(
            sr,
            {
                "distortion": lambda image: self._distortion_loss(image, hr, terms)[0],
                "perceptual": lambda image: self._perceptual_loss(image, hr, terms)[0],
            },
            factors={"perceptual": self._critic_factor},
            check=self.on_nonfinite != "propagate",
        )
        terms.update({f"{part}_norm": found[f"norm_{part}"] for part in ("distortion", "perceptual")})
        terms.update({"lambda": found["weight_perceptual"], "cosine": found["cos_distortion_perceptual"]})
        return value

    def _fixed(self, sr: Tensor, hr: Tensor, terms: dict[str, Tensor]) -> Tensor:
        """The balances that are formulas of the two losses."""
        # A side of weight 0 is not computed, except that it stands in the denominator of eq12.
        ratio = self.loss_balance == "eq12"
        beta = self.beta if ratio else self.beta * self._critic_factor
        # Zeros that stay on the graph, whatever sr holds.
        none = self._wide(sr, hr)[0][:, :0].sum((1, 2, 3))
        loss_d = loss_p = none.sum()
        scores = values = none
        failed: Exception | None = None
        try:
            if len(sr) and (self.alpha or ratio):
                loss_d, scores = self._distortion_loss(sr, hr, terms)
            if len(sr) and (beta or ratio):
                loss_p, values = self._perceptual_loss(sr, hr, terms)
            self._check_parts(loss_d, loss_p)
        except Exception as error:
            if not self._collective(sr):
                raise
            # The other ranks wait in the collective call: first that, then the error.
            failed = error
        if ratio:
            return eq12(
                scores.mean(),
                -loss_p,
                self.alpha,
                self.beta,
                eq12_sign=self.eq12_sign,
                allow_equal=True,  # settled at construction
                denom_floor=self.denom_floor,
            )
        if self.loss_balance == "weighted_sum":
            terms["lambda"] = torch.ones((), device=sr.device)
            return self.alpha * loss_d + beta * loss_p
        size_d, size_p = self._magnitudes(scores.detach(), values.detach(), beta, failed, shared=self._collective(sr))
        terms["lambda"] = size_d / size_p
        return self.alpha * loss_d / size_d + beta * loss_p / size_p

    def _check_parts(self, distortion: Tensor, perceptual: Tensor) -> None:
        if self.on_nonfinite == "propagate":
            return
        finite = torch.isfinite(torch.stack([distortion.detach(), perceptual.detach().to(distortion)])).tolist()
        for part, fine in zip(("distortion", "perceptual"), finite, strict=True):
            if not fine:
                raise NonFiniteError(f"{part}: the loss is NaN or infinite.")

    def _magnitudes(
        self, scores: Tensor, values: Tensor, beta: float, failed: Exception | None, *, shared: bool
    ) -> tuple[Tensor, Tensor]:
        """Batch means of absolute scores, at least ``denom_floor``; over all ranks if ``shared``."""
        sums = torch.stack([scores.abs().sum(), values.abs().sum().to(scores)])
        if failed is not None:
            sums = torch.full_like(sums, torch.nan)
        means = mean_over_ranks(sums, len(scores)) if shared else sums / len(scores)
        numbers = means.tolist()
        if not all(math.isfinite(number) for number in numbers) and self.on_nonfinite != "propagate":
            ranks = ranks_with_flag(not bool(torch.isfinite(sums).all()), sums.device) if shared else []
            if failed is None:
                raise NonFiniteError(f"loss_norm: the mean absolute scores are not finite{format_ranks(ranks)}.")
        if failed is not None:
            raise failed
        sides = (("distortion", self.alpha, numbers[0]), ("critic", beta, numbers[1]))
        small = [f"{name} {mean:.3g}" for name, share, mean in sides if share and mean < self.denom_floor]
        if small and not self._warned_floor:
            self._warned_floor = True
            warnings.warn(
                f"loss_norm: the mean absolute score ({', '.join(small)}) is below denom_floor = {self.denom_floor:g}, "
                "which divides instead. For a critic whose scores are centred on zero use `loss_balance: grad_norm`.",
                stacklevel=5,
            )
        size_d, size_p = means.clamp_min(self.denom_floor)
        return size_d, size_p
