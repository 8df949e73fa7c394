"""traiNNer-redux: our losses, metrics, and models that set the iteration of schedules; nothing of it is edited.

    python -m sr_perceptual_loss.integrations.trainner -opt options.yml

in the root of a clone. Or, with its own ``train.py``, one file ``traiNNer/losses/srpl_loss.py`` holding
``from sr_perceptual_loss.integrations.trainner import register; register()`` (losses and metrics, no schedules).

Contract (traiNNer-redux 6862931): the trainer multiplies by ``abs(loss.loss_weight)``; a negative weight swaps the
target for the bicubic LR; parts of a dict that are not > 0 are dropped; a second loss of one type replaces the first.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import torch

from sr_perceptual_loss.checks import as_weight
from sr_perceptual_loss.integrations import host
from sr_perceptual_loss.integrations.metrics import critic_metrics

__all__ = ["TrainnerLoss", "TrainnerModelMixin", "install_models", "main", "register"]

MODELS = ("SRModel", "RealESRGANModel", "RealESRGANPairedModel")


class TrainnerLoss(host.HostLoss):
    """A loss of ours in ``train.losses``: unweighted, since the trainer multiplies by ``loss_weight``.

    One tensor and no dict, of which the trainer drops values that are not > 0. A negative weight is an error.
    """

    how_to_step = "Start with `python -m sr_perceptual_loss.integrations.trainner -opt ...`, which tells it."

    def __init__(self, *, loss_weight: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        # A negative one would swap the target for the bicubic LR.
        self.loss_weight = as_weight(f"{type(self).__name__}: loss_weight", loss_weight)


class TrainnerModelMixin(host.IterationMixin):
    """All micro-batches of an optimizer step get the same iteration.

    The trainer counts up with the last micro-batch of a step, so the earlier ones come with the number before.
    """

    losses: dict[str, Any]
    gt: torch.Tensor | None

    def host_losses(self) -> dict[str, host.HostLoss]:
        """Our losses among the trainer's, whose labels are ``l_g_<type>``."""
        parts = self.losses.items()
        return {label.removeprefix("l_g_"): part for label, part in parts if isinstance(part, host.HostLoss)}

    def iteration_of(self, current_iter: int, *others: Any) -> int:
        """Number of the optimizer step; the trainer's other arguments are (current_accum_iter, apply_gradient)."""
        apply_gradient = others[-1]
        return current_iter if apply_gradient else current_iter + 1

    def log_score(self, name: str, score: float) -> None:
        """Add the sum over the samples, since the trainer divides what it logs by their number."""
        samples = 0 if self.gt is None else len(self.gt)
        self.log_dict[f"score_{name}"] = self.log_dict.get(f"score_{name}", 0.0) + score * samples


def register() -> list[str]:
    """Put our losses and the metrics ``calculate_<critic>`` into traiNNer's registries; a second call changes nothing.

    Returns:
        Names of the losses, for ``type:`` in ``train.losses``; ``SSIMLoss`` is its own, ours is ``SRPLSSIMLoss``.
    """
    registries = import_module("traiNNer.utils.registry")
    host.register_under(registries.METRIC_REGISTRY, critic_metrics("rgb"))
    # Its own SSIMLoss may be registered after ours, depending on which file is scanned first.
    parts: dict[str, Any] = dict(host.loss_classes(TrainnerLoss))
    parts["SRPLSSIMLoss"] = parts.pop("SSIMLoss")
    return host.register_under(registries.LOSS_REGISTRY, parts)


def install_models() -> list[str]:
    """Put :class:`TrainnerModelMixin` over the classes that ``build_model`` uses, and return their names."""
    module = import_module("traiNNer.models")
    for name in MODELS:
        stock = getattr(module, name, None)
        if stock is not None and not issubclass(stock, TrainnerModelMixin):
            setattr(module, name, type(name, (TrainnerModelMixin, stock), {"__module__": __name__}))
    return list(MODELS)


def main() -> None:
    """Run ``train.py`` of the clone that is the working directory; all options go to traiNNer-redux."""
    host.run_script("train.py", "traiNNer", partial(import_module, "traiNNer.losses"), register, install_models)


if __name__ == "__main__":
    # Not this copy of the file, which `-m` calls __main__: the host's script takes that name.
    import_module("sr_perceptual_loss.integrations.trainner").main()
