"""Training of a critic on Hugging Face Accelerate: one CPU or GPU, several GPUs, float32 or bfloat16.

What Accelerate has is Accelerate's: devices, gradients between processes, loader shards, checkpoint content, trackers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from sr_perceptual_loss.checks import as_path
from sr_perceptual_loss.critics.registry import get_card
from sr_perceptual_loss.errors import InputError, InstallError, NonFiniteError
from sr_perceptual_loss.lab.evaluation.protocol import get_protocol
from sr_perceptual_loss.lab.training.checkpoints import Progress, newest, read_progress, save_atomically
from sr_perceptual_loss.lab.training.config import TrainingConfig
from sr_perceptual_loss.lab.training.history import History
from sr_perceptual_loss.lab.training.network import build_critic, set_train_mode, trainable
from sr_perceptual_loss.lab.training.objectives import objective
from sr_perceptual_loss.lab.training.plan import Plan, check_same_run, describe, make_plan, write_config
from sr_perceptual_loss.lab.training.reporting import Reporter
from sr_perceptual_loss.lab.training.samples import Batch, Samples, collate
from sr_perceptual_loss.lab.training.validation import summarise, validation_scores
from sr_perceptual_loss.weights import load_weights, save_weights

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What a training gave.

    Attributes:
        best: best validation value (``config.select``); NaN if there was none.
        best_step: step of it.
        steps: steps done in all.
        weights: file of the best weights.
    """

    best: float
    best_step: int
    steps: int
    weights: Path


def train(config: TrainingConfig, *, resume: bool = False, talk: bool = True) -> TrainingResult:
    """Train a critic; everything is written below ``config.out``.

    Args:
        config: the run.
        resume: go on from the newest state; the same losses as without the interruption.
        talk: print the plan and the progress on stderr.

    Returns:
        The best validation value and its weights.

    Raises:
        InputError: the data or the configuration cannot be; the folder holds another run.
        NonFiniteError: a loss or gradient is not finite; the batch is saved.
        InstallError: accelerate or scipy is missing.
    """
    try:
        import accelerate  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as error:
        raise InstallError(
            f"{error.name} is missing: pip install 'sr_perceptual_loss[train]' (accelerate, tensorboard, scipy)."
        ) from None
    with _random_state_kept():
        return _Training(config, resume=resume, talk=talk).run()


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Training seeds, and restores on resume, the global generators; the caller's are put back."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


