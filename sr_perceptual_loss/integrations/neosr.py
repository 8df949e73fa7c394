"""neosr: our losses, metrics and a model that tells schedules the iteration; nothing of neosr is edited.

    python -m sr_perceptual_loss.integrations.neosr -opt options.toml

in the root of a clone of neosr. Or, with neosr's own ``train.py``, one file ``neosr/losses/srpl_loss.py`` holding
``from sr_perceptual_loss.integrations.neosr import register; register()`` (losses and metrics, no schedules).

Contract (neosr 31c7022): a fixed set of slots, each ``loss(output, gt)`` -> one tensor; the loss applies its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch

from sr_perceptual_loss.critics.registry import list_critics
from sr_perceptual_loss.integrations.host import (
    HostLoss,
    host_losses,
    own_losses,
    register_under,
    run_script,
)
from sr_perceptual_loss.integrations.image_metric import score_images

__all__ = ["NeosrLoss", "IterationMixin", "main", "register", "register_models"]


class NeosrLoss(HostLoss):
    """A loss of ours in any slot of neosr: a 0-d tensor, already weighted.

    Args:
        options: the constructor's arguments of the loss.
    """

    cure = (
        "Start with `python -m sr_perceptual_loss.integrations.neosr -opt ...` and "
        'set model_type = "perceptual_image" (or "perceptual_otf"), which tell it.'
    )


class IterationMixin:
    """Mixin over neosr's models: schedules follow the iteration that neosr logs, and scores are logged.

    neosr counts micro-batches; its log divides by ``accumulate``. Under SAM the closure runs twice within one call, so
    a step is told once whatever happens inside.
    """

    opt: dict[str, Any]
    log_dict: dict[str, Any]

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of neosr, with the iteration told before and the scores added to the log after it."""
        accumulate = int(self.opt["datasets"]["train"].get("accumulate", 1) or 1)
        slots = {name: part for name, part in vars(self).items() if name.startswith("cri_")}
        for loss in own_losses(slots.values()):
            loss.step((current_iter - 1) // accumulate + 1)
        super().optimize_parameters(current_iter)  # type: ignore[misc]
        for slot, part in slots.items():
            if isinstance(part, HostLoss) and "score" in part.terms:
                self.log_dict[f"score_{slot.removeprefix('cri_')}"] = float(part.terms["score"])


def _metric(critic: str) -> Callable[..., float]:
    def metric(
        img: np.ndarray,
        img2: np.ndarray | None = None,
        *,
        weights: str | None = "local",
        crop_border: int = 0,
        crops: Mapping[str, object] | int | None = None,
        device: str = "auto",
        critic_size: str = "full",
        better: str = "higher",
    ) -> float:
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return score_images(
            img,
            img2,
            channels="bgr",
            critic=critic,
            weights=weights,
            crop_border=crop_border,
            crops=crops,
            device=place,
            critic_size=critic_size,
            better=better,
        )

    metric.__doc__ = f"{critic} of one image against its ground truth; uint8 BGR (H, W, 3); higher is better."
    return metric


def register() -> list[str]:
    """Put our losses and the metrics ``calculate_<critic>`` into neosr's registries; a second call changes nothing.

    Returns:
        Names of the losses, for ``type = "..."`` in a slot such as ``[train.dists_opt]``.

    Raises:
        ImportError: neosr is not importable; stand in its clone.
    """
    registries = import_module("neosr.utils.registry")
    metrics = {f"calculate_{critic}": _metric(critic) for critic in list_critics()}
    register_under(registries.METRIC_REGISTRY, metrics)
    return register_under(registries.LOSS_REGISTRY, host_losses(NeosrLoss))


def register_models() -> list[str]:
    """Add ``perceptual_image`` and ``perceptual_otf``: neosr's own models with :class:`IterationMixin`."""
    import_module("neosr.models")
    registry = import_module("neosr.utils.registry").MODEL_REGISTRY
    names = [name for name in ("image", "otf") if name in registry]
    models = {
        f"perceptual_{name}": type(f"perceptual_{name}", (IterationMixin, registry.get(name)), {"__module__": __name__})
        for name in names
    }
    return register_under(registry, models)


def main() -> None:
    """Run ``train.py`` of the clone that is the working directory; all options go to neosr."""

    def prepare() -> None:
        register()
        register_models()

    run_script("train.py", "neosr", prepare)


if __name__ == "__main__":
    # Not the copy of this file that `-m` calls __main__: the host's script takes that name.
    import_module("sr_perceptual_loss.integrations.neosr").main()
