"""The adapter between this package and a trainer: what BasicSR, neosr, traiNNer-redux and KAIR have in common.

A new host is one file that imports this one::

    class MyLoss(HostLoss):                       # built from the keys of an option file, called with (output, target)
        value_range = (-1.0, 1.0)                 # of the images the trainer hands over; the default is (0.0, 1.0)
        how_to_step = "Use model type PerceptualModel, which tells it."

    class PerceptualModel(IterationMixin, TheirModel):    # the mixin first
        def host_losses(self):
            return {name: loss for name, loss in self.losses.items() if isinstance(loss, HostLoss)}

    register_under(their.LOSS_REGISTRY, loss_classes(MyLoss))
    register_under(their.METRIC_REGISTRY, critic_metrics("rgb"))   # of metrics.py
    register_under(their.LOSSES, loss_classes(MyLoss), put=their.LOSSES.__setitem__)    # where it is a dict
"""

from __future__ import annotations

import contextlib
import logging
import math
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sr_perceptual_loss.checks import check_known_keys
from sr_perceptual_loss.critics.registry import list_critics
from sr_perceptual_loss.errors import InputError, InstallError
from sr_perceptual_loss.losses.base import PairLoss
from sr_perceptual_loss.losses.critic_loss import CriticLoss, EfficientPBANLoss, RQILoss
from sr_perceptual_loss.losses.ratio_loss import SSIMPerceptualRatioLoss
from sr_perceptual_loss.losses.ssim_loss import SSIMLoss

__all__ = ["HostLoss", "IterationMixin", "let_others_in", "loss_classes", "register_under", "run_script"]

logger = logging.getLogger("sr_perceptual_loss")

LOSSES: tuple[type[PairLoss], ...] = (CriticLoss, RQILoss, EfficientPBANLoss, SSIMLoss, SSIMPerceptualRatioLoss)


class HostLoss(nn.Module):
    """loss(output, target) -> 0-d float32 tensor, built from the keys of an option file.

    ``self.loss`` is the loss of this package. It computes in float32 outside of the host's autocast and accepts any
    memory layout and targets made in inference mode. ``torch.set_default_device`` does not reach it: its private CPU
    generators stay usable.

    Args:
        options: the arguments of ``loss_class``, as the option file gives them.

    Raises:
        InputError: unknown key, missing key, or a value that the loss refuses; at class creation a wrong value range.
    """

    #: Loss of this package that the class wraps; set by :func:`loss_classes`.
    loss_class: ClassVar[type[PairLoss]]
    #: Arguments that the class fixes, such as the critic of ``haarpsiLoss``.
    preset: ClassVar[dict[str, Any]] = {}
    #: (low, high) of the images that the trainer hands over; they are mapped to [0, 1]. Images in another range than
    #: this one are not noticed unless their scale is far off, such as 0..255.
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    #: How a user lets the loss know the iteration; end of the error message where a schedule needs it.
    how_to_step: ClassVar[str] = "Call loss.step(iteration) before each step."

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        value = cls.value_range
        numbers = isinstance(value, tuple | list) and [isinstance(number, int | float) for number in value]
        if numbers != [True, True] or not -math.inf < value[0] < value[1] < math.inf:
            raise InputError(f"{cls.__name__}.value_range: got {value!r}, expected two numbers, low < high.")

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.check_options(type(self).__name__, options)
        with torch.device("cpu"):
            self.loss = self.loss_class(**self.preset, **options)

    @classmethod
    def check_options(cls, where: str, options: Mapping[str, Any]) -> None:
        """Raise InputError for an unknown or missing key; ``where`` is what the options belong to, for the message."""
        if not hasattr(cls, "loss_class"):
            raise InputError(f"{where} wraps no loss itself: take a class from loss_classes({cls.__name__}).")
        parameters = signature(cls.loss_class).parameters
        check_known_keys(where, options, [name for name in parameters if name not in cls.preset])
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in {**cls.preset, **options}:
                hint = f"; one of {', '.join(list_critics())}" if name == "critic" else ""
                raise InputError(f"{where}: `{name}` is missing{hint}.")
        if options.get("reduction") == "none":
            raise InputError(f"{where}: reduction 'none' gives a value per image, but a trainer needs one: use 'mean'.")

    @property
    def terms(self) -> dict[str, Tensor]:
        """Detached values for logs: ``loss``, ``score``, ... of the last call; zeros if ``step`` came after it."""
        return self.loss.terms

    def step(self, iteration: int) -> None:
        """Set the iteration of the coming optimizer step; the same for all of its micro-batches."""
        self.loss.step(iteration)
        # A step that does not call the loss, such as a gated GAN step, must not log the values of an earlier one.
        zero = torch.zeros((), dtype=torch.float32, device="cpu")
        self.loss.terms = dict.fromkeys(("loss", *self.loss.term_names), zero)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, a 0-d tensor in float32 or wider.

        Args:
            output: (N, 3, H, W) RGB in ``value_range``, any floating dtype and memory layout.
            target: (N, 3, H, W), same region.

        Raises:
            InputError: a schedule without an iteration; or the pair is not what the loss takes.
            NonFiniteError: naming this loss.
        """
        if self.loss._iteration is None and not self.loss.schedule.constant:
            raise InputError(f"{self.loss.label}: its schedule was never told the iteration. {self.how_to_step}")
        sr, hr = self._to_unit_range(output), self._to_unit_range(target)
        try:
            with _cpu_as_default():
                return self.loss(sr, hr)
        except InputError as error:
            if sr is output and hr is target:
                raise
            note = f"(images were mapped from {self.value_range} to [0, 1] before this check)"
            raise type(error)(f"{error} {note}") from None

    def _to_unit_range(self, image: Tensor) -> Tensor:
        """What is no image is left to the loss, whose error names it."""
        if self.value_range == (0.0, 1.0) or not isinstance(image, Tensor) or not image.is_floating_point():
            return image
        low, high = self.value_range
        return (image.to(torch.promote_types(image.dtype, torch.float32)) - low) / (high - low)


def _cpu_as_default() -> contextlib.AbstractContextManager[Any]:
    """The context costs a Python call per operator, so it is entered only where the host changed the default."""
    return contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


class IterationMixin:
    """Mixin over a trainer's model class: sets the iteration of our losses before a step, logs their scores after it.

    The mixin comes first among the bases. A host overrides :meth:`host_losses` and, where it needs to,
    :meth:`iteration_of`; without a mapping ``log_dict``, :meth:`log_score` too. Where the trainer's step has another
    name or order of arguments, the override of that step calls it within :meth:`at_iteration`.
    """

    log_dict: dict[str, Any]

    def host_losses(self) -> Mapping[str, HostLoss]:
        """Our losses in this model, by the name for the log."""
        raise NotImplementedError(f"{type(self).__name__}: define host_losses(self) -> our losses by name for the log.")

    def iteration_of(self, current_iter: int, *others: Any) -> int:
        """Number of the optimizer step, from the arguments of ``optimize_parameters``."""
        return current_iter

    def log_score(self, name: str, score: float) -> None:
        """Put the mean score of the batch into the host's log."""
        self.log_dict[f"score_{name}"] = score

    @contextlib.contextmanager
    def at_iteration(self, iteration: int) -> Iterator[None]:
        """Around step ``iteration`` of the host: tell our losses the number before it, log their scores after it."""
        for loss in self.host_losses().values():
            loss.step(iteration)
        yield
        for name, loss in self.host_losses().items():
            if "score" in loss.terms:
                self.log_score(name, float(loss.terms["score"]))  # a device sync

    def optimize_parameters(self, current_iter: int, *others: Any) -> Any:
        """One step of the host, and what it returns."""
        with self.at_iteration(self.iteration_of(current_iter, *others)):
            return super().optimize_parameters(current_iter, *others)  # type: ignore[misc]


