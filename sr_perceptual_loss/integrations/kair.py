"""KAIR (the training code of SwinIR's authors): our losses beside its pixel loss; nothing of it is edited.

    python -m sr_perceptual_loss.integrations.kair main_train_gan.py --opt options.json

in the root of a clone, with ``"losses": {"haarpsi": {"type": "haarpsiLoss", "loss_weight": 0.2}}`` in the ``train``
section of the JSON. Or, in a copy of a start script, ``define_model`` imported from here instead of KAIR's.

Contract (KAIR fc1732f): the trainer calls ``lossfn(E, H)`` on RGB in [0, 1], E not clamped, expects one tensor and
multiplies it by ``G_lossfn_weight`` or ``F_lossfn_weight``; a GAN step that is gated calls neither. There is no
registry: ``define_Model`` picks a class by name, and ``define_loss`` a loss.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import nearest
from sr_perceptual_loss.errors import InputError, UnknownNameError
from sr_perceptual_loss.integrations.host import HostLoss, loss_classes, run_script

__all__ = ["KAIRLoss", "PerceptualKAIR", "SlotWithLosses", "define_model", "main", "perceptual"]

#: Prefix of KAIR's attributes -> name of its own loss in our log.
SLOTS = {"G": "l_pix", "F": "l_feat"}
#: Prefix in the log -> term of a loss.
LOGGED = {"l": "loss", "score": "score"}
#: ``model`` in the JSON -> class that :func:`define_model` wraps.
MODELS = {"plain": "ModelPlain", "gan": "ModelGAN"}


class KAIRLoss(HostLoss):
    """A loss of ours in ``train.losses``; it applies its own ``loss_weight``."""

    how_to_step = "Take the model class from sr_perceptual_loss.integrations.kair.perceptual, which tells it."


class SlotWithLosses(nn.Module):
    """The loss in one of KAIR's slots plus ours, as one tensor: stock(E, H) + sum of ours(E, H) / weight.

    The trainer multiplies the result by the slot's weight, so ours are divided by it: a ``loss_weight`` in the JSON
    means the same whatever ``G_lossfn_weight`` is. ``terms`` holds detached 0-d values, weighted as they enter the
    total: KAIR's own as ``stock_name``, then ``l_<name>`` and ``score_<name>``.
    """

    def __init__(self, stock: nn.Module, losses: Mapping[str, HostLoss], weight: float, stock_name: str) -> None:
        super().__init__()
        self.stock = stock
        self.losses = dict(losses)
        self.members = nn.ModuleList(losses.values())  # a ModuleDict would refuse names such as "type"
        self.weight = weight
        self.stock_name = stock_name
        self.stock_value = torch.zeros(())

    @property
    def terms(self) -> dict[str, Tensor]:
        """Values of the last call since :meth:`step`; zeros where there was none, as in a gated GAN step."""
        terms = {self.stock_name: self.stock_value}
        for name, loss in self.losses.items():
            terms |= {f"{key}_{name}": loss.terms[term] for key, term in LOGGED.items() if term in loss.terms}
        return terms

    def step(self, iteration: int) -> None:
        """Set the iteration of our losses."""
        self.stock_value = torch.zeros(())
        for loss in self.losses.values():
            loss.step(iteration)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """0-d value of the slot for (N, 3, H, W) RGB images in [0, 1]; NonFiniteError names one of our losses."""
        total = self.stock(output, target)
        self.stock_value = total.detach() * self.weight
        for loss in self.losses.values():
            total = total + loss(output, target) / self.weight
        return total


def _build_losses(options: object) -> dict[str, HostLoss]:
    """Losses of ``train.losses``: name -> ``{"type": <name in loss_classes>, <constructor arguments>}``."""
    types, losses = loss_classes(KAIRLoss), {}
    if not isinstance(options, Mapping):
        raise InputError(f'train.losses: got {options!r}, expected {{"name": {{"type": "haarpsiLoss", ...}}, ...}}.')
    for name, entry in options.items():
        arguments = dict(entry) if isinstance(entry, Mapping) else {}
        kind = arguments.pop("type", None)
        if kind not in types:
            raise UnknownNameError(f"train.losses.{name}: got type {kind!r}.{nearest(str(kind), types)}")
        losses[name] = types[kind](**arguments)
    return losses


class PerceptualKAIR:
    """Mixin over KAIR's ModelPlain, ModelGAN, ...: puts ``train.losses`` into the pixel slot, or the feature slot.

    KAIR's own step stays. Its log gets ``l_<name>`` and ``score_<name>`` per loss, and ``l_pix`` (``l_feat``) for what
    was in the slot; ``G_loss`` (``F_loss``) is their sum, as KAIR sees one loss.
    """

    # Set by KAIR's classes.
    opt_train: Mapping[str, Any]
    device: torch.device
    log_dict: dict[str, Any]

    slot: SlotWithLosses | None = None

    def define_loss(self) -> None:
        """KAIR's own, then ours into the first slot that the trainer calls."""
        super().define_loss()  # type: ignore[misc]
        options = self.opt_train.get("losses")
        if not options:
            return
        for letter, stock_name in SLOTS.items():
            stock, weight = getattr(self, f"{letter}_lossfn", None), getattr(self, f"{letter}_lossfn_weight", 0)
            if stock is not None and weight > 0:
                self.slot = SlotWithLosses(stock, _build_losses(options), weight, stock_name).to(self.device)
                setattr(self, f"{letter}_lossfn", self.slot)
                return
        raise InputError(
            "train.losses: neither G_lossfn_weight nor F_lossfn_weight is > 0, so KAIR calls no image loss. Keep the "
            "pixel loss: a critic alone gets exploited."
        )

    def optimize_parameters(self, current_step: int) -> None:
        """KAIR's own step, with the iteration set before it and our values in its log after it."""
        if self.slot is not None:
            self.slot.step(current_step)
        super().optimize_parameters(current_step)  # type: ignore[misc]
        if self.slot is not None:
            self.log_dict.update(self.slot.terms)


