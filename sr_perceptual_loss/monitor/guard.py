"""HackingGuard: does the critic's score rise because the images get better, or because the network exploits the critic?

Every K iterations the critic's score is compared with measures that the loss does not optimise (``measures.py``).
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_float, as_int, check_choice, check_pair
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.distributed import world_size
from sr_perceptual_loss.monitor.measures import CLEAN, FIDELITY, LIMITS, MEASURES, average_over_ranks, measure

__all__ = ["Alarm", "HackingError", "HackingGuard"]

logger = logging.getLogger("sr_perceptual_loss")

ACTIONS = ("warn", "freeze_weight", "halve", "stop")

#: An alarm needs this many votes; a measure that got worse gives one.
VOTES = 2
#: At this multiple of their limit these measures give two votes: better images cause none of them.
STRONG, DOUBLE = 1.5, ("hf_over", "grid", "dots")
#: Weight of earlier checks in the smoothed values.
EMA = 0.5
#: Smallest rise of a score that counts, in standard errors of its mean over the images. Dots count with any rise: where
#: the weight was too large for a network, its score rose by a third of its standard deviation over the images.
RISE = 2.0
#: At most this many images of a batch are used.
IMAGES = 16

#: Attributes that a resumed run needs, without their leading underscore.
STATE = ("last", "smooth", "anchors", "streaks", "episodes", "caps", "multipliers")


class HackingError(RuntimeError):
    """The guard stopped the run before the optimizer step; the message gives the reason."""


@dataclass(frozen=True)
class Alarm:
    """One alarm of the guard.

    Attributes:
        iteration: global iteration of the check.
        loss: name of the loss whose critic is exploited.
        reason: text that says which score rose and which measures got worse.
        action: text that says what the guard did.
    """

    iteration: int
    loss: str
    reason: str
    action: str

    def __str__(self) -> str:
        """One sentence for a log."""
        return f"iteration {self.iteration}: the network seems to exploit '{self.loss}': {self.reason}. {self.action}"


class HackingGuard:
    """Alarm if score(now) - score(then) > 2 standard errors while measures with at least two votes got worse.

    A measure that got worse by its limit has one vote; high-frequency energy, patterns and dots have two at 1.5 times
    their limit, and dots count with any rise of the score. "Then" is, for each measure, the check at which it was best.
    So training from scratch, fine-tuning, and a critic that starts late need no different settings. All values are
    smoothed over checks. There is one alarm per episode: the next one needs ``patience`` checks without evidence first.
    Nothing is computed between checks.

    Args:
        every: K; a check happens at the first call at or after each multiple of it, and at the very first call.
        action: ``warn`` only reports; ``freeze_weight`` keeps the weight from rising further along its ramp (without a
            ramp it only reports); ``halve`` halves the weight, once per episode; ``stop`` raises
            :class:`HackingError`. All of them call ``on_alarm``.
        patience: consecutive checks that must agree.
        tolerance: factor on the limits of PSNR, SSIM, HaarPSI and DISTS (1 dB, 0.03, 0.03, 0.06). Adversarial
            training lowers fidelity in exchange for texture: the GAN models of this package use 3.
        off: names of measures that are switched off: ``psnr``, ``ssim``, ``haarpsi``, ``dists``, ``hf``, ``grid``,
            ``dots``, ``colour``, ``over_gt``. ``step`` also leaves out measures that one of its losses optimises.

    Attributes:
        on_alarm: called with each :class:`Alarm`; by default the package's logger warns. Assign another function.
        values: of the last check, for logs: the measures of ``off`` that are used (``hf`` is the ratio to the GT's),
            ``overshoot`` (share of the values of the SR images outside of [0, 1]), ``alarm`` (1 during an episode), and
            for ``halve`` ``weight`` (smallest multiplier of a loss). The same on all ranks. Empty before the first
            check, and after one with NaN or infinity.
        worst: of the last check on this rank, where the dots of each image are strongest: (image, y, x, 8-bit levels).
        limits: how much worse each measure must get to count.

    Raises:
        InputError: a value out of range, or an unknown action or measure.
    """

    def __init__(
        self,
        *,
        every: int = 100,
        action: str = "warn",
        patience: int = 2,
        tolerance: float = 1.0,
        off: Collection[str] = (),
    ) -> None:
        self.every = as_int("guard.every", every, minimum=1)
        self.action = check_choice("guard.action", action, ACTIONS)
        self.patience = as_int("guard.patience", patience, minimum=1)
        self.tolerance = as_float("guard.tolerance", tolerance, minimum=0)
        if isinstance(off, str) or not isinstance(off, Collection):
            raise InputError(f"guard.off: got {off!r}, expected a list of measures such as [ssim, hf].")
        self.off = tuple(check_choice("guard.off", name, MEASURES) for name in off)
        self.limits = {name: limit * (self.tolerance if name in FIDELITY else 1) for name, (limit, _) in LIMITS.items()}
        self.on_alarm: Callable[[Alarm], object] = _warn
        self.values: dict[str, float] = {}
        self.worst: list[tuple[int, int, int, float]] = []
        # Keys that the last check measured; older values of other measures are ignored.
        self._current: tuple[str, ...] = ()
        self._last: int | None = None
        # Smoothed measures (lower is better), and mean and standard error of each loss's score.
        self._smooth: dict[str, float] = {}
        # measure -> its best value, the iteration of that check, and the scores (mean, standard error) then.
        self._anchors: dict[str, dict[str, Any]] = {}
        # By loss: consecutive checks with evidence (negative: without), whether an episode lasts, limits by actions.
        self._streaks: dict[str, int] = {}
        self._episodes: dict[str, bool] = {}
        self._caps: dict[str, float] = {}
        self._multipliers: dict[str, float] = {}

    @property
    def last_check(self) -> int | None:
        """Iteration of the last check, the one that ``values`` belong to; None before the first."""
        return self._last

    def due(self, iteration: int) -> bool:
        """Whether a check is due; a second call in the same iteration does not check again."""
        return self._last is None or iteration // self.every > self._last // self.every

    def step(self, iteration: int, sr: Tensor, hr: Tensor, losses: Mapping[str, PairLoss]) -> list[Alarm]:
        """Check the losses if a check is due, and limit their weights. Call it before the losses.

        Args:
            iteration: global iteration, as given to ``loss.step``.
            sr: SR images, (N, 3, H, W) RGB in [0, 1].
            hr: reference images, same shape.
            losses: name -> loss; those without a score are not monitored.

        Returns:
            New alarms; usually empty.

        Raises:
            HackingError: an alarm under ``action="stop"``.
        """
        alarms: list[Alarm] = []
        if self.due(iteration) and (len(sr) or world_size() > 1):
            check_pair(sr, hr)
            # A rank without images takes part in the means over ranks, with a black image that does not count.
            empty = len(sr) == 0
            x = sr.new_zeros((1, *sr.shape[1:])) if empty else sr[:IMAGES].detach()
            y = x if empty else hr[:IMAGES].detach()
            scores = {name: score for name, loss in losses.items() if (score := loss.scores(x, y)) is not None}
            gt_scores = {name: losses[name].scores(y, y) for name in scores}
            factors = {name: losses[name].schedule.ramp_factor(iteration) for name in scores}
            optimised = {name for loss in losses.values() for name in loss.optimises}
            # LPIPS compares features like those of DISTS.
            optimised |= {"dists" for name in optimised if "lpips" in name or "dists" in name}
            alarms = self.check(
                iteration, x, y, scores, gt_scores, ramp_factors=factors, optimised=optimised, counts=not empty
            )
        self.limit_weight(losses)
        return alarms

    def limit_weight(self, losses: Mapping[str, PairLoss]) -> None:
        """Apply the limits decided by alarms so far to the losses. ``step`` does it; call it after loading a state."""
        for name, loss in losses.items():
            loss.limit_weight(self._caps.get(name, 1.0), self._multipliers.get(name, 1.0))

    @torch.no_grad()
    def check(
        self,
        iteration: int,
        sr: Tensor,
        hr: Tensor,
        scores: Mapping[str, Tensor],
        gt_scores: Mapping[str, Tensor | None] | None = None,
        *,
        ramp_factors: Mapping[str, float] | None = None,
        optimised: Collection[str] = (),
        counts: bool = True,
    ) -> list[Alarm]:
        """One check, at any iteration; to be called directly for losses that are not of this package.

        Args:
            iteration: global iteration.
            sr: SR images, (N, 3, H, W) RGB in [0, 1].
            hr: reference images, same shape.
            scores: name of the loss -> (N,) scores of (sr, hr); higher is better.
            gt_scores: name -> (N,) scores of (hr, hr); 0 for a relative critic. Without them there is no ``over_gt``.
            ramp_factors: name -> ramp factor of the weight, in [0, 1]; a loss at 0 gets no alarm.
            optimised: measures that a loss optimises, left out in addition to ``off``.
            counts: False if this rank has no images and only takes part in the collective call.

        Returns:
            New alarms; none if a measure is NaN or infinite, which the losses report themselves.

        Raises:
            HackingError: an alarm under ``action="stop"``.
        """
        check_pair(sr, hr)
        self._last = as_int("iteration", iteration)
        x, y, off = sr[:IMAGES], hr[:IMAGES], {*self.off, *optimised}
        *found, self.worst = measure(x, y, scores, gt_scores or {}, off)
        measured, logged = (average_over_ranks(values, sr.device, counts=counts) for values in found)
        self.values = {}
        if not all(math.isfinite(value) for value in measured.values()):
            return []
        self._current = tuple(measured)
        for name, value in measured.items():
            self._smooth[name] = EMA * self._smooth.get(name, value) + (1 - EMA) * value
        self._move_anchors(iteration, list(scores))
        factors = dict.fromkeys(scores, 1.0) | dict(ramp_factors or {})
        alarms = [alarm for name in scores if (alarm := self._decide(name, iteration, factors[name]))]
        self.values = logged | self._summary(measured)
        for alarm in alarms:
            self.on_alarm(alarm)
        if alarms and self.action == "stop":
            raise HackingError(" ".join(str(alarm) for alarm in alarms))
        return alarms

    def _summary(self, measured: Mapping[str, float]) -> dict[str, float]:
        """The part of ``values`` that belongs to the decision: its measures, the weight and the alarm."""
        summary = {"hf": 2.0 ** (measured["hf_over"] - measured["hf_under"])} if "hf_over" in measured else {}
        for name, prefix in (("grid", "period_"), ("colour", "colour"), ("over_gt", "over_gt ")):
            if matching := [value for key, value in measured.items() if key.startswith(prefix)]:
                summary[name] = max(matching)
        if self.action == "halve":
            summary["weight"] = min(self._multipliers.values(), default=1.0)
        return summary | {"alarm": float(any(self._episodes.values()))}

    def _move_anchors(self, iteration: int, names: Sequence[str]) -> None:
        """Make this check the anchor of each measure that is at its best now; later checks are compared with it."""
        scores = {name: [self._smooth[f"score {name}"], self._smooth[f"spread {name}"]] for name in names}
        for key in (key for key in self._current if not key.startswith(("score ", "spread "))):
            value, anchor = self._smooth[key], self._anchors.get(key)
            if anchor is None or value <= anchor["value"]:
                self._anchors[key] = {"value": value, "iteration": iteration, "scores": dict(scores)}
            else:
                anchor["scores"] = scores | anchor["scores"]

    def _decide(self, name: str, iteration: int, ramp_factor: float) -> Alarm | None:
        """Count consecutive checks with and without evidence; one alarm per episode, at the ``patience``-th with it."""
        votes, rise, since, reasons = self._evidence(name)
        streak = self._streaks.get(name, 0)
        evident = votes >= VOTES and ramp_factor > 0
        self._streaks[name] = streak = max(streak, 0) + 1 if evident else min(streak, 0) - 1
        if streak <= -self.patience:
            self._episodes[name] = False
        if streak < self.patience or self._episodes.get(name, False):
            return None
        self._episodes[name] = True
        listed = reasons[0] if len(reasons) == 1 else f"{', '.join(reasons[:-1])} and {reasons[-1]}"
        reason = f"its score rose by {rise:.2g} since iteration {since} while {listed}"
        return Alarm(iteration, name, reason, self._act(name, ramp_factor))

    def _evidence(self, name: str) -> tuple[int, float, int, list[str]]:
        """Votes, the largest rise of the score, the iteration since when, and one reason per measure that got worse."""
        votes, largest, reasons = 0, (0.0, 0), []
        # Key of a measured value -> name of its limit.
        kinds = {m: m for m in LIMITS} | {f"over_gt {name}": "over_gt"}
        if patterns := [m for m in self._current if m.startswith("period_")]:
            kinds[max(patterns, key=self._worsening)] = "grid"
        for key, kind in ((key, kind) for key, kind in kinds.items() if key in self._current):
            limit, worse, anchor = self.limits[kind], self._worsening(key), self._anchors[key]
            score, spread = anchor["scores"][name]
            rise = self._smooth[f"score {name}"] - score
            if worse <= 0 or worse < limit or rise <= max(spread * (0 if kind == "dots" else RISE), 1e-6):
                continue
            votes += 2 if kind in DOUBLE and worse >= STRONG * limit else 1
            largest = max(largest, (rise, anchor["iteration"]))
            now, period = self._smooth[key], key.removeprefix("period_")
            values = {"times": 2**now, "fraction": 2**-now, "share": CLEAN * (2**now - 1)}
            reasons.append(LIMITS[kind][1].format(now=now, worse=worse, period=period, **values))
        return votes, *largest, reasons

    def _worsening(self, key: str) -> float:
        """How much worse a measure is than at its best."""
        return self._smooth[key] - self._anchors[key]["value"]

    def _act(self, name: str, ramp_factor: float) -> str:
        """Set the new limit of the weight, and describe it."""
        if self.action == "freeze_weight":
            self._caps[name] = min(self._caps.get(name, 1.0), ramp_factor)
            return f"Its weight stays at {self._caps[name]:.3g} times the full weight from now on."
        if self.action == "halve":
            self._multipliers[name] = self._multipliers.get(name, 1.0) / 2
            return f"Its weight is now multiplied by {self._multipliers[name]:.3g}."
        if self.action == "stop":
            return "Stopped before the optimizer step; lower the weight, or use form: hinge."
        return "Nothing was changed; look at the images, lower the weight, or use form: hinge."

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as numbers in dictionaries; a few kB."""
        state = {name: getattr(self, f"_{name}") for name in STATE}
        return copy.deepcopy({**state, "values": self.values})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            InputError: unknown or missing keys.
        """
        if differ := ", ".join(sorted(set(state) ^ {*STATE, "values"})):
            raise InputError(f"guard state: {differ} missing or unknown; it is of another version of this package.")
        for name in STATE:
            setattr(self, f"_{name}", copy.deepcopy(state[name]))
        self.values = dict(state["values"])


def _warn(alarm: Alarm) -> None:
    logger.warning("%s", alarm)
