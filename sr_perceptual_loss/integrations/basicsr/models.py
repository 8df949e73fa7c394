"""BasicSR models with a list of losses: one mixin over BasicSR's own classes, no copy of their training step.

What the mixin adds: ``train.losses``, a log value per entry on every rank and step, a stop before the optimizer step
when a loss or gradient is not finite, an error for ``*_opt`` keys that nobody would read, ``train.guard``, and what
losses and guard know across a resume.
"""

from __future__ import annotations

import difflib
import inspect
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.models.swinir_model import SwinIRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sr_perceptual_loss.checks import check_known_keys, nearest
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.integrations.basicsr.finite import FiniteCheck, gather_messages
from sr_perceptual_loss.integrations.basicsr.losses import LossList
from sr_perceptual_loss.integrations.basicsr.saving import read_side_state, save_side_state, side_file, whole_files
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.monitor.guard import HackingError, HackingGuard
from sr_perceptual_loss.monitor.measures import FIDELITY

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
#: Keys of ``train:`` that BasicSR does not know and would ignore; what is nearly one of them is an error.
OWN_KEYS = ("losses", "balance", "guard")
#: Other names for them that somebody may think of.
OTHER_NAMES = {"loss_opt": "losses", "losses_opt": "losses", "extra_losses": "losses", "guard_opt": "guard"}
OTHER_NAMES |= {"hacking_guard": "guard"}
#: What ``train.guard`` is where it is not written; keys that are written replace these.
GUARD = {"every": 200, "action": "warn"}
#: Adversarial training trades fidelity for texture by itself.
GAN_TOLERANCE = 3.0


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
        close = difflib.get_close_matches(str(key), OWN_KEYS, 1, 0.8)
        meant = OTHER_NAMES.get(key, close[0] if close else key)
        if meant != key:
            raise InputError(f"train.{key}: {model} reads `{meant}`. Rename the key to `{meant}`.")
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


