"""Model classes of a project, with our list of losses: ``model_type: PerceptualCAModel`` for its ``CAModel``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from basicsr import models as basicsr_models
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn

from sr_perceptual_loss.checks import as_int, nearest
from sr_perceptual_loss.errors import InputError, UnknownNameError
from sr_perceptual_loss.integrations.basicsr.entries import is_ours, registered
from sr_perceptual_loss.integrations.basicsr.models import PerceptualMixin, build_guard, log_losses, perceptual
from sr_perceptual_loss.integrations.basicsr.options import check_options, check_paths
from sr_perceptual_loss.integrations.basicsr.read_keys import ReadKeys, check_model, record_reads

__all__ = ["CAMixerCompat", "CAMixerGANModel", "build_model", "check_losses", "ensure_model"]

PREFIX = "Perceptual"
#: BasicSR's own function, also after a reload of this package, which puts ours in its place.
STOCK_BUILD = getattr(basicsr_models.build_model, "stock", basicsr_models.build_model)


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


class _AddedTerm(torch.autograd.Function):
    """The SR output as it is. In the backward pass the term gets the gradient 1, as if it were added to the losses."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, term: Tensor) -> Tensor:
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], gradients[0].new_ones(())


class CAMixerGANModel(CAMixerCompat, SRGANModel):
    """SRGAN training of CAMixerSR: its routing term is added to the generator's losses, and logged as ``l_g_ratio``.

    ``CAModel`` trains without a discriminator, and BasicSR's SRGANModel takes no (output, routing term).
    """

    _ratio: Tensor | None = None

    def init_training_settings(self) -> None:
        """Let the network return its output alone, with the routing term on the graph."""
        super().init_training_settings()
        self.get_bare_model(self.net_g).register_forward_hook(self._add_ratio)

    def _add_ratio(self, network: nn.Module, inputs: Any, result: Any) -> Any:
        if not isinstance(result, tuple):  # in evaluation
            return result
        output, self._ratio = result
        return _AddedTerm.apply(output, self._ratio)

    def reduce_loss_dict(self, loss_dict: Mapping[str, Tensor]) -> Any:
        """BasicSR's, with the routing term."""
        ratio = torch.zeros((), device=self.device) if self._ratio is None else self._ratio.detach().float()
        return super().reduce_loss_dict({**loss_dict, "l_g_ratio": ratio})


PerceptualCAMixerGANModel = perceptual(CAMixerGANModel)

#: Model class of a project -> what it needs beside the list of losses.
COMPAT: dict[str, type] = {"CAModel": CAMixerCompat}


def ensure_model(model_type: str | None) -> None:
    """Make ``Perceptual<Name>`` from a registered ``<Name>``.

    Raises:
        UnknownNameError: neither is registered.
        InputError: ``<Name>`` is no SR model.
    """
    if model_type is None or registered(MODEL_REGISTRY, model_type):
        return
    base = model_type.removeprefix(PREFIX)
    models = {name.removesuffix("_basicsr"): model for name, model in MODEL_REGISTRY}
    if base == model_type or base not in models or issubclass(models[base], PerceptualMixin):
        can = {f"{PREFIX}{name}" for name, cls in models.items() if issubclass(cls, SRModel)} - {model_type}
        can = {name for name in can if not name.startswith(PREFIX * 2)}
        raise UnknownNameError(
            f"model_type: no model '{model_type}' is registered.{nearest(model_type, {*models, *can})} A model of your "
            "project is known after --import of the module that registers it."
        )
    stock = models[base]
    if not issubclass(stock, SRModel):
        raise InputError(f"model_type: {model_type} is for models derived from SRModel, and {base} is not.")
    if base in COMPAT:
        stock = type(base, (COMPAT[base], stock), {"__module__": __name__, "__doc__": stock.__doc__})
    perceptual(stock, model_type)


def check_losses(opt: Mapping[str, Any]) -> None:
    """Check the options, and build our losses once: BasicSR moves the folder of an earlier run before it builds any.

    Raises:
        InputError, UnknownNameError, WeightsError: as :func:`build_model`.
    """
    ensure_model(opt["model_type"])
    check_options(opt)
    check_paths(opt)
    model, train = MODEL_REGISTRY.get(opt["model_type"]), opt["train"]
    options = train.get("perceptual_opt")
    if issubclass(model, PerceptualMixin):
        options = model.list_options(train)
        build_guard(train.get("guard"), {})
    # The networks are initialised as without this check, and a warning comes once.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if options and is_ours(options["type"]):
            # Not by build_loss, which writes to a log that is not set up yet.
            LOSS_REGISTRY.get(options["type"])(**{key: value for key, value in options.items() if key != "type"})


def build_model(opt: Mapping[str, Any]) -> Any:
    """BasicSR's ``build_model``, for ``Perceptual<Name>`` of every registered SR model, with the checks of the options.

    Args:
        opt: the whole option tree; stays as it is.

    Raises:
        InputError, UnknownNameError, WeightsError: an option that would be ignored or would fail later.
    """
    ensure_model(opt.get("model_type"))
    opt = record_reads(opt)
    train = opt.get("train")
    if not isinstance(train, ReadKeys) or issubclass(MODEL_REGISTRY.get(opt["model_type"]), PerceptualMixin):
        return STOCK_BUILD(opt)  # our models check their options themselves
    check_options({**opt, "train": train.plain()})
    model = STOCK_BUILD(opt)
    check_model(model, train)
    log_losses(model)
    return model


build_model.stock = STOCK_BUILD  # type: ignore[attr-defined]
