"""Gradient norms of the losses of a BasicSR YAML, on a few batches of its own data and network: ``srpl probe``."""

from __future__ import annotations

import itertools
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.models.esrgan_model import ESRGANModel
from basicsr.utils.options import parse_options
from torch import Tensor, nn

from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.integrations.basicsr.losses import GAN_SHARE, LossList, named_losses
from sr_perceptual_loss.integrations.basicsr.projects import ensure_model
from sr_perceptual_loss.integrations.host import HostLoss
from sr_perceptual_loss.monitor.probe import PairFunction, ProbeReport, probe

__all__ = ["losses_of", "probe_model", "probe_yaml"]

#: Slot in the YAML -> name in the log.
SLOTS = {"pixel_opt": "pix", "perceptual_opt": "percep", "gan_opt": "gan"}


def losses_of(model: Any) -> tuple[dict[str, PairFunction], dict[str, float]]:
    """The generator losses of a stock model or one of ours, as the training step adds them up, by log name.

    Returns:
        Functions ``(sr, hr) -> 0-d loss``, weight included; and the current weights of those that have one.
    """
    losses, listed = named_losses(model), getattr(model, "cri_perceptual", None)
    functions: dict[str, PairFunction] = {}
    weights = {}
    for name in [name for name in ("pix", "percep", *getattr(listed, "names", ()), "gan") if name in losses]:
        owner = losses[name].loss if isinstance(losses[name], HostLoss) else losses[name]
        weight = getattr(owner, "loss_weight", getattr(owner, "perceptual_weight", None))
        if isinstance(weight, int | float):
            weights[name] = float(weight)
        if isinstance(listed, LossList) and name in listed.names:
            functions[name] = partial(listed.value, name)
        elif name == "gan":
            functions[name] = partial(_adversarial, model)
        else:
            functions[name] = partial(_sum, losses[name])
    return functions, weights


def _log_name(name: str, losses: Mapping[str, nn.Module]) -> str:
    """The log name of a loss that a user calls by its slot in the YAML, by ``l_pix``, or by its type, if unique."""
    of_type = [known for known, loss in losses.items() if type(loss).__name__ == name]
    guesses = [name, SLOTS.get(name, name), re.sub("^l_(g_)?", "", name), *(of_type if len(of_type) == 1 else ())]
    return next((guess for guess in guesses if guess in losses), name)


def _sum(loss: nn.Module, sr: Tensor, hr: Tensor) -> Tensor:
    result = loss(sr, hr)
    values = [v for v in (result if isinstance(result, tuple) else (result,)) if v is not None]
    return torch.stack([v.reshape(()) for v in values]).sum()


def _adversarial(model: Any, sr: Tensor, hr: Tensor) -> Tensor:
    """The generator's GAN term: BasicSR's relativistic one in ESRGAN models, else the plain one."""
    fake = model.net_d(sr)
    if not isinstance(model, ESRGANModel):
        return model.cri_gan(fake, True, is_disc=False)
    real = model.net_d(hr).detach()
    real_term = model.cri_gan(real - fake.mean(), False, is_disc=False)
    return (real_term + model.cri_gan(fake - real.mean(), True, is_disc=False)) / 2


def probe_model(
    model: Any,
    data: Iterator[Mapping[str, Any]],
    *,
    iteration: int,
    shares: Mapping[str, float] | None = None,
    reference: str | None = None,
) -> ProbeReport:
    """:func:`probe` the losses of a BasicSR model at the outputs of its own network; nothing is trained.

    ``data`` gives batches with ``lq`` and ``gt``; schedules are evaluated at ``iteration``. A loss may be named as in
    the log or the YAML: ``pix``, ``l_pix``, ``pixel_opt``, or its type where no other loss has it. The GAN term is
    measured at the discriminator as it is, and its weight stays.

    Raises:
        InputError: a share for the GAN term, or a loss named twice; what :func:`probe` raises.
    """
    functions, weights = losses_of(model)
    losses = {name: loss for name, loss in named_losses(model).items() if name in functions}
    fixed = ("gan",) if hasattr(model, "net_d") else ()
    for asked in (*(shares or ()), *([reference] if reference else [])):
        if _log_name(asked, losses) in fixed:
            raise InputError(f"probe: {asked}: {GAN_SHARE}")
    reference = None if reference is None else _log_name(reference, losses)
    if shares is not None:
        given = list(shares)
        shares = {_log_name(name, losses): share for name, share in shares.items()}
        if len(shares) < len(given):
            raise InputError(f"probe shares: got {', '.join(given)} for {', '.join(shares)}; name each loss once.")
    if isinstance(getattr(model, "cri_perceptual", None), LossList):
        model.cri_perceptual.step(iteration)

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in data:
            model.feed_data(batch)
            with torch.no_grad():
                output = model.net_g(model.lq)
            yield output[0] if isinstance(output, tuple) else output, model.gt

    return probe(functions, pairs(), shares=shares, reference=reference, weights=weights, fixed=fixed)


def probe_yaml(
    path: str,
    *,
    batches: int = 4,
    iteration: int | None = None,
    shares: Mapping[str, float] | None = None,
    reference: str | None = None,
) -> ProbeReport:
    """Build the data and the model of a YAML and probe it; writes nothing.

    Args:
        path: BasicSR option file.
        batches: number of training batches.
        iteration: the global iteration for schedules; by default the last one, when ramps have ended.
        shares: as in :func:`probe_model`.
        reference: as in :func:`probe_model`.

    Raises:
        InputError: the file names no training data, or too few images for one batch.
    """
    opt = _options(path)
    if "train" not in opt["datasets"]:
        raise InputError(f"{path}: no datasets.train; the probe needs training batches.")
    train = opt["datasets"]["train"]
    dataset = build_dataset(train)
    loader = build_dataloader(
        dataset, {**train, "prefetch_mode": None}, num_gpu=opt["num_gpu"], seed=opt["manual_seed"]
    )
    if len(loader) < 1:
        raise InputError(f"{path}: {len(dataset)} training images do not fill one batch.")
    # Read before building: BasicSR's set-up takes keys out of the tree.
    last = int(opt["train"]["total_iter"]) if iteration is None else iteration
    ensure_model(opt["model_type"])
    model = build_model(opt)
    data = itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), batches)
    return probe_model(model, data, iteration=last, shares=shares, reference=reference)


def _options(path: str) -> dict[str, Any]:
    """Options as BasicSR's own parser gives them; it reads ``sys.argv``."""
    before, sys.argv = sys.argv, ["probe", "-opt", path]
    try:
        opt, _ = parse_options(".", is_train=True)
    finally:
        sys.argv = before
    # BasicSR's messages about networks are not wanted, unless the caller set the logger up.
    logging.getLogger("basicsr").setLevel(logging.WARNING)
    return opt
