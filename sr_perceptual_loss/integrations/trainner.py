"""traiNNer-redux: our losses, metrics, and models that tell schedules the iteration; nothing of it is edited.

    python -m sr_perceptual_loss.integrations.trainner -opt options.yml

in the root of a clone. Or, with its own ``train.py``, one file ``traiNNer/losses/srpl_loss.py`` holding
``from sr_perceptual_loss.integrations.trainner import register; register()`` (losses and metrics, no schedules).

Contract (traiNNer-redux 6862931): the trainer multiplies by ``abs(loss.loss_weight)``; a negative weight swaps the
target for the bicubic LR; parts of a dict that are not > 0 are dropped; a second loss of one type replaces the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch

from sr_perceptual_loss.checks import as_float
from sr_perceptual_loss.critics.registry import list_critics
from sr_perceptual_loss.errors import InputError
from sr_perceptual_loss.integrations.host import (
    HostLoss,
    host_losses,
    own_losses,
    register_under,
    run_script,
)
from sr_perceptual_loss.integrations.image_metric import score_images

__all__ = ["IterationMixin", "TrainnerLoss", "install_models", "main", "register"]

MODELS = ("SRModel", "RealESRGANModel", "RealESRGANPairedModel")


class TrainnerLoss(HostLoss):
    """A loss of ours in ``train.losses``: unweighted, since the trainer multiplies by ``loss_weight``; one tensor.

    One tensor and no dict: the value of a linear form is minus a score, and the trainer drops parts that are not > 0.

    Args:
        loss_weight: read by the trainer; >= 0.
        options: the constructor's other arguments of the loss.

    Raises:
        InputError: a negative weight, which here would mean "compare with the bicubic LR".
    """

    cure = "Start with `python -m sr_perceptual_loss.integrations.trainner -opt ...`, which tells it."

    def __init__(self, *, loss_weight: float = 1.0, **options: Any) -> None:
        weight = as_float("loss_weight", loss_weight)
        if weight < 0:
            raise InputError(
                f"{type(self).__name__}: got loss_weight {weight:g}, expected >= 0. In traiNNer-redux a negative "
                "weight swaps the target for the bicubic LR. The papers' lambda = -0.1 on a score is 0.1 here."
            )
        super().__init__(**options)
        self.loss_weight = weight


class IterationMixin:
    """Mixin over traiNNer's models: all micro-batches of an optimizer step hear of one iteration; scores are logged.

    The trainer counts up with the last micro-batch of a step, so the earlier ones come with the number before.
    """

    losses: dict[str, Any]
    log_dict: dict[str, Any]
    gt: torch.Tensor | None

    def optimize_parameters(self, current_iter: int, current_accum_iter: int, apply_gradient: bool) -> None:
        """One step of the trainer, with the iteration told before and the scores added to the log after it."""
        samples = 0 if self.gt is None else len(self.gt)
        for loss in own_losses(self.losses.values()):
            loss.step(current_iter if apply_gradient else current_iter + 1)
        super().optimize_parameters(current_iter, current_accum_iter, apply_gradient)  # type: ignore[misc]
        for label, loss in self.losses.items():
            if isinstance(loss, HostLoss) and "score" in loss.terms:
                key = f"score_{label.removeprefix('l_g_')}"
                # The trainer divides what it logs by the number of samples.
                self.log_dict[key] = self.log_dict.get(key, 0.0) + float(loss.terms["score"]) * samples


def _metric(critic: str) -> Callable[..., float]:
    def metric(
        img: np.ndarray,
        img2: np.ndarray | None = None,
        *,
        device: torch.device | str = "cpu",
        weights: str | None = "local",
        crop_border: int = 0,
        crops: Mapping[str, object] | int | None = None,
        critic_size: str = "full",
        better: str = "higher",
    ) -> float:
        return score_images(
            img,
            img2,
            channels="rgb",
            critic=critic,
            weights=weights,
            crop_border=crop_border,
            crops=crops,
            device=device,
            critic_size=critic_size,
            better=better,
        )

    metric.__doc__ = f"{critic} of one image against its ground truth; uint8 RGB (H, W, 3); higher is better."
    return metric


def register() -> list[str]:
    """Put our losses and the metrics ``calculate_<critic>`` into traiNNer's registries; a second call changes nothing.

    Returns:
        Names of the losses, for ``type:`` in ``train.losses``; ``SSIMLoss`` is its own, ours is ``SRPLSSIMLoss``.

    Raises:
        ImportError: traiNNer is not importable; stand in its clone.
    """
    registries = import_module("traiNNer.utils.registry")
    metrics = {f"calculate_{critic}": _metric(critic) for critic in list_critics()}
    register_under(registries.METRIC_REGISTRY, metrics)
    # basic_loss.py and mssim_loss.py hold names that ours must give way to, whichever file is scanned first.
    parts: dict[str, Any] = dict(host_losses(TrainnerLoss))
    parts["SRPLSSIMLoss"] = parts.pop("SSIMLoss")
    return register_under(registries.LOSS_REGISTRY, parts)


def install_models() -> list[str]:
    """Let ``build_model`` build its own classes with :class:`IterationMixin` on top; there is no model registry to use.

    Returns:
        Names of the classes.
    """
    module = import_module("traiNNer.models")
    names = []
    for name in MODELS:
        stock = getattr(module, name, None)
        if stock is not None and not issubclass(stock, IterationMixin):
            setattr(module, name, type(name, (IterationMixin, stock), {"__module__": __name__}))
        names.append(name)
    return names


def main() -> None:
    """Run ``train.py`` of the clone that is the working directory; all options go to traiNNer-redux."""

    def prepare() -> None:
        import_module("traiNNer.losses")
        register()
        install_models()

    run_script("train.py", "traiNNer", prepare)


if __name__ == "__main__":
    # Not the copy of this file that `-m` calls __main__: the host's script takes that name.
    import_module("sr_perceptual_loss.integrations.trainner").main()
