"""Training of rqi_lite: groups made on the fly, attacks in the loop, stops on time, goes on bit by bit.

Everything random is a function of (seed, step, purpose). Device and gradients are Accelerate's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from sr_perceptual_loss._checks import InputError, InstallError, NonFiniteError
from sr_perceptual_loss.critics.rqi_lite import RQILite
from sr_perceptual_loss.training.checkpoints import newest
from sr_perceptual_loss.training.history import History
from sr_perceptual_loss.training.lite.finishing import finish
from sr_perceptual_loss.training.lite.groups import Groups, GroupStream
from sr_perceptual_loss.training.lite.hardening import HONEST, Hardening
from sr_perceptual_loss.training.lite.judging import HeldOut, judge
from sr_perceptual_loss.training.lite.measures import full_reference
from sr_perceptual_loss.training.lite.objective import PairScores, augmented, gradient_l1, pair_loss
from sr_perceptual_loss.training.lite.preparing import Prepared, prepare
from sr_perceptual_loss.training.lite.settings import LiteConfig
from sr_perceptual_loss.training.lite.state import check_same_lite_run, read_state, write_lite_config, write_state
from sr_perceptual_loss.training.lite.versions import NETWORK
from sr_perceptual_loss.training.reporting import Reporter

__all__ = ["LiteResult", "train_lite"]

_AUGMENTATION = 7


@dataclass(frozen=True)
class LiteResult:
    """What a call gave.

    Attributes:
        steps: steps done in all.
        finished: whether the run is complete; otherwise --resume goes on.
        weights: file of the weights, or None before the end.
        srcc: rank correlation with the own labels on held-out photographs; NaN before the end.
    """

    steps: int
    finished: bool
    weights: Path | None
    srcc: float


def train_lite(
    config: LiteConfig, *, resume: bool = False, talk: bool = True, clock: Callable[[], float] = time.monotonic
) -> LiteResult:
    """Train rqi_lite; everything is written below ``config.out``.

    Args:
        config: the run.
        resume: go on from the newest state; the same weights as without the interruption.
        talk: print the plan and the progress on stderr.
        clock: seconds; for tests.

    Returns:
        Where the run stands.

    Raises:
        InputError: data or configuration cannot be; the folder holds another run.
        NonFiniteError: a loss or gradient is not finite.
        InstallError: accelerate or scipy is missing.
    """
    try:
        import accelerate  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as error:
        raise InstallError(f"{error.name} is missing: pip install 'sr_perceptual_loss[train]'.") from None
    with torch.random.fork_rng():
        return _LiteTraining(config, resume=resume, talk=talk, clock=clock).run()


class _LiteTraining:
    """One call; see :func:`train_lite`."""

    def __init__(self, config: LiteConfig, *, resume: bool, talk: bool, clock: Callable[[], float]) -> None:
        from accelerate import Accelerator

        self.config, self._clock, self._begun = config, clock, clock()
        self.accelerator = Accelerator(cpu=config.device == "cpu" or not torch.cuda.is_available())
        if self.accelerator.num_processes > 1:
            raise InputError("scheme synthetic trains in one process; start it without accelerate launch.")
        self.device: torch.device = self.accelerator.device
        self.found = newest(config.out)
        if self.found is not None and not resume:
            raise InputError(
                f"{config.out}: holds a training ({self.found.name}); add --resume, or choose another out."
            )
        check_same_lite_run(config)
        config.out.mkdir(parents=True, exist_ok=True)
        write_lite_config(config)
        self.reporter = Reporter(config.steps, 0, active=talk)
        self.data: Prepared = prepare(config, self.reporter)
        self._build()
        self.history = History(config.out / "history.jsonl", active=True)
        self.step = 0

    def _build(self) -> None:
        """Network, optimizer, average, attacks."""
        config = self.config
        torch.manual_seed(config.seed)
        self.critic = RQILite(**config.critic).eval()
        dtype = torch.bfloat16 if config.precision == "bf16" else None
        self.critic.autocast_dtype = dtype
        optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay
        )
        self.model, self.optimizer = self.accelerator.prepare(PairScores(self.critic, dtype), optimizer)
        self.average = AveragedModel(self.critic, multi_avg_fn=get_ema_multi_avg_fn(config.optimizer.average))
        side = min(config.groups.crop_sides)
        self.hardening = Hardening(
            self.critic, self.data.labels, config.attack, side=side, seed=config.seed, device=self.device
        )

    def run(self) -> LiteResult:
        """Steps until the end or the time is over."""
        config = self.config
        if self.found is not None:
            self.step, content = read_state(self.found)
            self._restore(content)
        self.history.cut_back(self.step)
        self.reporter = Reporter(config.steps, self.step, active=self.reporter.active)
        with self.reporter:
            self.reporter.say(self.data.describe(config, self.critic, str(self.device)))
            if self.step:
                self.reporter.say(f"goes on after step {self.step}")
            in_time = self._steps()
            self._save()
            if self.step < config.steps or not in_time:
                self.reporter.say(f"time is over after step {self.step} of {config.steps}; go on with --resume")
                return LiteResult(self.step, False, None, math.nan)
            report = finish(self._averaged(), config, self.data, self._held_out(), device=self.device, steps=self.step)
        weights = config.out / "rqi_lite.safetensors"
        return LiteResult(self.step, True, weights, float(report["judged"]["all"]["srcc"]))

    def _steps(self) -> bool:
        """All steps that the time allows; False if it is over."""
        config, data = self.config, self.data
        stream = GroupStream(
            data.train,
            config.groups,
            config.pairs,
            left_out=config.data.types_out,
            networks=HONEST if config.groups.networks > 0 else 0,
            seed=config.seed,
            steps=config.steps,
        )
        loader = DataLoader(
            stream,
            batch_size=None,
            sampler=range(self.step, config.steps),
            num_workers=config.workers,
            multiprocessing_context="spawn" if config.workers else None,
        )
        for groups in loader:
            if self._late():
                return False
            self._step(Groups(*groups))
            if self.step % config.validation.every == 0 and self.step < config.steps:
                self._judge()
            if self.step % config.checkpoint == 0 and self.step < config.steps:
                self._save()
        return not self._late()

    def _late(self) -> bool:
        return self.config.minutes is not None and self._clock() - self._begun > 60 * self.config.minutes

    def _rate(self) -> float:
        """Linear start, then half a cosine down to a hundredth."""
        chosen, done = self.config.optimizer, (self.step + 1) / self.config.steps
        start = min(1.0, (self.step + 1) / max(1, chosen.warmup))
        return chosen.lr * start * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def _step(self, groups: Groups) -> None:
        """One optimizer step on groups and pool, then the attacks of this step."""
        config = self.config
        images, labels = self._labelled(groups)
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + self.step) * 31 + _AUGMENTATION)
        seen = augmented(images, config.attack, generator).flatten(0, 1)
        pairs = groups.pairs.to(self.device)
        wanted = labels.flatten()[pairs[:, 0]] - labels.flatten()[pairs[:, 1]]
        terms = pair_loss(self.model(seen, pairs), wanted, groups.same.to(self.device), config.objective)
        terms |= self._hard_terms(images)
        loss = torch.stack(list(terms.values())).sum()
        if not math.isfinite(float(loss.detach())):
            self._stop(f"the loss is {float(loss.detach())}")
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.accelerator.backward(loss)
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), config.optimizer.max_norm))
        if not math.isfinite(norm):
            self._stop(f"the norm of the gradient is {norm}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.critic)
        self.step += 1
        if config.groups.networks > 0 or self.hardening.config.networks:
            self.hardening.teach(self.step, images[:, 0])
        attacks = self.hardening.attack(self.step, images, labels)
        self._tell(terms, norm, attacks)

    def _hard_terms(self, images: Tensor) -> dict[str, Tensor]:
        """Losses on the pool and on the gradient, where this step has them."""
        attack, found = self.config.attack, {}
        drawn = self.hardening.draw(self.step)
        if drawn is not None:
            attacked, references, labels = drawn
            pairs = torch.arange(2 * len(labels), device=self.device).view(2, -1).t()
            scores = self.model(torch.cat([attacked, references]), pairs)
            never = torch.zeros(len(labels), dtype=torch.bool, device=self.device)
            terms = pair_loss(scores, labels, never, self.config.objective)
            found["pool"] = attack.weight * (terms["huber"] + terms["ranking"])
        if attack.penalty > 0 and self.step >= attack.start and self.step % attack.penalty_every == 0:
            gt = images[:, 0]
            found["penalty"] = attack.penalty * gradient_l1(self.model, images[:, 1], gt)
        return found

    def _labelled(self, groups: Groups) -> tuple[Tensor, Tensor]:
        """Images on the device with the networks' versions filled in, and the labels (G, M) of all."""
        images = groups.images.to(self.device)
        count, versions = images.shape[:2]
        fused_bicubic = [math.nan] * (count * versions)
        wanted = groups.recipes[..., 0] == NETWORK
        for number in groups.recipes[wanted][:, 1].unique().tolist():
            g, v = (wanted & (groups.recipes[..., 1] == number)).nonzero().unbind(1)
            gt = images[g, 0]
            images[g, v] = self.hardening.honest_output(number, gt)
            for place, value in zip((g * versions + v).tolist(), self.data.fused_bicubic(gt), strict=True):
                fused_bicubic[place] = value
        references = images[:, :1].expand_as(images).flatten(0, 1)
        measures = full_reference(images.flatten(0, 1), references)
        assert self.data.labels.fusion is not None
        rows = zip(self.data.labels.fusion(measures), measures[:, -1].tolist(), fused_bicubic, strict=True)
        values = [self.data.labels.of(groups.recipe(k), *row) for k, row in enumerate(rows)]
        return images, torch.tensor(values, device=self.device).view(count, versions)

    def _tell(self, terms: dict[str, Tensor], norm: float, attacks: dict[str, float]) -> None:
        """Log entry and progress."""
        values = {name: float(term.detach()) for name, term in terms.items()}
        values |= {f"above_label/{name}": value for name, value in attacks.items()}
        total = sum(float(term.detach()) for term in terms.values())
        self.reporter.step(self.step, f"loss {total:.4f}")
        if self.step % self.config.log_every == 0 or self.step == 1:
            values |= {"loss": total, "gradient_norm": norm, "pool_size": float(len(self.hardening.pool))}
            self.history.add(self.step, values)

    def _stop(self, why: str) -> None:
        raise NonFiniteError(
            f"step {self.step}: {why}. Nothing of it reached the weights; the step's images are a function of seed "
            f"{self.config.seed} and this step. Lower optimizer.lr, then go on with --resume."
        )

    def _averaged(self) -> RQILite:
        assert isinstance(self.average.module, RQILite)
        return self.average.module

    def _held_out(self) -> HeldOut:
        return self.data.held_out(self.config)

    def _judge(self) -> None:
        found = judge(self._averaged(), self._held_out(), left_out=self.config.data.types_out, device=self.device)
        self.history.add(self.step, {"judged": found})
        self.reporter.say(f"step {self.step}: " + json.dumps({k: v.get("srcc", v) for k, v in found.items()}))

    def _save(self) -> None:
        content = {
            "critic": self.critic.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hardening": self.hardening.state_dict(),
        }
        write_state(self.config.out, self.step, content)

    def _restore(self, content: dict[str, Any]) -> None:
        self.critic.load_state_dict(content["critic"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.hardening.load_state_dict(content["hardening"])
