"""BasicSR models with a list of losses: one mixin over BasicSR's own classes, no copy of their training step.

What the mixin adds: ``train.losses`` with a log value per entry on every rank and step, finite checks before each
optimizer step, ``train.guard``, errors for unknown keys, and the state of losses and guard on resume.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.models.swinir_model import SwinIRModel
from basicsr.utils import get_root_logger
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor, nn

from sr_perceptual_loss.checks import check_known_keys
from sr_perceptual_loss.errors import InputError, NonFiniteError
from sr_perceptual_loss.integrations.basicsr.finite import FiniteChecks
from sr_perceptual_loss.integrations.basicsr.losses import LossList, named_losses
from sr_perceptual_loss.integrations.basicsr.options import check_options
from sr_perceptual_loss.integrations.basicsr.read_keys import OWN_KEYS, ReadKeys, check_model, record_reads
from sr_perceptual_loss.integrations.basicsr.recording import RecordingMixin, describe_losses
from sr_perceptual_loss.integrations.basicsr.saving import read_side_state, save_side_state, side_file
from sr_perceptual_loss.losses.distributed import world_size
from sr_perceptual_loss.losses.frozen import FrozenCritic
from sr_perceptual_loss.monitor.guard import HackingError, HackingGuard

__all__ = ["PerceptualMixin", "PerceptualSRGANModel", "PerceptualSRModel", "log_losses", "perceptual"]

#: BasicSR's attribute -> key of its options, for messages.
SLOT_NAMES = {"cri_pix": "pixel_opt", "cri_gan": "gan_opt", "cri_ldl": "ldl_opt", "cri_perceptual": "perceptual_opt"}
#: Defaults of ``train.guard``. Adversarial training trades fidelity for texture, hence its tolerance.
GUARD: dict[str, Any] = {"every": 200, "action": "warn"}
GAN_GUARD = {**GUARD, "tolerance": 3.0}


def log_losses(model: Any) -> None:
    """Name every loss of a model in BasicSR's log; warn of random weights, and of a critic that should be no loss."""
    lines = describe_losses(model)
    for name, loss in named_losses(model).items():
        get_root_logger().info(f"loss {name}: {lines[name]}")
        for frozen in (part for part in loss.modules() if isinstance(part, FrozenCritic)):
            if frozen.random_weights:
                get_root_logger().warning(f"loss {name}: random weights (weights: ~), so the scores mean nothing.")
            if frozen.critic.card.as_loss:
                get_root_logger().warning(f"loss {name}: not recommended as a loss: {frozen.critic.card.as_loss}")


def build_guard(given: object, defaults: Mapping[str, Any]) -> HackingGuard | None:
    """The guard of ``train.guard``: a mapping of its arguments, True for the defaults, False or None for no guard."""
    if given is None or given is False:
        return None
    options = {} if given is True else given
    if not isinstance(options, Mapping):
        raise InputError(f"train.guard: got {options!r}, expected a mapping such as {{every: 200}}, or false.")
    check_known_keys("train.guard", options, inspect.signature(HackingGuard).parameters)
    return HackingGuard(**{**defaults, **options})


