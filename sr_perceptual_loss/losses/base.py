"""What all losses of this package share: the door, the finite checks, reduction, weight, and ``terms`` for logs."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import (
    MINUS_ONE_TO_ONE,
    RANGE_CHECKED_CALLS,
    as_float,
    as_int,
    check_choice,
    check_pair,
    check_range,
)
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.losses.distributed import format_ranks, ranks_with_flag, world_size
from sr_perceptual_loss.losses.schedule import Schedule

__all__ = ["PairLoss"]

logger = logging.getLogger("sr_perceptual_loss")

REDUCTIONS = ("mean", "sum", "none")
NONFINITE = ("raise", "raise_all", "skip", "propagate")
#: Under ``skip``; one more is an error.
SKIPS_IN_A_ROW = 10
NAMES = {"value": "loss", "gradient": "gradient"}
STOPPED = " Stopped before the optimizer step."

#: From a checked pair (sr, hr) to values (N,) and terms.
ValuesOf: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


class PairLoss(nn.Module, ABC):
    """loss_weight * reduction(values of the pairs); lower is better.

    Args:
        loss_weight: factor; YAML's ``1e-2`` arrives as a string and is accepted.
        reduction: ``mean`` or ``sum`` over the batch, or ``none``.
        on_nonfinite: a NaN or infinite value or gradient: ``raise`` (default: stop before the optimizer steps, naming
            this loss), ``raise_all`` (see below), ``skip`` (zero that stays on the graph, a log line, and an error
            after 10 in a row; it cannot help where the network's own activations hold NaN, since its backward pass
            multiplies them by the zero), ``propagate`` (no check, no device sync).
        schedule: a :class:`Schedule` or a mapping of its fields; its factor multiplies the weight, and where it is 0
            nothing is computed. Needs ``step(iteration)``. None is always on.

    ``raise_all`` is for ``torch.distributed``: what stops one rank stops all of them in the same step, with the rank
    named, by one small collective call in each training call and one in its backward pass. It is not the default,
    because a rank that calls the loss less often than the others (a rank-local condition, a stage of a pipeline) would
    then make them wait for ever, while under ``raise`` a launcher such as torchrun ends the other processes as soon as
    one fails. Without grad it waits for nobody.
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
        self.schedule = Schedule.from_config(schedule)
        # Set by a guard; kept and saved there, so that the loss itself has no state.
        self._cap, self._multiplier = 1.0, 1.0
        #: Detached 0-d tensors of the last call: ``loss`` (weighted) and what the subclass adds.
        self.terms: dict[str, Tensor] = {}
        self._iteration: int | None = None
        #: How many values and gradients were set to zero under ``on_nonfinite="skip"``.
        self.skipped = 0
        self._in_a_row = dict.fromkeys(NAMES, 0)
        self._range_checks_left, self._warned_range = RANGE_CHECKED_CALLS, False

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

    def limit_weight(self, cap: float, multiplier: float) -> None:
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
        with torch.autocast(device_type=sr.device.type, enabled=False):
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
            NonFiniteError: NaN or infinity under ``on_nonfinite="raise"`` (here or in the backward pass), or more than
                10 in a row under ``"skip"``.
        """
        return self._run(sr, hr, self._values)

    # In a compiled training step a loss is one graph break, the same in every step. Traced, it would be about twenty:
    # checks of values, private generators and remembered references are no graphs.
    @torch.compiler.disable
    def _run(self, sr: Tensor, hr: Tensor, values_of: ValuesOf) -> Tensor:
        """:meth:`_judge`; under ``raise_all`` an error of one rank becomes an error of all."""
        if self.on_nonfinite != "raise_all" or not (isinstance(sr, Tensor) and torch.is_grad_enabled()):
            return self._judge(sr, hr, values_of)
        loss, error = sr, None
        try:
            loss = self._judge(sr, hr, values_of)
        except Exception as problem:
            error = problem
        # Validation (no grad) may run on one rank only, so it waits for nobody.
        ranks = ranks_with_flag(error is not None, sr.device) if sr.requires_grad else []
        if error is not None:
            raise error
        if ranks:
            raise NonFiniteError(f"{self.label}: it failed{format_ranks(ranks)}, whose message says why.{STOPPED}")
        return loss

    def _judge(self, sr: Tensor, hr: Tensor, values_of: ValuesOf) -> Tensor:
        check_pair(sr, hr)
        factor = self.factor
        # Autograd refuses what inference mode made, such as a teacher's picture.
        hr = hr.clone() if hr.is_inference() and not torch.is_inference_mode_enabled() else hr
        # An own node, so that the hook sees the gradient of this loss alone; in float32, so that what a GradScaler
        # drives to infinity in fp16 is the scaler's to see.
        own = sr.to(torch.promote_types(sr.dtype, torch.float32)).view_as(sr)
        if factor == 0:
            return self._finish(_zeros(own), {}, factor)
        if own.requires_grad and self.on_nonfinite != "propagate":
            own.register_hook(self._check_gradient)
        terms: dict[str, Tensor] = {}
        try:
            # A host's autocast ends here: what a loss does in lower precision it chooses itself, and torch's CPU
            # autocast refuses to stack fp16 images inside bf16.
            with torch.autocast(device_type=sr.device.type, enabled=False):
                values, terms = values_of(own, hr) if len(sr) else self._empty(own, hr)
            problem = self._problem(values, own, hr)
        except NonFiniteError as error:
            if self.on_nonfinite == "propagate" or (isinstance(error, InputError) and self.on_nonfinite != "skip"):
                raise
            words = str(error).removesuffix(STOPPED).removesuffix(".")
            values, problem = _zeros(own), f"{self.label}: {words}; {_cause(own, hr)}."
        if problem and self.on_nonfinite != "skip":
            raise NonFiniteError(f"{problem}{STOPPED} Lower the learning rate or the weight.")
        self._count("value", problem)
        return self._finish(_zeros(own) if problem else values, terms, factor)

    def _look_at_scale(self, sr: Tensor, hr: Tensor) -> None:
        """The value scale in the first calls, for losses without a critic, which looks by itself."""
        if self._range_checks_left <= 0 or torch.compiler.is_compiling():
            return
        self._range_checks_left -= 1
        if check_range(sr, hr) and not self._warned_range:
            self._warned_range = True
            warnings.warn(f"{self.label}: {MINUS_ONE_TO_ONE}", stacklevel=4)

    def _empty(self, sr: Tensor, hr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What ``_values`` is for no images: nothing, on the graph. A loss with a collective call makes it here too."""
        return _zeros(sr), {}

    def _finish(self, values: Tensor, terms: dict[str, Tensor], factor: float = 1.0) -> Tensor:
        weight = self.loss_weight * factor
        if self.reduction == "none":
            loss = weight * values
        elif self.reduction == "sum" or len(values) == 0:
            loss = weight * values.sum()
        else:
            loss = weight * values.mean()
        shown = {"loss": loss.detach().mean() if len(values) else loss.detach().sum()}
        if not terms:
            terms = dict.fromkeys(self.term_names, torch.zeros((), device=loss.device))
        shown.update({name: value.detach().float().mean() for name, value in terms.items()})
        # Assigned once: another thread never sees half of it.
        self.terms = shown
        return loss

    def _problem(self, values: Tensor, sr: Tensor, hr: Tensor) -> str:
        """What is wrong with the values, in words; empty where nothing is, or nobody wants to know."""
        if self.on_nonfinite == "propagate" or bool(torch.isfinite(values).all()):
            return ""
        image = int((~torch.isfinite(values)).nonzero()[0, 0])
        value = float(values[image].detach())
        here = format_ranks([torch.distributed.get_rank()]) if world_size() > 1 else ""
        return f"{self.label}: the value of image {image} of the batch{here} is {value:g}; {_cause(sr, hr)}."

    def _check_gradient(self, gradient: Tensor) -> Tensor | None:
        fine = torch.isfinite(gradient).all()
        ranks = ranks_with_flag(~fine, gradient.device) if self.on_nonfinite == "raise_all" else []
        if bool(fine) and not ranks:
            self._count("gradient", "")
            return None
        message = (
            f"{self.label}: its value is finite but its gradient to sr holds NaN or infinity{format_ranks(ranks)}."
        )
        if self.on_nonfinite != "skip":
            raise NonFiniteError(message + STOPPED)
        self._count("gradient", message)
        return torch.zeros_like(gradient)

    def _count(self, what: str, problem: str) -> None:
        """Under ``skip``: log a skipped value or gradient, and stop a run in which nothing else happens any more."""
        if not problem:
            self._in_a_row[what] = 0
            return
        self.skipped += 1
        self._in_a_row[what] += 1
        if self._in_a_row[what] > SKIPS_IN_A_ROW:
            raise NonFiniteError(
                f"{problem} It was skipped {SKIPS_IN_A_ROW} times in a row, so nothing is learned.{STOPPED}"
            )
        logger.warning("%s This step's %s is set to zero (%d in a row).", problem, NAMES[what], self._in_a_row[what])


def _zeros(sr: Tensor) -> Tensor:
    """(N,) zeros on the graph, free of what ``sr`` holds: 0 * NaN would not be 0."""
    return sr[:, :0].sum((1, 2, 3))


def _cause(sr: Tensor, hr: Tensor) -> str:
    if not bool(torch.isfinite(sr.detach()).all()):
        return "sr holds NaN or infinity: the network diverged before this loss"
    if not bool(torch.isfinite(hr.detach()).all()):
        return "hr holds NaN or infinity: look at the data loader"
    return "both images are finite"