class _Training:
    """One run; see :func:`train`."""

    def __init__(self, config: TrainingConfig, *, resume: bool, talk: bool) -> None:
        self.config, self.talk = config, talk
        self.accelerator = _accelerator(config)
        ranks = self.accelerator.num_processes
        if config.batch % ranks:
            raise InputError(f"batch: {config.batch} pairs cannot be shared out evenly over {ranks} processes.")
        self.main = self.accelerator.is_main_process
        self.state = newest(config.out)
        if self.state is not None and not resume:
            raise InputError(
                f"{config.out}: holds a training ({self.state.name}); add --resume, or choose another out."
            )
        self.resumed = self.state is not None
        check_same_run(config)
        # Typing errors come before backbones are fetched, which can take minutes.
        get_card(config.critic.name)
        if not as_path(config.data.root).exists():
            raise InputError(f"data.root: {config.data.root} does not exist; set it to the folder of the data set.")
        self.critic = build_critic(config.critic, seed=config.seed, precision=config.precision)
        self.plan = make_plan(config, self.critic)
        self.history = History(config.out / "history.jsonl", active=self.main)
        self.progress = Progress()
        self._prepare()

    def _prepare(self) -> None:
        config, plan = self.config, self.plan
        self.samples = Samples(
            plan.draws,
            seed=config.seed,
            side=plan.side,
            exact=self.critic.input_size.fixed is not None,
            resize_to=config.input.resize,
            flip=config.input.flip,
            cache=config.input.cache,
        )
        loader = torch.utils.data.DataLoader(
            self.samples, batch_size=config.batch, drop_last=True, num_workers=config.workers, collate_fn=collate
        )
        optimizer = _optimizer(config, trainable(self.critic))
        scheduler = _scheduler(config, optimizer, plan)
        self.model, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            self.critic, optimizer, loader, scheduler
        )
        self.protocol = get_protocol(config.validation.protocol)
        self.accelerator.register_save_state_pre_hook(self._write_critic)
        self.accelerator.register_load_state_pre_hook(self._read_critic)

    def _write_critic(self, models: list[Any], weights: list[Any], folder: str) -> None:
        """In our own format: Accelerate's cannot hold a module that has two names."""
        weights.clear()
        if self.main:
            save_weights(self.critic, Path(folder) / "critic.safetensors")

    def _read_critic(self, models: list[Any], folder: str) -> None:
        models.clear()
        load_weights(self.critic, Path(folder) / "critic.safetensors")

    def run(self) -> TrainingResult:
        """All epochs."""
        config, out = self.config, self.config.out
        if self.main:
            out.mkdir(parents=True, exist_ok=True)
            for left in out.glob(".*.tmp"):  # of a run that was killed while it wrote
                left.unlink()
            write_config(config)
        self.accelerator.wait_for_everyone()
        if self.state is not None:
            self.accelerator.load_state(str(self.state))
            self.progress = read_progress(self.state)
        self.history.cut_back(self.progress.step)
        self.accelerator.init_trackers("tensorboard")
        with Reporter(self.plan.steps, self.progress.step, active=self.main and self.talk) as self.reporter:
            self.reporter.say(describe(config, self.plan, self.critic, self.accelerator.num_processes))
            if self.resumed:
                self.reporter.say(f"goes on after step {self.progress.step}")
            while self.progress.epoch < config.epochs:
                self._epoch()
        self.accelerator.end_training()
        best = self.progress.best
        return TrainingResult(
            math.nan if best is None else best, self.progress.best_step, self.progress.step, out / "best.safetensors"
        )

    def _epoch(self) -> None:
        """The rest of the current epoch, its validation and its checkpoint."""
        config, progress = self.config, self.progress
        self.samples.choose_epoch(progress.epoch)
        set_train_mode(self.critic, config.critic)
        loader = self.loader
        if progress.batch:
            loader = self.accelerator.skip_first_batches(loader, progress.batch)
        for batch in loader:
            self._step(Batch(*batch))
            progress.batch += 1
            last = progress.batch == self.plan.steps_per_epoch
            if config.checkpoint.every and progress.step % config.checkpoint.every == 0 and not last:
                self._save()
        progress.epoch, progress.batch = progress.epoch + 1, 0
        if progress.epoch % config.validation.every == 0 or progress.epoch == config.epochs:
            self._validate()
        self._save()

    def _step(self, batch: Batch) -> None:
        """One optimizer step; nothing non-finite reaches the weights."""
        config = self.config
        # Dropout is a function of seed, step and process: a continued run needs no memory of the generators.
        torch.manual_seed((config.seed * 1_000_003 + self.progress.step) * 1_009 + self.accelerator.process_index)
        predictions = self.model(batch.judged, batch.reference)
        losses = objective(config.objective.loss, predictions, batch.label, delta=config.objective.delta)
        loss = losses.mean()
        # The mean over all processes: a NaN of one of them stops all of them at the same step.
        mean = float(self.accelerator.reduce(loss.detach(), reduction="mean"))
        if not math.isfinite(mean):
            self._stop(batch, losses, f"the loss is {mean}")
        self.accelerator.backward(loss)
        limit = config.optimizer.max_norm
        norm = float(self.accelerator.clip_grad_norm_(self.plan.trained, math.inf if limit is None else limit))
        if not math.isfinite(norm):
            self._stop(batch, losses, f"the loss is {mean:.4g} but the norm of its gradient {norm}")
        rate = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        step = self.progress.step
        self.reporter.step(step, f"epoch {self.progress.epoch + 1}, loss {mean:.4g}")
        if step % config.log_every == 0 or step == 1:
            values = {"train/loss": mean, "train/gradient_norm": norm, "train/lr": rate}
            self.accelerator.log(values, step=step)
            self.history.add(step, {"epoch": self.progress.epoch, "loss": mean, "gradient_norm": norm, "lr": rate})

    def _stop(self, batch: Batch, losses: Tensor, why: str) -> None:
        """Save the batch and raise, in every process: they all see the same mean, so they all come here."""
        from accelerate.utils import gather_object

        rank, step = self.accelerator.process_index, self.progress.step + 1
        own = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        guilty = [number for number, bad in gather_object([(rank, bool(own))]) if bad]
        if guilty and self.accelerator.num_processes > 1:
            why += f" because of process {', '.join(map(str, guilty))}"
        bad = own or ([] if guilty else list(range(len(losses))))
        self.config.out.mkdir(parents=True, exist_ok=True)
        path = self.config.out / f"bad_batch_step{step}_rank{rank}.safetensors"
        items = [self.plan.draws.draw(self.progress.epoch, int(i)) for i in batch.number]
        names = [{"judged": str(i.judged), "reference": str(i.reference), "label": i.label} for i in items]
        tensors = {name: value.detach().cpu().contiguous() for name, value in batch._asdict().items()}
        save_file(tensors, path, metadata={"items": json.dumps(names), "why": why})
        culprits = ", ".join(f"{items[n].judged.name} against {items[n].reference.name}" for n in bad[:3]) or "none"
        raise NonFiniteError(
            f"step {step}: {why}. Nothing of it reached the weights; the batch is saved as {path} (suspects on this "
            f"process: {culprits}). Look at it, lower optimizer.lr or set optimizer.max_norm, then go on with --resume."
        )

    def _validate(self) -> None:
        """Score the validation scenes, keep the best weights."""
        from accelerate.utils import gather_object

        config, plan = self.config, self.plan
        self.critic.eval()
        own = validation_scores(
            self.critic,
            plan.validation,
            self.protocol,
            seed=config.seed,
            crop=plan.validation_side,
            resize_to=config.input.resize,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
        )
        scores = [score for _, score in sorted(gather_object(own))]
        values = summarise(plan.validation, scores)
        value, step = values[config.select], self.progress.step
        self.accelerator.log({f"validation/{name}": v for name, v in values.items()}, step=step)
        self.history.add(step, {"epoch": self.progress.epoch, **values})
        better = math.isfinite(value) and (self.progress.best is None or value > self.progress.best)
        self.reporter.say(
            f"epoch {self.progress.epoch}/{config.epochs}: validation "
            + ", ".join(f"{name} {v:.4f}" for name, v in values.items())
            + (" (best so far)" if better else "")
        )
        if better:
            self.progress.best, self.progress.best_step = value, step
            if self.main:
                self._save_weights(values)
        self.accelerator.wait_for_everyone()

    def _save_weights(self, values: dict[str, float]) -> None:
        data = self.config.data
        summary: dict[str, Any] = {
            "scheme": self.config.scheme,
            "step": self.progress.step,
            "validation": {**values, "images": len(self.plan.validation), "protocol": self.protocol.name},
            "labels": self.plan.scale_note,
            "input": {"resize": self.config.input.resize, "crop": self.plan.side},
            "objective": self.config.objective.loss,
            "seed": self.config.seed,
        }
        save_weights(
            self.critic,
            self.config.out / "best.safetensors",
            training=json.dumps(summary),
            training_data=f"{data.dataset} ({len(self.plan.train_scenes)} scenes)",
            licence="that of its training data applies",
            origin="trained with srpl train",
        )

    def _save(self) -> None:
        save_atomically(
            self.config.out,
            self.progress,
            lambda folder: self.accelerator.save_state(str(folder)),
            main=self.main,
            wait=self.accelerator.wait_for_everyone,
        )


def _accelerator(config: TrainingConfig) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs

    return Accelerator(
        cpu=config.device == "cpu" or not torch.cuda.is_available(),
        log_with="tensorboard" if importlib.util.find_spec("tensorboard") else None,
        project_dir=str(config.out),
        # `batch` counts the pairs of all processes, so that their number does not change the training.
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        rng_types=[],
        # A critic of another size may have parts that never reach its score; DDP would wait for their gradients.
        kwargs_handlers=[DistributedDataParallelKwargs(static_graph=True)],
    )


def _optimizer(config: TrainingConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    chosen = config.optimizer
    return kinds[chosen.type](parameters, lr=chosen.lr, weight_decay=chosen.weight_decay)


def _scheduler(config: TrainingConfig, optimizer: torch.optim.Optimizer, plan: Plan) -> Any:
    """All are stepped per iteration."""
    schedules, chosen = torch.optim.lr_scheduler, config.schedule
    if chosen.type == "step":
        return schedules.StepLR(optimizer, chosen.step * plan.steps_per_epoch, chosen.gamma)
    if chosen.type == "cosine":
        return schedules.CosineAnnealingLR(optimizer, chosen.t_max or plan.steps)
    return schedules.ConstantLR(optimizer, factor=1.0)
