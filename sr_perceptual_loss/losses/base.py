"""Base class of the losses: input validation, finite check, schedule, weight, reduction, and ``terms`` for logs."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import RangeCheck, as_float, as_int, as_weight, check_choice, check_pair
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.losses.schedule import Schedule

__all__ = ["PairLoss"]

REDUCTIONS = ("mean", "sum", "none")
STOPPED = "Stopped before the optimizer step."


class PairLoss(nn.Module, ABC):
    """loss_weight * factor * reduction(values of the pairs); lower is better.

    A subclass implements :meth:`_values`. One object must not be called from several threads at once.

    Args:
        loss_weight: factor, >= 0; the sign is part of the loss. At 0 the loss is computed and logged, but has no
            effect. YAML's ``1e-2`` arrives as a string and is accepted.
        reduction: ``mean`` or ``sum`` over the batch, or ``none``.
        schedule: a :class:`Schedule` or a mapping of its fields; its factor multiplies the weight, and if it is 0
            nothing is computed. Needs ``step(iteration)``. None is always on.

    Attributes:
        on_nonfinite: ``raise`` (default): a NaN or infinite value or gradient raises :class:`NonFiniteError` with the
            name of this loss, in the backward pass if a gradient is needed, else in the call. ``ignore``: no check.
        terms: detached 0-d tensors of the last call: ``loss`` (weighted) and one for each of ``term_names``.
        term_names: keys of ``terms`` besides ``loss``; the same in every call, so that all log lines have equal keys.
        optimises: measures that this loss optimises; a guard does not use them as evidence.

    Raises:
        InputError: at construction, for a wrong value.
    """

    on_nonfinite = "raise"
    term_names: tuple[str, ...] = ("score",)
    optimises: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        reduction: str = "mean",
        schedule: Schedule | Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)
        self.schedule = Schedule.from_config(schedule)
        self.terms: dict[str, Tensor] = {}
        self._iteration: int | None = None
        self._always_on = self.schedule.constant
        # Set by a guard, which also saves them: the loss itself has no state.
        self._cap, self._multiplier = 1.0, 1.0
        self._range_check = RangeCheck(type(self).__name__)

    @property
    def label(self) -> str:
        """Name of this loss in messages."""
        return type(self).__name__

    @property
    def loss_weight(self) -> float:
        """Factor on the loss, >= 0; a value assigned later is validated as at construction."""
        return self._loss_weight

    @loss_weight.setter
    def loss_weight(self, value: float) -> None:
        self._loss_weight = as_weight("loss_weight", value)

    def extra_repr(self) -> str:
        """Weight, reduction and schedule."""
        schedule = "" if self._always_on else f", {self.schedule}"
        return f"loss_weight={self.loss_weight:g}, reduction={self.reduction}{schedule}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    @property
    def factor(self) -> float:
        """Factor on the weight in this iteration: min(schedule, cap) * multiplier, the last two set by a guard.

        Raises:
            InputError: there is a schedule, but ``step`` was never called.
        """
        if self._always_on:
            return min(1.0, self._cap) * self._multiplier
        if self._iteration is None:
            raise InputError(
                f"{self.label}: the schedule needs the iteration, which is unknown. Call loss.step(iteration) before "
                "each step; in BasicSR use a model of this package, such as PerceptualSRModel, which does it."
            )
        return min(self.schedule.factor(self._iteration), self._cap) * self._multiplier

    def limit_weight(self, cap: float, multiplier: float) -> None:
        """Limit the weight, as a guard does: factor = min(schedule, cap) * multiplier from now on.

        Args:
            cap: upper bound of the schedule's factor, in [0, 1].
            multiplier: in [0, 1].

        Raises:
            InputError: a number out of bounds.
        """
        self._cap = as_float("cap", cap, minimum=0, maximum=1)
        self._multiplier = as_float("multiplier", multiplier, minimum=0, maximum=1)

    def step(self, iteration: int) -> None:
        """Set the global iteration: schedules and random crops are functions of it, so a resumed run repeats them.

        Args:
            iteration: number of the coming optimizer step.
        """
        self._iteration = as_int("iteration", iteration)

    @torch.no_grad()
    def scores(self, sr: Tensor, hr: Tensor) -> Tensor | None:
        """Scores for monitoring: no graph; ``terms`` and random state do not change.

        Args:
            sr: SR images, (N, 3, H, W).
            hr: reference images, same shape.

        Returns:
            (N,), higher is better, at the crops of this iteration; None if this loss has no score.
        """
        with torch.autocast(device_type=sr.device.type, enabled=False):
            score = self._values(sr.detach(), hr.detach())[1].get("score")
        return None if score is None else score.float().reshape(-1, len(sr)).mean(0)

    @abstractmethod
    def _values(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Unweighted loss per image (N,), and terms to log (any shape; their mean is kept).

        Both images are validated and at least float32, ``hr`` has no graph, autocast is off.
        """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            sr: SR images, (N, 3, H, W) RGB in [0, 1]; slight overshoot allowed, not clamped.
            hr: reference images, same shape. No gradient reaches them.

        Returns:
            0-d tensor, or (N,) for ``reduction="none"``; float32 or wider.

        Raises:
            InputError: the pair does not match this description.
            NonFiniteError: NaN or infinity, here or in the backward pass.
        """
        # In a compiled training step a loss is one graph break: hooks and private generators cannot be traced.
        if "torch._dynamo" in sys.modules:
            from sr_perceptual_loss.losses.eager import eagerly

            return eagerly(self._check_and_evaluate, sr, hr)
        return self._check_and_evaluate(sr, hr)

    def _check_and_evaluate(self, sr: Tensor, hr: Tensor) -> Tensor:
        check_pair(sr, hr)
        self._range_check(sr, hr)
        if hr.requires_grad and not sr.requires_grad and torch.is_grad_enabled():
            raise InputError(f"{self.label}: only hr requires a gradient, which no loss gives it; expected (sr, hr).")
        dtype = torch.promote_types(sr.dtype, torch.float32)
        # A separate graph node, so that the hook sees the gradient of this loss alone. In float32, so that an overflow
        # of a scaled fp16 gradient is left to the GradScaler.
        sr = sr.to(dtype).view_as(sr)
        hr = hr.detach().to(dtype)
        if hr.is_inference() and not torch.is_inference_mode_enabled():
            hr = hr.clone()  # autograd refuses to save tensors of inference mode
        if torch.is_autocast_enabled(sr.device.type):
            with torch.autocast(device_type=sr.device.type, enabled=False):
                return self._evaluate(sr, hr)
        return self._evaluate(sr, hr)

    def _evaluate(self, sr: Tensor, hr: Tensor) -> Tensor:
        factor, terms = self.factor, dict[str, Tensor]()
        if factor == 0:
            values = zeros_on_graph(sr)
        else:
            values, terms = self._values(sr, hr) if len(sr) else self._empty(sr, hr)
            if self.on_nonfinite == "raise":
                self._watch(values, sr, hr)
        weight = self.loss_weight * factor
        if self.reduction == "none":
            loss = weight * values
        elif self.reduction == "sum" or len(values) == 0:
            loss = weight * values.sum()
        else:
            loss = weight * values.mean()
        self.terms = {"loss": loss.detach().mean() if len(values) else loss.detach().sum()}
        for name in self.term_names:
            term = terms.get(name)
            self.terms[name] = loss.new_zeros(()) if term is None else term.detach().float().mean()
        return loss

    def _empty(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Values of a batch without images. A loss with collective calls overrides it, so that no rank waits."""
        return zeros_on_graph(sr), {}

    def _watch(self, values: Tensor, sr: Tensor, hr: Tensor) -> None:
        """Check values and gradient for NaN and infinity: one device sync, in the backward pass if there is one."""
        values, image = values.detach(), sr.detach()
        finite = torch.isfinite(values).all()
        if not sr.requires_grad:
            if not finite:
                raise NonFiniteError(self._describe(values, image, hr))
            return

        def check(gradient: Tensor) -> None:
            if not (finite & torch.isfinite(gradient).all()):
                raise NonFiniteError(self._describe(values, image, hr))

        sr.register_hook(check)

    def _describe(self, values: Tensor, sr: Tensor, hr: Tensor) -> str:
        bad = (~torch.isfinite(values)).nonzero()
        if len(bad):
            what = f"the value of image {int(bad[0, 0])} of the batch is {float(values[bad[0, 0]]):g}"
        else:
            what = "the value is finite, but the gradient with respect to sr holds NaN or infinity"
        if not bool(torch.isfinite(sr).all()):
            cause = "sr holds NaN or infinity: the network diverged before this loss"
        elif not bool(torch.isfinite(hr).all()):
            position = int((~torch.isfinite(hr)).flatten(1).any(1).nonzero()[0, 0])
            cause = f"image {position} of hr holds NaN or infinity: check the data loader"
        else:
            cause = "both images are finite: lower the learning rate or the weight"
        return f"{self.label}: {what}; {cause}. {STOPPED}"


def zeros_on_graph(sr: Tensor) -> Tensor:
    """(N,) zeros that stay on the graph, also if ``sr`` holds NaN; 0 * NaN would not be 0."""
    return sr[:, :0].sum((1, 2, 3))