def loss_classes(base: type[HostLoss]) -> dict[str, type[HostLoss]]:
    """Classes for a host's registry: our losses under their names, and ``<critic>Loss`` for every critic.

    The second kind gives each critic a log name of its own in hosts that make the log name from the type. ``base`` is
    the host's subclass of :class:`HostLoss`.
    """
    kinds: list[tuple[str, type[PairLoss], dict[str, Any]]] = [(cls.__name__, cls, {}) for cls in LOSSES]
    kinds += [(f"{critic}Loss", CriticLoss, {"critic": critic}) for critic in list_critics()]
    common = {"__module__": base.__module__}
    return {
        name: type(name, (base,), {"loss_class": cls, "preset": preset, "__doc__": cls.__doc__, **common})
        for name, cls, preset in kinds
    }


def register_under(registry: Any, parts: Mapping[str, Any], put: Callable[..., object] | None = None) -> list[str]:
    """Put classes or functions into a host's registry; what an earlier call has put there stays.

    A name that is taken stays as it is: ours becomes ``SRPL<name>``, with a warning.

    The registry has ``in`` and ``get``. ``put(name, part)`` registers a part, such as ``registry.__setitem__`` of a
    dict; by default ``registry.register(part)``, which takes the name from ``part.__name__``.

    Returns:
        The names under which they are registered.
    """
    put = put or (lambda _, part: registry.register(part))
    names = []
    for name, part in parts.items():
        taken = name in registry and getattr(registry.get(name), "__module__", None) != part.__module__
        final = f"SRPL{name}" if taken else name
        if final not in registry:
            if taken:
                logger.warning("the host has another %s already; ours is registered as %s.", name, final)
            part.__name__ = part.__qualname__ = final
            put(final, part)
        names.append(final)
    return names


def let_others_in(registry: Any) -> None:
    """Let a project register a name of ours from now on: ours becomes ``SRPL<name>``, in BasicSR's kind of registry."""
    if "_do_register" in vars(registry):
        return
    stock = registry._do_register

    def register(name: str, part: Any, *suffix: Any) -> None:
        ours = registry._obj_map.get(name)
        if getattr(ours, "__module__", "").startswith("sr_perceptual_loss.") and ours is not part:
            del registry._obj_map[name]
            stock(name, part, *suffix)
            register_under(registry, {name: ours})
        else:
            stock(name, part, *suffix)

    registry._do_register = register


def run_script(script: str, package: str, *prepare: Callable[[], object]) -> None:
    """Run a host's start script from the root of its clone, with our parts registered; options are in ``sys.argv``.

    Args:
        script: file name in the working directory.
        package: the host's package, a folder beside the script.
        prepare: import and register; called in this order when the working directory is importable.

    Raises:
        InstallError: the working directory is no clone of the host.
    """
    root = Path.cwd()
    if not (root / script).is_file() or not (root / package).is_dir():
        raise InstallError(
            f"{root}: no {script} beside a folder {package}/. Start in the root of a clone of {package}, with this "
            "package installed in the same environment."
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    sys.argv[0] = str(root / script)
    for call in prepare:
        call()
    runpy.run_path(sys.argv[0], run_name="__main__")
