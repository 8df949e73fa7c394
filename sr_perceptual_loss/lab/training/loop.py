"""Training of a critic on Hugging Face Accelerate: one CPU or GPU, several GPUs, float32 or bfloat16.

Accelerate does devices, gradients between processes, loader shards, the content of states, and TensorBoard.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, gather_object
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import lr_scheduler
from tqdm import tqdm

from sr_perceptual_loss.critics.registry import get_card
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.lab.evaluation.protocol import get_protocol
from sr_perceptual_loss.lab.training import run_folder
from sr_perceptual_loss.lab.training.config import TrainingConfig
from sr_perceptual_loss.lab.training.network import build_critic, set_train_mode, trainable
from sr_perceptual_loss.lab.training.plan import describe, make_plan
from sr_perceptual_loss.lab.training.samples import Batch, Samples, collate
from sr_perceptual_loss.lab.training.validation import summarise, validation_scores
from sr_perceptual_loss.weights import load_weights, save_weights

__all__ = ["objective", "train"]


def objective(loss: str, predictions: Tensor, labels: Tensor, *, delta: float = 1.0) -> Tensor:
    """l1: |d|. l2: d^2. huber: d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2). d = prediction - label, (N,).

    Source: RQI supplement, table 2 (Huber against L1 and L2); Efficient-PBAN, equation (11) (squared error).
    """
    if loss == "huber":
        return F.huber_loss(predictions, labels, reduction="none", delta=delta)
    function = {"l1": F.l1_loss, "l2": F.mse_loss}[loss]
    return function(predictions, labels, reduction="none")


def train(config: TrainingConfig, *, resume: bool = False, verbose: bool = True) -> run_folder.Progress:
    """Train a critic; everything is written below ``config.out``, the best weights as ``best.safetensors``.

    ``resume`` continues from the newest state; the losses are those of a run without the interruption. ``verbose``
    prints the plan and the progress on stderr.

    Raises:
        InputError: the data or the configuration are wrong, or the folder contains another run.
        NonFiniteError: a loss or gradient is not finite; the batch is saved.
    """
    with _random_state_restored():
        return _Training(config, resume=resume, verbose=verbose).run()


@contextlib.contextmanager
def _random_state_restored() -> Iterator[None]:
    """Training seeds, and restores on resume, the global generators; those of the caller come back afterwards."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


