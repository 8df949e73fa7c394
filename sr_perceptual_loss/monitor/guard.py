"""HackingGuard: does the critic's score rise because the pictures get better, or because the network fools the critic?

Every K iterations the critic's own score is compared with measures outside the loss (``guard_measures.py``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sr_perceptual_loss.checks import as_float, as_int, check_choice, check_known_keys, check_pair
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.distributed import world_size
from sr_perceptual_loss.monitor.measures import FIDELITY, appearance, fidelity, mean_over_ranks, opinions

__all__ = ["Alarm", "HackingError", "HackingGuard"]

logger = logging.getLogger("sr_perceptual_loss")

ACTIONS = ("warn", "freeze_weight", "halve", "stop")
#: Times its limit at which a measure of appearance counts twice.
STRONG = 1.5
STATE = ("checks", "last", "smooth", "anchors", "streaks", "quiet", "episodes", "caps", "multipliers", "alarms")


class HackingError(RuntimeError):
    """The guard stopped the run before the optimizer step; the message says why."""


@dataclass(frozen=True)
class Alarm:
    """What the guard saw.

    Attributes:
        iteration: global iteration of the check.
        loss: name of the loss whose critic is exploited.
        reason: what rose and what fell, in words.
        action: what the guard did about it.
    """

    iteration: int
    loss: str
    reason: str
    action: str

    def __str__(self) -> str:
        """One sentence for a log."""
        return f"iteration {self.iteration}: the network seems to exploit '{self.loss}': {self.reason}. {self.action}"


class HackingGuard:
    """Alarm where score(now) - score(then) > rise * sd while at least ``votes`` measures got worse since then.

    "Then" is, for each measure, the check at which it was best, so that training from scratch, fine-tuning, and a
    critic that starts late need no other settings. Everything is smoothed over checks. One alarm per episode: the next
    one only after the signs were gone for ``patience`` checks. Costs nothing but every K-th iteration, keeps no graph.

    Args:
        every: K; the check happens at the first call at or after each multiple of it, and at the very first call.
        action: ``warn`` calls ``on_alarm``; ``freeze_weight`` keeps the weight from rising further along its ramp
            (without a ramp it does no more than warn); ``halve`` halves the weight, once per episode; ``stop`` raises
            :class:`HackingError`. All of them call ``on_alarm``.
        patience: consecutive checks that must agree.
        votes: how many measures must be worse. Excess high-frequency energy and patterns, which no honest progress
            brings, count twice at 1.5 times their limit.
        ema: share of the past in the smoothed values, in [0, 1).
        rise: the least rise of a score, in standard deviations of the score over images.
        psnr_drop: fall that counts, in dB.
        ssim_drop: fall that counts.
        haarpsi_drop: fall that counts.
        tolerance: factor on these three. Adversarial training trades fidelity for texture: our GAN models use 3.
        hf_excess: high-frequency energy counts beyond this multiple of that of the reference (and below half of its
            best so far).
        grid: pattern that counts: root mean square in 8-bit levels beyond what the reference has.
        over_gt: rise of the share of images that score above their reference.
        periods: of patterns, in pixels.
        images: at most so many of a batch are looked at.
        skip: measures not to use (``psnr``, ``ssim``, ``haarpsi``), because they are in the loss; those of losses given
            to ``step`` are known.
        on_alarm: called with each :class:`Alarm`; by default the package's logger warns.

    Raises:
        InputError: at construction.
    """

    def __init__(
        self,
        *,
        every: int = 100,
        action: str = "warn",
        patience: int = 2,
        votes: int = 2,
        ema: float = 0.5,
        rise: float = 0.5,
        psnr_drop: float = 1.0,
        ssim_drop: float = 0.03,
        haarpsi_drop: float = 0.03,
        tolerance: float = 1.0,
        hf_excess: float = 1.3,
        grid: float = 1.0,
        over_gt: float = 0.5,
        periods: Sequence[int] = (2, 3, 4, 8),
        images: int = 16,
        skip: Sequence[str] = (),
        on_alarm: Callable[[Alarm], None] | None = None,
    ) -> None:
        self.every = as_int("guard.every", every, minimum=1)
        self.action = check_choice("guard.action", action, ACTIONS)
        self.patience = as_int("guard.patience", patience, minimum=1)
        self.votes = as_int("guard.votes", votes, minimum=1)
        self.ema = as_float("guard.ema", ema, minimum=0, maximum=0.999)
        self.rise = as_float("guard.rise", rise, minimum=0)
        self.images = as_int("guard.images", images, minimum=1)
        self.periods = tuple(as_int("guard.periods", p, minimum=2) for p in periods)
        self.skip = tuple(check_choice("guard.skip", name, FIDELITY) for name in skip)
        self.on_alarm = on_alarm or (lambda alarm: logger.warning("%s", alarm))
        scale = as_float("guard.tolerance", tolerance, minimum=0)
        #: How much worse a measure must get to count.
        self.limits = {
            "psnr": scale * as_float("guard.psnr_drop", psnr_drop, minimum=0),
            "ssim": scale * as_float("guard.ssim_drop", ssim_drop, minimum=0),
            "haarpsi": scale * as_float("guard.haarpsi_drop", haarpsi_drop, minimum=0),
            "hf_over": math.log2(as_float("guard.hf_excess", hf_excess, minimum=1)),
            "hf_under": 1.0,
            "grid": as_float("guard.grid", grid, minimum=0),
            "over_gt": as_float("guard.over_gt", over_gt, minimum=0, maximum=1),
        }
        #: Values of the last check, for logs; see ``logs``.
        self.values: dict[str, float] = {}
        self._start()

    def _start(self) -> None:
        self._checks, self._alarms = 0, 0
        self._last: int | None = None
        # Everything smoothed, by name; measures are kept as badness (lower is better).
        self._smooth: dict[str, float] = {}
        # measure -> its best value, when, and the scores (mean, sd) of that check.
        self._anchors: dict[str, dict[str, Any]] = {}
        self._streaks: dict[str, int] = {}
        self._quiet: dict[str, int] = {}
        self._episodes: dict[str, bool] = {}
        self._caps: dict[str, float] = {}
        self._multipliers: dict[str, float] = {}

    def due(self, iteration: int) -> bool:
        """Whether this iteration is one to check; calling twice in one iteration checks once."""
        return self._last is None or iteration // self.every > self._last // self.every

    def step(self, iteration: int, sr: Tensor, hr: Tensor, losses: Mapping[str, PairLoss]) -> list[Alarm]:
        """Look at the losses' own scores where this iteration is due; limit_weight losses. Call it before the losses.

        Args:
            iteration: global iteration, as told to ``loss.step``.
            sr: output of the network, (N, 3, H, W) RGB in [0, 1].
            hr: reference, same shape.
            losses: name -> loss; those without a score are left alone.

        Returns:
            New alarms, mostly none.

        Raises:
            HackingError: an alarm under ``action="stop"``.
        """
        alarms: list[Alarm] = []
        if self.due(iteration) and (len(sr) or world_size() > 1):
            a, b = sr[: self.images].detach(), hr[: self.images].detach()
            if len(sr) == 0:
                # The other ranks wait for this one: a black picture stands in, and counts nothing.
                a = b = sr.detach().new_zeros((1, *sr.shape[1:]))
            scores = {name: score for name, loss in losses.items() if (score := loss.scores(a, b)) is not None}
            ceilings = {name: losses[name].scores(b, b) for name in scores}
            heights = {name: losses[name].schedule.ramp_factor(iteration) for name in scores}
            known = {measure for loss in losses.values() for measure in loss.optimises}
            weight = float(len(sr) > 0)
            alarms = self.check(iteration, a, b, scores, ceilings, heights=heights, skip=known, weight=weight)
        self.limit_weight(losses)
        return alarms

    def limit_weight(self, losses: Mapping[str, PairLoss]) -> None:
        """Hand on to the losses what alarms have decided so far; needed by itself only after loading a state."""
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
        heights: Mapping[str, float] | None = None,
        skip: Sequence[str] | set[str] = (),
        weight: float = 1.0,
    ) -> list[Alarm]:
        """One check, whatever the iteration; the form for losses that are not of this package.

        Args:
            iteration: global iteration.
            sr: output of the network, (N, 3, H, W) RGB in [0, 1].
            hr: reference, same shape.
            scores: name -> (N,) scores of (sr, hr); higher is better.
            gt_scores: name -> (N,) scores of (hr, hr); 0 for a relative critic. Without them there is no ``over_gt``.
            heights: name -> where on its ramp the weight is, in [0, 1]; at 0 the loss cannot be at fault.
            skip: measures that are in the loss.
            weight: of this rank in the means over ranks.

        Returns:
            New alarms. A check that meets NaN or infinity is left out; the losses will say so themselves.

        Raises:
            HackingError: an alarm under ``action="stop"``.
        """
        check_pair(sr, hr)
        self._last = as_int("iteration", iteration)
        x, y = sr[: self.images].detach(), hr[: self.images].detach()
        faithful = fidelity(x, y, [n for n in FIDELITY if n not in {*self.skip, *skip}])
        found = {name: -gain for name, (_, gain) in faithful.items()}
        found |= {f"value {name}": value for name, (value, _) in faithful.items()}
        found |= appearance(x, y, self.periods) | opinions(scores, gt_scores or {})
        found["value overshoot"] = float(((x < 0) | (x > 1)).float().mean())
        found = mean_over_ranks(found, sr.device, weight)
        if not all(math.isfinite(value) for value in found.values()):
            return []
        self._checks += 1
        self.values = self._shown(found)
        for name, value in found.items():
            past = self._smooth.get(name, value)
            self._smooth[name] = self.ema * past + (1 - self.ema) * value
        self._move_anchors(iteration, list(scores))
        heights = heights or {}
        alarms = [a for name in scores if (a := self._judge(name, iteration, heights.get(name, 1.0))) is not None]
        self._alarms += len(alarms)
        for alarm in alarms:
            self.on_alarm(alarm)
        if alarms and self.action == "stop":
            raise HackingError(" ".join(str(alarm) for alarm in alarms))
        return alarms

    @staticmethod
    def _shown(found: Mapping[str, float]) -> dict[str, float]:
        shown = {name: found[f"value {name}"] for name in FIDELITY if name in found}
        shown["overshoot"] = found["value overshoot"]
        shown["hf"] = 2.0 ** (found["hf_over"] - found["hf_under"])
        shown["grid"] = max((v for k, v in found.items() if k.startswith("period_")), default=0.0)
        shown["over_gt"] = max((v for k, v in found.items() if k.startswith("over_gt ")), default=0.0)
        return shown

    def _move_anchors(self, iteration: int, names: Sequence[str]) -> None:
        """Where a measure is at its best, this check is what later ones are compared with."""
        scores = {name: [self._smooth[f"score {name}"], self._smooth[f"spread {name}"]] for name in names}
        for measure, value in self._smooth.items():
            if measure.startswith(("score ", "spread ", "value ")):
                continue
            anchor = self._anchors.get(measure)
            if anchor is None or value <= anchor["value"]:
                self._anchors[measure] = {"value": value, "iteration": iteration, "scores": dict(scores)}
            else:
                for name, pair in scores.items():
                    anchor["scores"].setdefault(name, pair)

    def _worse(self, measure: str, name: str, limit: float) -> tuple[float, float, int] | None:
        """(how many limits worse, rise of the score, since when), or None if this measure speaks for no hacking."""
        anchor = self._anchors.get(measure)
        if anchor is None:
            return None
        score, spread = anchor["scores"][name]
        rise = self._smooth[f"score {name}"] - score
        loss = self._smooth[measure] - anchor["value"]
        if loss <= 0 or loss < limit or rise <= max(self.rise * spread, 1e-6):
            return None
        return loss / max(limit, 1e-12), rise, anchor["iteration"]

    def _judge(self, name: str, iteration: int, height: float) -> Alarm | None:
        votes, rise, since, words = self._evidence(name)
        if votes < self.votes or height == 0:
            self._streaks[name] = 0
            self._quiet[name] = self._quiet.get(name, 0) + 1
            if self._quiet[name] >= self.patience:
                self._episodes[name] = False
            return None
        self._quiet[name] = 0
        self._streaks[name] = self._streaks.get(name, 0) + 1
        if self._streaks[name] < self.patience or self._episodes.get(name, False):
            return None
        self._episodes[name] = True
        reason = f"its score rose by {rise:.2g} since iteration {since} while {_listed(words)}"
        return Alarm(iteration, name, reason, self._act(name, height))

    def _evidence(self, name: str) -> tuple[int, float, int, list[str]]:
        """Votes, the largest rise of the score and its start, and the words."""
        votes, best, words = 0, (0.0, 0), []
        periods = [m for m in (f"period_{p}" for p in self.periods) if m in self._smooth]
        strongest = max(periods, key=lambda m: self._smooth[m] - self._anchors[m]["value"], default=None)
        measures = {m: m for m in (*FIDELITY, "hf_over", "hf_under")}
        measures |= {f"over_gt {name}": "over_gt"} | ({strongest: "grid"} if strongest else {})
        for measure, kind in measures.items():
            seen = self._worse(measure, name, self.limits[kind])
            if seen is None:
                continue
            degree, rise, since = seen
            votes += 2 if degree >= STRONG and kind in ("hf_over", "grid") else 1
            best = max(best, (rise, since))
            words.append(self._words(measure, kind))
        return votes, *best, words

    def _words(self, measure: str, kind: str) -> str:
        now = self._smooth[measure]
        loss = now - self._anchors[measure]["value"]
        if kind == "psnr":
            return f"PSNR fell by {loss:.1f} dB"
        if kind in FIDELITY:
            return f"{ {'ssim': 'SSIM', 'haarpsi': 'HaarPSI'}[kind] } fell by {loss:.3f}"
        if kind == "over_gt":
            return f"{100 * now:.0f} % of the images scored above their ground truth"
        if kind == "grid":
            return f"a pattern of period {measure.split('_')[1]} appeared ({now:.1f} of 255 levels)"
        return f"high-frequency energy became {2 ** (now if kind == 'hf_over' else -now):.2g} times that of the GT"

    def _act(self, name: str, height: float) -> str:
        if self.action == "freeze_weight":
            self._caps[name] = min(self._caps.get(name, 1.0), height)
            return f"Its weight stays at {self._caps[name]:.3g} of the full one from now on."
        if self.action == "halve":
            self._multipliers[name] = self._multipliers.get(name, 1.0) / 2
            return f"Its weight is now multiplied by {self._multipliers[name]:.3g}."
        if self.action == "stop":
            return "Stopped before the optimizer step; lower the weight, or use form: hinge."
        return "Nothing was changed; look at the pictures, lower the weight, or use form: hinge."

    def logs(self) -> dict[str, float]:
        """Plain numbers of the last check, under the same keys in every step; zeros before the first.

        Returns:
            ``guard_psnr``, ``guard_ssim``, ``guard_haarpsi`` (but those in ``skip``), ``guard_hf`` (ratio to the GT),
            ``guard_grid`` (8-bit levels), ``guard_over_gt`` (share), ``guard_overshoot`` (share of the values of the
            output outside of [0, 1]), ``guard_alarm`` (1 during an episode), and for ``halve`` ``guard_weight``
            (smallest multiplier of a loss).
        """
        shown = [*(name for name in FIDELITY if name not in self.skip), "hf", "grid", "over_gt", "overshoot"]
        found = {f"guard_{key}": self.values.get(key, 0.0) for key in shown}
        if self.action == "halve":
            found["guard_weight"] = min(self._multipliers.values(), default=1.0)
        found["guard_alarm"] = float(any(self._episodes.values()))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs: plain numbers in dictionaries, a few kB."""
        plain = {name: getattr(self, f"_{name}") for name in STATE}
        plain["anchors"] = {m: {**a, "scores": {n: list(p) for n, p in a["scores"].items()}}
                            for m, a in self._anchors.items()}  # fmt: skip
        state = {name: dict(value) if isinstance(value, dict) else value for name, value in plain.items()}
        return {**state, "values": dict(self.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            InputError: unknown or missing keys.
        """
        known = (*STATE, "values")
        check_known_keys("guard state", state, known)
        missing = [name for name in known if name not in state]
        if missing:
            raise InputError(f"guard state: {', '.join(missing)} missing; it is of another version of this package.")
        for name in STATE:
            value = state[name]
            setattr(self, f"_{name}", dict(value) if isinstance(value, Mapping) else value)
        self.values = dict(state["values"])


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
