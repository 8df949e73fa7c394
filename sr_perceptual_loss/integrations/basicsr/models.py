"""BasicSR models with a list of losses: one mixin over BasicSR's own classes, no copy of their training step.

What the mixin adds: ``train.losses``, a log value per entry on every rank and step, a stop before the optimizer step
when a loss or gradient is not finite, and an error for ``*_opt`` keys that nobody would read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.models.swinir_model import SwinIRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from sr_perceptual_loss._checks import InputError, NonFiniteError, nearest
from sr_perceptual_loss.integrations.basicsr.losses import LossList

__all__ = [
    "PerceptualESRGANModel",
    "PerceptualMixin",
    "PerceptualSRGANModel",
    "PerceptualSRModel",
    "PerceptualSwinIRGANModel",
    "PerceptualSwinIRModel",
    "perceptual",
]

SR_SLOTS = ("pixel_opt", "perceptual_opt")
GAN_SLOTS = (*SR_SLOTS, "gan_opt")
#: Keys of ``train:`` that are close to ``losses`` and would be ignored by BasicSR.
LOSSES_KEYS = ("loss", "loss_opt", "extra_losses", "losses_opt", "lossess")


class FiniteCheck(nn.Module):
    """A stock loss that stops the run, by name, when its value is not finite.

    Args:
        loss: the loss to call.
        name: what to call it in the message.
    """

    def __init__(self, loss: nn.Module, name: str) -> None:
        super().__init__()
        self.loss = loss
        self.name = name

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Whatever the wrapped loss takes and returns."""
        value = self.loss(*args, **kwargs)
        if isinstance(value, Tensor) and not bool(torch.isfinite(value.detach()).all()):
            side = " (discriminator side)" if kwargs.get("is_disc") else ""
            raise NonFiniteError(f"{self.name}{side}: the loss is NaN or infinite. Stopped before the optimizer step.")
        return value


def check_train_options(train: Mapping[str, Any], slots: tuple[str, ...], model: str) -> None:
    """Refuse loss keys that the model would never read.

    Args:
        train: the ``train:`` section.
        slots: the ``*_opt`` keys that the model reads.
        model: its name, for the message.

    Raises:
        InputError: with the nearest known name.
    """
    for key in train:
        if key in LOSSES_KEYS:
            raise InputError(f"train.{key}: {model} reads the list `losses`. Rename the key to `losses`.")
        if key.endswith("_opt") and key not in slots:
            why = (
                " BasicSR builds ldl_opt in this model but never calls it."
                if key == "ldl_opt" and "gan_opt" in slots
                else ""
            )
            raise InputError(
                f"train.{key}: {model} does not read this key, so the loss would be ignored.{why}"
                f"{nearest(key, [*slots, 'losses'])} Put further losses into the list `losses`."
            )