class _Training:
    """One run; see :func:`train`."""

    def __init__(self, config: TrainingConfig, *, resume: bool, verbose: bool) -> None:
        self.config = config
        self.accelerator = _accelerator(config)
        self.main = self.accelerator.is_main_process
        self.verbose = verbose and self.main
        ranks = self.accelerator.num_processes
        if config.batch % ranks:
            raise InputError(f"batch: {config.batch} pairs cannot be divided by {ranks} processes.")
        self.state = run_folder.newest_state(config.out)
        if self.state is not None and not resume:
            raise InputError(f"{config.out}: contains a training ({self.state.name}); add --resume or change out.")
        run_folder.check_same_run(config)
        # Misspelt names are reported before backbones are downloaded, which can take minutes.
        get_card(config.critic.name)
        if not config.data.root.exists():
            raise InputError(f"data.root: {config.data.root} does not exist; set it to the folder of the data set.")
        self.protocol = get_protocol(config.validation.protocol)
        self.critic = build_critic(config.critic, seed=config.seed, precision=config.precision)
        self.plan = make_plan(config, self.critic)
        self.history = run_folder.History(config.out / "history.jsonl")
        self.progress = run_folder.Progress()
        self._prepare()

    def _prepare(self) -> None:
        config = self.config
        exact = self.critic.input_size.fixed is not None
        self.samples = Samples(self.plan.pairs, config.input, seed=config.seed, side=self.plan.side, exact=exact)
        loader = torch.utils.data.DataLoader(
            self.samples, batch_size=config.batch, drop_last=True, num_workers=config.workers, collate_fn=collate
        )
        self.trained = trainable(self.critic)
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        optimizer = kinds[config.optimizer.type](
            self.trained, lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay
        )
        scheduler = _scheduler(config, optimizer, self.plan.steps_per_epoch)
        self.model, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            self.critic, optimizer, loader, scheduler
        )
        self.accelerator.register_save_state_pre_hook(self._write_critic)
        self.accelerator.register_load_state_pre_hook(self._read_critic)

    def _write_critic(self, models: list[Any], weights: list[Any], folder: str) -> None:
        """In the format of our weights files: that of Accelerate cannot store a module that has two names."""
        weights.clear()
        if self.main:
            save_weights(self.critic, Path(folder) / "critic.safetensors")

    def _read_critic(self, models: list[Any], folder: str) -> None:
        models.clear()
        load_weights(self.critic, Path(folder) / "critic.safetensors")

    def run(self) -> run_folder.Progress:
        """All epochs."""
        config, out = self.config, self.config.out
        if self.main:
            out.mkdir(parents=True, exist_ok=True)
            run_folder.remove_leftovers(out)
            run_folder.write_config(config)
        self.accelerator.wait_for_everyone()
        if self.state is not None:
            self.accelerator.load_state(str(self.state))
            self.progress = run_folder.read_progress(self.state)
        if self.main:
            self.history.cut_back(self.progress.step)
        self.accelerator.init_trackers("tensorboard")
        total, done = self.plan.steps_per_epoch * config.epochs, self.progress.step
        pause = 0.2 if sys.stderr.isatty() else 30.0  # seconds between two updates
        with tqdm(
            total=total, initial=done, disable=not self.verbose, mininterval=pause, maxinterval=pause, unit="step"
        ) as self.bar:
            self._print(describe(config, self.plan, self.critic, self.accelerator.num_processes))
            if self.state is not None:
                self._print(f"continues after step {done}")
            while self.progress.epoch < config.epochs:
                self._epoch()
        self.accelerator.end_training()
        return self.progress

    def _epoch(self) -> None:
        """The rest of the current epoch, its validation and its state."""
        config, progress = self.config, self.progress
        self.samples.choose_epoch(progress.epoch)
        set_train_mode(self.critic)
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
        predictions = self.model(batch.image, batch.reference)
        losses = objective(config.objective.loss, predictions, batch.label, delta=config.objective.delta)
        loss = losses.mean()
        # The mean over all processes: a NaN of one of them stops all of them at the same step.
        mean = float(self.accelerator.reduce(loss.detach(), reduction="mean"))
        if not math.isfinite(mean):
            self._stop(batch, losses, f"the loss is {mean}")
        self.accelerator.backward(loss)
        limit = math.inf if config.optimizer.max_norm is None else config.optimizer.max_norm
        norm = float(self.accelerator.clip_grad_norm_(self.trained, limit))
        if not math.isfinite(norm):
            self._stop(batch, losses, f"the loss is {mean:.4g} but the norm of its gradient {norm}")
        rate = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.bar.set_postfix_str(f"epoch {self.progress.epoch + 1}, loss {mean:.4g}", refresh=False)
        self.bar.update()
        if self.progress.step % config.log_every == 0 or self.progress.step == 1:
            self._log("train", {"loss": mean, "gradient_norm": norm, "lr": rate})

    def _stop(self, batch: Batch, losses: Tensor, reason: str) -> None:
        """Save the batch and raise, in every process: they all see the same mean, so they all come here."""
        rank, step = self.accelerator.process_index, self.progress.step + 1
        bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        bad_ranks = [number for number, is_bad in gather_object([(rank, bool(bad))]) if is_bad]
        if bad_ranks and self.accelerator.num_processes > 1:
            reason += f" because of process {', '.join(map(str, bad_ranks))}"
        self.config.out.mkdir(parents=True, exist_ok=True)
        path = self.config.out / f"bad_batch_step{step}_rank{rank}.safetensors"
        pairs = [self.plan.pairs.pair(self.progress.epoch, int(i)) for i in batch.pair_index]
        files = [{"image": str(p.image), "reference": str(p.reference), "label": p.label} for p in pairs]
        tensors = {name: value.detach().cpu().contiguous() for name, value in batch._asdict().items()}
        save_file(tensors, path, metadata={"items": json.dumps(files), "reason": reason})
        # Without a bad loss anywhere (only the gradient is bad), every pair is a suspect.
        suspects = [pairs[i] for i in bad] if bad_ranks else pairs
        names = ", ".join(f"{p.image.name} against {p.reference.name}" for p in suspects[:3]) or "none"
        raise NonFiniteError(
            f"step {step}: {reason}. The weights have not changed; the batch is saved as {path} (suspects on this "
            f"process: {names}). Look at it, lower optimizer.lr or set optimizer.max_norm, then continue with --resume."
        )

    def _validate(self) -> None:
        """Score the validation contents, keep the best weights."""
        self.critic.eval()
        scores = validation_scores(
            self.critic,
            self.plan.validation,
            self.protocol,
            seed=self.config.seed,
            crop=self.plan.validation_side,
            resize_to=self.config.input.resize,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
        )
        values = summarise(self.plan.validation, [score for _, score in sorted(gather_object(scores))])
        self._log("validation", values)
        value, progress = values[self.config.select], self.progress
        better = math.isfinite(value) and (progress.best is None or value > progress.best)
        self._print(
            f"epoch {progress.epoch}/{self.config.epochs}: validation "
            + ", ".join(f"{name} {v:.4f}" for name, v in values.items())
            + (" (best so far)" if better else "")
        )
        if better:
            progress.best, progress.best_step = value, progress.step
            if self.main:
                self._save_weights(values)
        self.accelerator.wait_for_everyone()

    def _save_weights(self, values: dict[str, float]) -> None:
        config, plan = self.config, self.plan
        summary: dict[str, Any] = {
            "scheme": config.scheme,
            "step": self.progress.step,
            "validation": {**values, "images": len(plan.validation), "protocol": self.protocol.name},
            "labels": plan.scale,
            "input": {"resize": config.input.resize, "crop": plan.side},
            "objective": config.objective.loss,
            "seed": config.seed,
        }
        save_weights(
            self.critic,
            config.out / "best.safetensors",
            training=json.dumps(summary),
            training_data=f"{config.data.dataset} ({plan.train_contents} contents)",
            licence="that of its training data applies",
            origin="trained with srpl train",
        )

    def _save(self) -> None:
        run_folder.save_state(
            self.config.out,
            self.progress,
            lambda folder: self.accelerator.save_state(str(folder)),
            main=self.main,
            wait=self.accelerator.wait_for_everyone,
        )

    def _log(self, kind: str, values: dict[str, float]) -> None:
        step = self.progress.step
        self.accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)
        if self.main:
            self.history.add(step, {"epoch": self.progress.epoch, **values})

    def _print(self, text: str) -> None:
        if self.verbose:
            tqdm.write(text, file=sys.stderr)


def _accelerator(config: TrainingConfig) -> Accelerator:
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


def _scheduler(config: TrainingConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
    """Stepped per iteration."""
    schedule = config.schedule
    if schedule.type == "step":
        return lr_scheduler.StepLR(optimizer, schedule.step * steps_per_epoch, schedule.gamma)
    if schedule.type == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, schedule.t_max or steps_per_epoch * config.epochs)
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)
