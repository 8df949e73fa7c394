"""What all losses of this package share: the door, the finite checks, reduction, weight, and ``terms`` for logs."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sr_perceptual_loss._checks import InputError, NonFiniteError, as_float, as_int, check_choice, check_pair
from sr_perceptual_loss.losses.schedule import Schedule

__all__ = ["PairLoss"]

logger = logging.getLogger("sr_perceptual_loss")

REDUCTIONS = ("mean", "sum", "none")
NONFINITE = ("raise", "skip", "propagate")


class PairLoss(nn.Module, ABC):
    """loss_weight * reduction(values of the pairs); lower is better.

    Args:
        loss_weight: factor; YAML's ``1e-2`` arrives as a string and is accepted.
        reduction: ``mean`` or ``sum`` over the batch, or ``none``.
        on_nonfinite: a NaN or infinite value or gradient: ``raise`` (default: stop before the optimizer steps, naming
            this loss), ``skip`` (zero that stays on the graph, one log line), ``propagate`` (no check, no device sync).
        schedule: a :class:`Schedule` or a mapping of its fields; its factor multiplies the weight, and where it is 0
            nothing is computed. Needs ``step(iteration)``. None is always on.
    """

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        reduction: str = "mean",
        on_nonfinite: str = "raise",
        schedule: Schedule | Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.loss_weight = as_float("loss_weight", loss_weight)
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.on_nonfinite = check_choice("on_nonfinite", on_nonfinite, NONFINITE)
        self.schedule = Schedule.of(schedule)
        # Set by a guard; kept and saved there, so that the loss itself has no state.
        self._cap, self._multiplier = 1.0, 1.0
        #: Detached 0-d tensors of the last call: ``loss`` (weighted) and what the subclass adds.
        self.terms: dict[str, Tensor] = {}
        self._iteration: int | None = None

    @property
    def label(self) -> str:
        """Name of this loss in messages."""
        return type(self).__name__

    @property
    def term_names(self) -> tuple[str, ...]:
        """Keys of ``terms`` beside ``loss``; the same in every call, so that a log has the same keys in every step."""
        return ("score",)

    @property
    def optimises(self) -> tuple[str, ...]:
        """Measures that this loss raises by itself, so that they say nothing about it; a guard leaves them out."""
        return ()

    @property
    def factor(self) -> float:
        """What the schedule, and a guard, multiply the weight by in this iteration.

        Raises:
            InputError: there is a schedule, but ``step`` was never called.
        """
        if self.schedule.constant:
            return min(1.0, self._cap) * self._multiplier
        if self._iteration is None:
            raise InputError(
                f"{self.label}: it has a schedule, but was never told the iteration. Call loss.step(iteration) before "
                "each step; in BasicSR use our models (model_type: PerceptualSRModel, ...), which do it."
            )
        return min(self.schedule.factor(self._iteration), self._cap) * self._multiplier

    def restrain(self, cap: float, multiplier: float) -> None:
        """What a guard may do: factor = min(schedule, cap) * multiplier from now on.

        Args:
            cap: upper bound of the schedule's factor, in [0, 1].
            multiplier: in [0, 1].
        """
        self._cap = as_float("cap", cap, minimum=0, maximum=1)
        self._multiplier = as_float("multiplier", multiplier, minimum=0, maximum=1)

    @torch.no_grad()
    def scores(self, sr: Tensor, hr: Tensor) -> Tensor | None:
        """Scores for an onlooker such as the guard: no graph, ``terms`` and random state as they were.

        Args:
            sr: judged images, (N, 3, H, W).
            hr: reference images, same shape.

        Returns:
            (N,), higher is better, at the crops of this iteration; None if this loss has no score.
        """
        score = self._values(sr.detach(), hr.detach())[1].get("score")
        return None if score is None else score.float().reshape(-1, len(sr)).mean(0)

    @abstractmethod
    def _values(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Unweighted loss per image (N,), and terms to log (any shape; their mean is kept)."""

    def step(self, iteration: int) -> None:
        """Tell the loss the global iteration, so that what is random in it does not depend on interruptions.

        Args:
            iteration: number of the coming optimizer step.
        """
        self._iteration = as_int("iteration", iteration)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            sr: judged images, (N, 3, H, W) RGB in [0, 1]; slight overshoot allowed, not clamped.
            hr: reference images, same shape. No gradient reaches them.

        Returns:
            0-d tensor, or (N,) for ``reduction="none"``; float32 or wider.

        Raises:
            InputError: the pair is not what the documentation says.
            NonFiniteError: NaN or infinity under ``on_nonfinite="raise"``, here or in the backward pass.
        """
        check_pair(sr, hr)
        factor = self.factor
        if len(sr) == 0:
            return self._finish(sr.float().sum((1, 2, 3)), {}, factor)
        if factor == 0:
            # On the graph, and free of what sr holds: 0 * NaN would not be 0.
            zero = sr[:, :0].to(torch.promote_types(sr.dtype, torch.float32)).sum((1, 2, 3))
            return self._finish(zero, dict.fromkeys(self.term_names, zero), factor)
        # An own node, so that the hook sees the gradient of this loss alone.
        own = sr.view_as(sr)
        if own.requires_grad and self.on_nonfinite != "propagate":
            own.register_hook(self._check_gradient)
        values, terms = self._values(own, hr)
        return self._finish(self._check_values(values, own, hr), terms, factor)

    def _finish(self, values: Tensor, terms: dict[str, Tensor], factor: float = 1.0) -> Tensor:
        weight = self.loss_weight * factor
        if self.reduction == "none":
            loss = weight * values
        elif self.reduction == "sum" or len(values) == 0:
            loss = weight * values.sum()
        else:
            loss = weight * values.mean()
        self.terms = {"loss": loss.detach().mean() if len(values) else loss.detach().sum()}
        self.terms.update({name: value.detach().float().mean() for name, value in terms.items()})
        return loss

    def _check_values(self, values: Tensor, sr: Tensor, hr: Tensor) -> Tensor:
        if self.on_nonfinite == "propagate" or bool(torch.isfinite(values).all()):
            return values
        image = int((~torch.isfinite(values)).nonzero()[0, 0])
        cause = "both images are finite"
        if not bool(torch.isfinite(sr.detach()).all()):
            cause = "sr holds NaN or infinity: the network diverged before this loss"
        elif not bool(torch.isfinite(hr).all()):
            cause = "hr holds NaN or infinity: look at the data loader"
        value = float(values[image].detach())
        message = f"{self.label}: the value of image {image} of the batch is {value:g}; {cause}."
        if self.on_nonfinite == "raise":
            raise NonFiniteError(message + " Stopped before the optimizer step; lower the learning rate or the weight.")
        logger.warning("%s This step's loss is set to zero.", message)
        return torch.nan_to_num(sr, 0.0, 0.0, 0.0).float().sum((1, 2, 3)) * 0.0

    def _check_gradient(self, gradient: Tensor) -> Tensor | None:
        if bool(torch.isfinite(gradient).all()):
            return None
        message = f"{self.label}: its value is finite but its gradient to sr holds NaN or infinity."
        if self.on_nonfinite == "raise":
            raise NonFiniteError(message + " Stopped before the optimizer step.")
        logger.warning("%s This step's gradient is set to zero.", message)
        return torch.zeros_like(gradient)