class PerceptualMixin:
    """Reads ``train.losses`` (and ``perceptual_opt``, as the entry named ``percep``) in front of a BasicSR model."""

    loss_slots: ClassVar[tuple[str, ...]] = SR_SLOTS
    #: BasicSR's prefix of generator losses in this model.
    log_prefix: ClassVar[str] = "l_"

    # Set by BasicSR's classes.
    opt: dict[str, Any]
    device: torch.device
    cri_perceptual: nn.Module | None

    def init_training_settings(self) -> None:
        """Build the list, then let BasicSR do the rest."""
        train = self.opt["train"]
        check_train_options(train, self.loss_slots, type(self).__name__)
        if "gan_opt" in self.loss_slots and not train.get("gan_opt"):
            raise InputError(f"train.gan_opt is missing; {type(self).__name__} trains against a discriminator.")
        entries = list(train.get("losses") or [])
        if train.get("perceptual_opt"):
            entries.insert(0, {"name": "percep", **train["perceptual_opt"]})
        if entries:
            # A copy: the option tree of the caller stays as it was written.
            self.opt = {**self.opt, "train": {**train, "perceptual_opt": {"type": "LossList", "losses": entries}}}
        super().init_training_settings()  # type: ignore[misc]
        for slot in ("cri_pix", "cri_gan"):
            if getattr(self, slot, None) is not None:
                name = {"cri_pix": "pixel_opt", "cri_gan": "gan_opt"}[slot]
                setattr(self, slot, FiniteCheck(getattr(self, slot), name).to(self.device))
        self._watch_gradients()

    def optimize_parameters(self, current_iter: int) -> None:
        """BasicSR's own step; a non-finite loss stops it before the optimizer, with the iteration and the culprit."""
        if isinstance(self.cri_perceptual, LossList):
            self.cri_perceptual.parts = {}
            self.cri_perceptual.step(current_iter)
        try:
            super().optimize_parameters(current_iter)  # type: ignore[misc]
        except NonFiniteError as error:
            message = f"iteration {current_iter}: {error}"
            get_root_logger().error(message)
            raise NonFiniteError(message) from error

    def reduce_loss_dict(self, loss_dict: Mapping[str, Tensor]) -> dict[str, float]:
        """Replace BasicSR's one perceptual value by one value per entry, with the same keys in every step."""
        named: dict[str, Tensor] = OrderedDict(loss_dict)
        zero = torch.zeros((), device=self.device)
        if getattr(self, "cri_pix", None) is not None:
            named.setdefault(f"{self.log_prefix}pix", zero)
        if "gan_opt" in self.loss_slots:
            named.setdefault(f"{self.log_prefix}gan", zero)
        losses = self.cri_perceptual
        if isinstance(losses, LossList):
            named.pop(f"{self.log_prefix}percep", None)
            for name in losses.names:
                named[f"{self.log_prefix}{name}"] = losses.parts.get(name, zero)
            for name, value in losses.terms().items():
                named[name] = value.to(self.device)
        # DDP stacks the values: one shape, one dtype, one order on all ranks.
        named = OrderedDict((key, named[key].detach().float().reshape(())) for key in sorted(named))
        return super().reduce_loss_dict(named)  # type: ignore[misc]

    def _watch_gradients(self) -> None:
        """Look at the gradients before each optimizer step: the last door before the weights."""
        for network, optimizer in (("net_g", "optimizer_g"), ("net_d", "optimizer_d")):
            if getattr(self, optimizer, None) is None:
                continue
            bare = self.get_bare_model(getattr(self, network))  # type: ignore[attr-defined]
            names = {id(p): f"{network}.{name}" for name, p in bare.named_parameters()}

            def check(opt: torch.optim.Optimizer, *_: object, names: dict[int, str] = names) -> None:
                _check_gradients(opt, names)

            getattr(self, optimizer).register_step_pre_hook(check)


def _check_gradients(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not parameters or bool(torch.isfinite(torch.nn.utils.get_total_norm([p.grad for p in parameters]))):
        return
    for p in parameters:
        if not bool(torch.isfinite(p.grad).all()):
            raise NonFiniteError(
                f"the gradient of {names.get(id(p), 'a parameter')} is NaN or infinite although every loss was "
                "finite. Stopped before the optimizer step; lower the learning rate."
            )


def perceptual(base: type, name: str | None = None) -> type:
    """Our mixin over any model class derived from BasicSR's SRModel, registered as ``Perceptual<base>``.

    Args:
        base: model class, for instance ``MODEL_REGISTRY.get("CAModel")`` of a project.
        name: registry name; ``Perceptual`` + the name of ``base`` by default.

    Returns:
        The class; the registered one if the name is taken already.
    """
    name = name or f"Perceptual{base.__name__}"
    if name in MODEL_REGISTRY:
        return MODEL_REGISTRY.get(name)
    gan = issubclass(base, SRGANModel)
    members = {
        "loss_slots": GAN_SLOTS if gan else SR_SLOTS,
        "log_prefix": "l_g_" if gan else "l_",
        "__doc__": f"{base.__name__} with the list `train.losses`; see PerceptualMixin.",
        "__module__": __name__,
    }
    model = type(name, (PerceptualMixin, base), members)
    MODEL_REGISTRY.register(model)
    return model


class SwinIRGANModel(SwinIRModel, SRGANModel):
    """SRGAN training with SwinIR's padded test; BasicSR has no such class."""


PerceptualSRModel = perceptual(SRModel)
PerceptualSwinIRModel = perceptual(SwinIRModel)
PerceptualSRGANModel = perceptual(SRGANModel)
PerceptualESRGANModel = perceptual(ESRGANModel)
PerceptualSwinIRGANModel = perceptual(SwinIRGANModel)