def perceptual(base: type) -> type:
    """:class:`PerceptualKAIR` over a model class of KAIR, such as ``ModelPlain``, ``ModelGAN``, or one of your own."""
    if issubclass(base, PerceptualKAIR):
        return base
    return type(base.__name__, (PerceptualKAIR, base), {"__module__": __name__, "__doc__": base.__doc__})


def define_model(opt: dict[str, Any]) -> Any:
    """KAIR's ``define_Model`` with :func:`perceptual` over the class that it picks.

    ``"gpu_ids": []`` in the options means the CPU where there is no CUDA; KAIR itself would ask for CUDA.
    """
    if not torch.cuda.is_available() and not opt["gpu_ids"]:
        opt["gpu_ids"] = None
    kind = opt["model"]
    if kind not in MODELS:
        raise InputError(
            f"model: got '{kind}', expected one of {sorted(MODELS)}. For another of KAIR's classes take "
            "perceptual(<class>) in your own start script."
        )
    return perceptual(getattr(import_module(f"models.model_{kind}"), MODELS[kind]))(opt)


def main() -> None:
    """Run a start script of the clone that is the working directory: ``<script> --opt <json>``; options go to KAIR."""
    if len(sys.argv) < 2 or not sys.argv[1].endswith(".py"):
        raise InputError(f"got {sys.argv[1:]}, expected a start script of KAIR: main_train_gan.py --opt options.json")
    script = sys.argv.pop(1)

    def prepare() -> None:
        import_module("models.select_model").define_Model = define_model  # type: ignore[attr-defined]

    run_script(script, "models", prepare)


if __name__ == "__main__":
    # Not this copy of the file, which `-m` calls __main__: the host's script takes that name.
    import_module("sr_perceptual_loss.integrations.kair").main()