class PerceptualMixin(RecordingMixin):
    """Reads ``train.losses`` (and ``perceptual_opt``, as the entry named ``percep``) in front of a BasicSR model."""

    # Set by BasicSR's classes.
    opt: dict[str, Any]
    device: torch.device
    optimizers: list[torch.optim.Optimizer]
    cri_perceptual: nn.Module | None

    #: The list of losses; None where the YAML has no entry.
    loss_list: LossList | None = None
    checks: FiniteChecks

    def __init__(self, opt: Mapping[str, Any]) -> None:
        opt = record_reads(opt)
        super().__init__(opt)  # type: ignore[call-arg]
        if isinstance(opt.get("train"), ReadKeys):
            check_model(self, opt["train"])
            log_losses(self)

    @classmethod
    def list_options(cls, train: Mapping[str, Any]) -> dict[str, Any] | None:
        """What goes into BasicSR's perceptual slot: a list of ``perceptual_opt`` and ``losses``; None without both."""
        losses = train.get("losses", ())
        if not isinstance(losses, list | tuple) or ("losses" in train and not losses):
            LossList(losses)  # says what is wrong with it
        if train.get("balance") and not losses:
            raise InputError("train.balance: there is no list `losses` to balance; put the losses into it.")
        percep = [{"name": "percep", **train["perceptual_opt"]}] if train.get("perceptual_opt") else []
        if not percep and not losses:
            return None
        return {"type": "LossList", "losses": [*percep, *losses], "balance": train.get("balance")}

    def init_training_settings(self) -> None:
        """Build the list, then let BasicSR do the rest."""
        check_options(self.opt)
        train = self.opt["train"]
        options, guard = self.list_options(train.plain()), train.get("guard", True)
        train.asked.update(OWN_KEYS)
        if options is not None:
            # A copy: the option tree of the caller stays as it was written.
            self.opt = {**self.opt, "train": train.copy()}
            self.opt["train"]["perceptual_opt"] = options
        super().init_training_settings()  # type: ignore[misc]
        slot = getattr(self, "cri_perceptual", None)
        self.loss_list = slot if isinstance(slot, LossList) else None
        if options is not None and self.loss_list is None:
            raise InputError(
                f"train.losses: {type(self).__name__} builds no `cri_perceptual` from `perceptual_opt`, where the list "
                "goes. Build and call it as BasicSR's SRModel does."
            )
        self._install_checks()
        if self.loss_list is not None:
            self._check_list(self.loss_list, int(train.get("total_iter") or 0))
        pair_losses = {} if self.loss_list is None else self.loss_list.pair_losses
        if self.loss_list is not None and any("score" in loss.term_names for loss in pair_losses.values()):
            self.loss_list.guard = build_guard(guard, GAN_GUARD if hasattr(self, "net_d") else GUARD)
            if self.loss_list.guard is not None:
                self.loss_list.guard.on_alarm = self.log_alarm
        elif guard not in (True, False, None):
            get_root_logger().warning("train.guard: no entry of `losses` has a critic's score; there is no guard.")

    def _check_list(self, losses: LossList, total: int) -> None:
        """Refuse an entry that would be logged as another loss, or that never acts in ``total`` iterations."""
        for name in losses.names:
            if name != "perceptual" and isinstance(getattr(self, f"cri_{name}", None), nn.Module):
                raise InputError(
                    f"train.losses: the log has another loss '{name}' of this model; give the entry a `name:`."
                )
        for name, schedule in losses.schedules.items():
            if total and not any(map(schedule.factor, range(1, total + 1))):
                raise InputError(f"train.losses: '{name}' never acts: its {schedule} and total_iter {total}.")

    def _install_checks(self) -> None:
        """Collect finite flags of all losses, and read them with the gradients before each optimizer step."""
        self.checks = FiniteChecks() if self.loss_list is None else self.loss_list.checks
        self.checks.deferred = True
        self.checks.collective = bool(self.opt.get("dist")) and world_size() > 1
        self.checks.device = self.device
        for attribute, loss in vars(self).items():
            if attribute.startswith("cri_") and isinstance(loss, nn.Module) and loss is not self.loss_list:
                self.checks.record_calls(loss, SLOT_NAMES.get(attribute, attribute))
        names: dict[int, str] = {}
        for network in ("net_g", "net_d"):
            if hasattr(self, network):
                bare = self.get_bare_model(getattr(self, network))  # type: ignore[attr-defined]
                names |= {id(parameter): f"{network}.{name}" for name, parameter in bare.named_parameters()}
        for optimizer in self.optimizers:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            named = [(names.get(id(p), "a parameter"), p) for p in parameters]
            optimizer.register_step_pre_hook(lambda *_, named=named: self.checks.check(named))
        if self.loss_list is not None and hasattr(self, "optimizer_g"):
            self.optimizer_g.register_step_pre_hook(partial(self._check_reached, self.loss_list))

    def _check_reached(self, losses: LossList, *_: Any) -> None:
        """Refuse a training step that does not call the list, or does not train on its value."""
        if not losses.reached and any(losses.factor(name) for name in losses.names):
            raise InputError(
                f"train.losses: no gradient came from the list in a step of {type(self).__name__}. Its training step "
                "must call `self.cri_perceptual(self.output, self.gt)`, with the output not detached, and add the "
                "result to the total. If it does so from a later iteration N on, write `schedule: {start: N}`."
            )

    def optimize_parameters(self, current_iter: int) -> None:
        """BasicSR's own step; a non-finite loss stops it before the optimizer, with the iteration and the culprit."""
        if self.loss_list is not None:
            self.loss_list.step(current_iter)
        try:
            super().optimize_parameters(current_iter)  # type: ignore[misc]
        except NonFiniteError as error:
            message = f"iteration {current_iter}: {error}"
            get_root_logger().error(message)
            self.record(current_iter, stopped=str(error))
            raise NonFiniteError(message) from error
        except HackingError as error:
            get_root_logger().error(str(error))
            self.record(current_iter, stopped=str(error))
            raise
        finally:
            self.log_guard(current_iter)

    def reduce_loss_dict(self, loss_dict: Mapping[str, Tensor]) -> dict[str, float]:
        """Replace BasicSR's one perceptual value by one value per entry, with the same keys in every step."""
        named: dict[str, Tensor] = OrderedDict(loss_dict)
        zero = torch.zeros((), device=self.device)
        prefix = "l_g_" if hasattr(self, "net_d") else "l_"  # BasicSR's, of the generator's losses
        for name in ("pix", "ldl", "gan"):
            if getattr(self, f"cri_{name}", None) is not None:
                named.setdefault(f"{prefix}{name}", zero)
        if self.loss_list is not None:
            named.pop(f"{prefix}percep", None)
            for name in self.loss_list.names:
                named[f"{prefix}{name}"] = self.loss_list.parts.get(name, zero)
            for name, value in self.loss_list.terms().items():
                named[name] = value.to(self.device)
        # DDP stacks the values: one shape, one dtype, one order on all ranks.
        named = OrderedDict((key, named[key].detach().float().reshape(())) for key in sorted(named))
        return super().reduce_loss_dict(named)  # type: ignore[misc]

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """BasicSR's ``training_states/<iter>.state``, and the state of losses and guard beside it."""
        if current_iter != -1 and self.loss_list is not None and self.opt.get("rank", 0) == 0:
            guard = None if self.loss_list.guard is None else self.loss_list.guard.state_dict()
            state = {"iter": current_iter, "losses": self.loss_list.training_state(), "guard": guard}
            # First, so that BasicSR's file is never there without ours.
            save_side_state(state, side_file(Path(self.opt["path"]["training_states"]), current_iter))
        super().save_training_state(epoch, current_iter)  # type: ignore[misc]

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """BasicSR's optimizers and schedulers, and our losses and guard."""
        super().resume_training(resume_state)  # type: ignore[misc]
        losses = self.loss_list
        if losses is None or (losses.guard is None and not losses.training_state()):
            return
        given, folder = self.opt["path"].get("resume_state"), self.opt["path"].get("training_states")
        path = side_file(Path(given).parent if given else Path(folder), int(resume_state["iter"]))
        if not path.is_file():
            get_root_logger().warning(
                f"{path} is missing. Schedules follow the global iteration all the same; guard and balancer start anew."
            )
            return
        state = read_side_state(path, self.device)
        if anew := losses.load_training_state(state["losses"]):
            get_root_logger().warning(f"{path}: it does not fit to the entries {anew}, which start anew.")
        if losses.guard is not None and state["guard"] is not None:
            losses.guard.load_state_dict(state["guard"])
            losses.guard.limit_weight(losses.pair_losses)


def perceptual(base: type, name: str | None = None) -> type:
    """Our mixin over a model class derived from BasicSR's SRModel, registered as ``Perceptual<base>`` or ``name``.

    A class that is registered under this name already is returned as it is.
    """
    name = name or f"Perceptual{base.__name__}"
    if name in MODEL_REGISTRY:
        return MODEL_REGISTRY.get(name)
    members = {"__doc__": f"{base.__name__} with the list `train.losses`; see PerceptualMixin.", "__module__": __name__}
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