def build_guard(train: Mapping[str, Any], losses: Mapping[str, PairLoss], *, gan: bool) -> HackingGuard | None:
    """The guard of ``train.guard``: a mapping of its arguments; true or absent is the default one, false or ~ is none.

    Args:
        train: the ``train:`` section.
        losses: what it will watch; measures that are in a loss are skipped.
        gan: whether there is a discriminator.

    Returns:
        The guard, whose alarms go to BasicSR's log; None where it is switched off or has no loss to watch.

    Raises:
        InputError: unknown key or wrong value.
    """
    options = train.get("guard", True)
    if options is None or options is False or not losses:
        return None
    options = {} if options is True else options
    if not isinstance(options, Mapping):
        raise InputError(f"train.guard: got {options!r}, expected a mapping such as {{every: 200}}, or false.")
    known = [name for name in inspect.signature(HackingGuard).parameters if name != "on_alarm"]
    check_known_keys("train.guard", options, known)
    merged = {**GUARD, **({"tolerance": GAN_TOLERANCE} if gan else {}), **options}
    known_to_losses = {measure for loss in losses.values() for measure in loss.optimises} & set(FIDELITY)
    merged["skip"] = [*merged.get("skip", []), *sorted(known_to_losses)]
    return HackingGuard(**merged, on_alarm=lambda alarm: get_root_logger().warning(str(alarm)))


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
            entry = {"type": "LossList", "losses": entries, "balance": train.get("balance")}
            self.opt = {**self.opt, "train": {**train, "perceptual_opt": entry}}
        elif train.get("balance"):
            raise InputError("train.balance: there is no list `losses` to balance; put the losses into it.")
        super().init_training_settings()  # type: ignore[misc]
        for slot in ("cri_pix", "cri_gan"):
            if getattr(self, slot, None) is not None:
                name = {"cri_pix": "pixel_opt", "cri_gan": "gan_opt"}[slot]
                setattr(self, slot, FiniteCheck(getattr(self, slot), name).to(self.device))
        losses = self.cri_perceptual
        if isinstance(losses, LossList):
            if self.opt.get("dist"):
                losses.agree()
            losses.guard = build_guard(train, losses.pair_losses(), gan="gan_opt" in self.loss_slots)
        if train.get("guard") and getattr(losses, "guard", None) is None:
            get_root_logger().warning("train.guard: no entry of `losses` has a critic's score; there is no guard.")
        self._watch_gradients()

    def optimize_parameters(self, current_iter: int) -> None:
        """BasicSR's own step; a non-finite loss stops it before the optimizer, with the iteration and the culprit."""
        if isinstance(self.cri_perceptual, LossList):
            self.cri_perceptual.begin()
            self.cri_perceptual.step(current_iter)
        try:
            super().optimize_parameters(current_iter)  # type: ignore[misc]
        except NonFiniteError as error:
            message = f"iteration {current_iter}: {error}"
            get_root_logger().error(message)
            raise NonFiniteError(message) from error
        except HackingError as error:
            get_root_logger().error(str(error))
            raise

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
        logged: dict[str, float] = super().reduce_loss_dict(named)  # type: ignore[misc]
        if isinstance(losses, LossList) and losses.guard is not None:
            logged.update(losses.guard.logs())  # plain numbers, the same on all ranks: no device sync
        return logged

    def save_network(
        self, net: nn.Module | list[nn.Module], net_label: str, current_iter: int, param_key: str | list[str] = "params"
    ) -> None:
        """BasicSR's ``models/<label>_<iter>.pth``, whole or not there."""
        with whole_files(self, "models"):
            super().save_network(net, net_label, current_iter, param_key)  # type: ignore[misc]

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """BasicSR's ``training_states/<iter>.state``, and what our losses know: ``srpl_states/<iter>.srpl.state``."""
        losses = self.cri_perceptual
        if current_iter != -1 and isinstance(losses, LossList) and self.opt.get("rank", 0) == 0:
            guard = None if losses.guard is None else losses.guard.state_dict()
            state = {"version": 1, "iter": current_iter, "losses": losses.training_state(), "guard": guard}
            # First, so that BasicSR's file never stands there without ours.
            save_side_state(state, side_file(Path(self.opt["path"]["training_states"]), current_iter))
        with whole_files(self, "training_states"):
            super().save_training_state(epoch, current_iter)  # type: ignore[misc]

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """BasicSR's optimizers and schedulers, and our losses and guard."""
        super().resume_training(resume_state)  # type: ignore[misc]
        losses = self.cri_perceptual
        if not isinstance(losses, LossList) or (losses.guard is None and not losses.training_state()):
            return
        given, folder = self.opt["path"].get("resume_state"), self.opt["path"].get("training_states")
        path = side_file(Path(given).parent if given else Path(folder), int(resume_state["iter"]))
        if not path.is_file():
            get_root_logger().warning(
                f"{path} is missing. Schedules follow the global iteration all the same; guard and balancer start anew."
            )
            return
        state = read_side_state(path, self.device)
        missing, unknown = losses.load_training_state(state["losses"])
        if missing or unknown:
            get_root_logger().warning(f"{path}: start anew: {missing}; no longer there: {unknown}.")
        if losses.guard is not None and state["guard"] is not None:
            losses.guard.load_state_dict(state["guard"])
            losses.guard.limit_weight(losses.pair_losses())

    def _watch_gradients(self) -> None:
        """Look at the gradients before each optimizer step: the last door before the weights."""
        for network, optimizer in (("net_g", "optimizer_g"), ("net_d", "optimizer_d")):
            if getattr(self, optimizer, None) is None:
                continue
            whole = getattr(self, network)
            bare = self.get_bare_model(whole)  # type: ignore[attr-defined]
            names = {id(p): f"{network}.{name}" for name, p in bare.named_parameters()}
            shared = isinstance(whole, DistributedDataParallel)

            def check(
                opt: torch.optim.Optimizer, *_: object, names: dict[int, str] = names, shared: bool = shared
            ) -> None:
                notes = self.cri_perceptual.notes if isinstance(self.cri_perceptual, LossList) else []
                _check_gradients(opt, names, notes, shared=shared)

            getattr(self, optimizer).register_step_pre_hook(check)


def _check_gradients(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], notes: list[str], *, shared: bool
) -> None:
    """``shared``: DDP has averaged these gradients, so that all ranks see the same ones and stop together."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not parameters or bool(torch.isfinite(torch.nn.utils.get_total_norm([p.grad for p in parameters]))):
        return
    for note in gather_messages(notes) if shared else notes:
        raise NonFiniteError(f"{note}. Stopped before the optimizer step.")
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
