"""Model classes of a project, with our list of losses: ``model_type: PerceptualCAModel`` for its ``CAModel``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from basicsr.utils.registry import MODEL_REGISTRY
from torch import nn

from sr_perceptual_loss.checks import as_int, nearest
from sr_perceptual_loss.errors import InputError, UnknownNameError
from sr_perceptual_loss.integrations.basicsr.models import perceptual

__all__ = ["CAMixerCompat", "ensure_model", "model_type_of"]

PREFIX = "Perceptual"


class CAMixerCompat:
    """What CAMixerSR's ``CAModel`` needs as shipped (icandle/CAMixerSR d690b12); its own training step stays.

    * Its network reads ``self.ratio`` in train mode and never sets it: the number is in each of its mixers.
    * Its network returns (output, routing term). DataParallel makes a vector of that term.
    * Its evaluation draws Gumbel noise that decides how many windows get attention. Here every image is restored
      under the seeds ``val.routing_seed`` (default 0), +1, ... in ``val.routing_draws`` (default 1) draws, and a metric
      is the mean over all of them. The random state is restored: a score depends on weights and images alone, and
      validating does not change the training.
    """

    # Set by BasicSR's classes.
    opt: dict[str, Any]
    device: torch.device
    net_g: nn.Module

    #: Number of the draw that ``test()`` makes.
    draw = 0

    def init_training_settings(self) -> None:
        """Give the network its ratio, then let BasicSR do the rest."""
        if isinstance(self.net_g, nn.DataParallel):
            raise InputError(
                f"num_gpu: got {self.opt.get('num_gpu')} without a launcher, which is DataParallel: CAMixerSR's "
                "routing term would be a vector. Set num_gpu: 1, or start with torchrun and --launcher pytorch."
            )
        network = self.get_bare_model(self.net_g)  # type: ignore[attr-defined]
        if not hasattr(network, "ratio"):
            ratios = [m.ratio for m in network.modules() if isinstance(getattr(m, "ratio", None), int | float)]
            if ratios:
                network.ratio = ratios[0]
        super().init_training_settings()  # type: ignore[misc]

    def test(self) -> None:
        """BasicSR's own, under the seed of this draw."""
        val = self.opt.get("val") or {}
        seed = as_int("val.routing_seed", val.get("routing_seed", 0)) + self.draw
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            super().test()  # type: ignore[misc]

    def nondist_validation(self, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool) -> None:
        """BasicSR's own, which is also that of rank 0, with every image coming once per draw."""
        draws = as_int("val.routing_draws", self.opt["val"].get("routing_draws", 1), minimum=1)
        super().nondist_validation(Draws(dataloader, draws, self), current_iter, tb_logger, save_img)  # type: ignore[misc]
        self.draw = 0


class Draws:
    """A loader that gives each item ``draws`` times and sets ``model.draw`` to the number of the draw."""

    def __init__(self, loader: Any, draws: int, model: CAMixerCompat) -> None:
        self.loader, self.draws, self.model = loader, draws, model
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self.loader) * self.draws

    def __iter__(self) -> Iterator[Any]:
        for item in self.loader:
            for draw in range(self.draws):
                self.model.draw = draw
                yield item


#: Model class of a project -> what it needs beside the list of losses.
COMPAT: dict[str, type] = {"CAModel": CAMixerCompat}


def model_type_of(basicsr_args: Sequence[str]) -> str | None:
    """``model_type`` of the file after ``-opt``, or None: BasicSR's own parser reports what is wrong with it."""
    arguments = list(basicsr_args)
    path = Path(arguments[arguments.index("-opt") + 1]) if "-opt" in arguments[:-1] else None
    if path is None or not path.is_file():
        return None
    # Nodes only: BasicSR accepts tags such as !!python/tuple, from which nothing is built here.
    root = yaml.compose(path.read_text(encoding="utf-8"))
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return next((str(value.value) for key, value in pairs if key.value == "model_type"), None)


def ensure_model(model_type: str | None) -> None:
    """Make ``Perceptual<Name>`` from a registered ``<Name>``; UnknownNameError where neither is registered."""
    if model_type is None or model_type in MODEL_REGISTRY or f"{model_type}_basicsr" in MODEL_REGISTRY:
        return
    base = model_type.removeprefix(PREFIX)
    registered = base in MODEL_REGISTRY or f"{base}_basicsr" in MODEL_REGISTRY
    if not model_type.startswith(PREFIX) or not registered:
        raise UnknownNameError(
            f"model_type: no model '{model_type}' is registered.{nearest(model_type, MODEL_REGISTRY.keys())} A model "
            "of your project is known after --import of the module that registers it."
        )
    stock = MODEL_REGISTRY.get(base)
    if base in COMPAT:
        stock = type(base, (COMPAT[base], stock), {"__module__": __name__, "__doc__": stock.__doc__})
    perceptual(stock, model_type)
