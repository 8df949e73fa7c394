"""One of our losses inside a trainer that builds losses from options: what neosr and traiNNer-redux have in common.

Both call ``loss(output, target)`` under autocast, keep the result as one tensor, and build a loss with the keys of the
option file. They differ in who multiplies by ``loss_weight``, in names, and in what the target may be.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterable
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

__all__ = ["HostLoss", "host_losses", "own_losses", "register_under", "run_script"]

LOSSES: tuple[type[PairLoss], ...] = (CriticLoss, RQILoss, EfficientPBANLoss, SSIMLoss, SSIMPerceptualRatioLoss)


class HostLoss(nn.Module):
    """loss(output, target) -> 0-d tensor in float32, whatever precision, layout and default device the host has set.

    * SSIM and critics compute outside the host's autocast; ``channels_last`` inputs are accepted.
    * An inference tensor as target (a teacher's output) is copied: autograd refuses to save it.
    * ``torch.set_default_device("cuda")`` does not reach inside: private CPU generators stay usable.
    * A schedule needs the host's iteration; :func:`own_losses` and ``step`` deliver it.

    Args:
        options: the keys of the option file = the constructor's arguments of ``loss_class``; unknown ones are refused.

    Raises:
        InputError: unknown key, or a value that the loss refuses.
    """

    loss_class: ClassVar[type[PairLoss]]
    #: Filled in where the class stands for one critic.
    preset: ClassVar[dict[str, Any]] = {}
    #: What to do where a schedule never hears of the iteration; for the message.
    cure: ClassVar[str] = ""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        names = [name for name in signature(self.loss_class.__init__).parameters if name != "self"]
        check_known_keys(type(self).__name__, options, [name for name in names if name not in self.preset])
        with torch.device("cpu"):
            self.loss = self.loss_class(**self.preset, **options)
        self._told = False

    @property
    def terms(self) -> dict[str, Tensor]:
        """Detached values of the last call, for logs: ``loss``, ``score``, ..."""
        return self.loss.terms

    def step(self, iteration: int) -> None:
        """Tell the loss the iteration of the coming optimizer step; the same for all of its micro-batches.

        Args:
            iteration: as the host counts and logs it.
        """
        self._told = True
        self.loss.step(iteration)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            output: (N, 3, H, W) RGB in [0, 1], any floating dtype and memory layout.
            target: (N, 3, H, W), same region.

        Returns:
            0-d float32 tensor.

        Raises:
            InputError: a schedule whose iteration nobody told; or the pair is not what the loss takes.
            NonFiniteError: naming this loss, before the host's own test of the total.
        """
        if not self._told and not self.loss.schedule.constant:
            raise InputError(f"{self.loss.label}: it has a schedule, but was never told the iteration. {self.cure}")
        if target.is_inference() and not torch.is_inference_mode_enabled():
            target = target.clone()
        with torch.device("cpu"), torch.autocast(device_type=output.device.type, enabled=False):
            # In float32 before our gradient check: what a GradScaler drives to infinity in fp16 is the scaler's to see.
            return self.loss(output.to(torch.promote_types(output.dtype, torch.float32)), target.detach())


def host_losses(base: type[HostLoss]) -> dict[str, type[HostLoss]]:
    """Classes for a host's registry: our losses under their names, and ``<critic>Loss`` for every critic.

    The second form gives each critic its own log name, where a host makes that from the type.

    Args:
        base: the host's form of :class:`HostLoss`.

    Returns:
        Name -> class.
    """
    found: dict[str, type[HostLoss]] = {}
    forms: list[tuple[str, type[PairLoss], dict[str, Any]]] = [(cls.__name__, cls, {}) for cls in LOSSES]
    forms += [(f"{critic}Loss", CriticLoss, {"critic": critic}) for critic in list_critics()]
    for name, loss_class, preset in forms:
        members = {"loss_class": loss_class, "preset": preset, "__doc__": loss_class.__doc__}
        found[name] = type(name, (base,), {**members, "__module__": base.__module__})
    return found


def register_under(registry: Any, parts: dict[str, Any]) -> list[str]:
    """Put classes or functions into a host's registry; what is there from an earlier call stays.

    A name that the host has given to something of its own becomes ``SRPL<name>``.

    Args:
        registry: the host's registry: ``in``, ``get``, ``register(obj)`` by ``__name__``.
        parts: name -> class or function.

    Returns:
        The names under which they are found.
    """
    names = []
    for name, part in parts.items():
        taken = name in registry and not _ours(registry.get(name))
        final = f"SRPL{name}" if taken else name
        if final not in registry:
            part.__name__ = part.__qualname__ = final
            registry.register(part)
        names.append(final)
    return names


def _ours(part: Any) -> bool:
    return str(getattr(part, "__module__", "")).startswith("sr_perceptual_loss.")


def own_losses(modules: Iterable[Any]) -> list[HostLoss]:
    """Those of a host's losses that are ours."""
    return [module for module in modules if isinstance(module, HostLoss)]


def run_script(script: str, host: str, prepare: Callable[[], object]) -> None:
    """Run the host's start script from the root of its clone, with our parts known to it; options are in sys.argv.

    Args:
        script: file name in the working directory.
        host: package folder that must lie beside it.
        prepare: imports and registers; called when the working directory is importable.

    Raises:
        InstallError: the working directory is no clone of the host.
    """
    here = Path.cwd()
    if not (here / script).is_file() or not (here / host).is_dir():
        raise InstallError(
            f"{here}: no {script} beside a folder {host}/. Start in the root of a clone of {host}, with this package "
            "installed in the same environment."
        )
    if str(here) not in sys.path:
        sys.path.insert(0, str(here))
    sys.argv[0] = str(here / script)
    prepare()
    runpy.run_path(sys.argv[0], run_name="__main__")
