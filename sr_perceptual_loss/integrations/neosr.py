"""neosr: our losses, metrics and a model that sets the iteration of schedules; nothing of neosr is edited.

    python -m sr_perceptual_loss.integrations.neosr -opt options.toml

in the root of a clone of neosr. Or, with neosr's own ``train.py``, one file ``neosr/losses/srpl_loss.py`` holding
``from sr_perceptual_loss.integrations.neosr import register; register()`` (losses and metrics, no schedules).

Contract (neosr 31c7022): a fixed set of slots, each ``loss(output, gt)`` -> one tensor; the loss applies its weight.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sr_perceptual_loss.integrations import host
from sr_perceptual_loss.integrations.metrics import critic_metrics

__all__ = ["NeosrLoss", "NeosrModelMixin", "main", "register", "register_models"]


class NeosrLoss(host.HostLoss):
    """A loss of ours in any slot of neosr: a 0-d tensor, already weighted."""

    how_to_step = (
        "Start with `python -m sr_perceptual_loss.integrations.neosr -opt ...` and "
        'set model_type = "perceptual_image" (or "perceptual_otf"), which tell it.'
    )


class NeosrModelMixin(host.IterationMixin):
    """Schedules follow the iteration that neosr logs.

    neosr counts micro-batches; its log divides by ``accumulate``. Under SAM the closure runs twice within one call of
    ``optimize_parameters``, so both runs see the same iteration.
    """

    opt: dict[str, Any]

    def host_losses(self) -> dict[str, host.HostLoss]:
        """Our losses in neosr's slots ``cri_<name>``."""
        slots = vars(self).items()
        return {name.removeprefix("cri_"): part for name, part in slots if isinstance(part, host.HostLoss)}

    def iteration_of(self, current_iter: int, *others: Any) -> int:
        """Number of the optimizer step."""
        accumulate = int(self.opt["datasets"]["train"].get("accumulate", 1) or 1)
        return (current_iter - 1) // accumulate + 1


def register() -> list[str]:
    """Put our losses and the metrics ``calculate_<critic>`` into neosr's registries; a second call changes nothing.

    Returns:
        Names of the losses, for ``type = "..."`` in a slot such as ``[train.dists_opt]``.
    """
    registries = import_module("neosr.utils.registry")
    host.register_under(registries.METRIC_REGISTRY, critic_metrics("bgr"))
    return host.register_under(registries.LOSS_REGISTRY, host.loss_classes(NeosrLoss))


def register_models() -> list[str]:
    """Add ``perceptual_image`` and ``perceptual_otf``: neosr's own models with :class:`NeosrModelMixin`."""
    import_module("neosr.models")
    registry = import_module("neosr.utils.registry").MODEL_REGISTRY
    models = {
        f"perceptual_{name}": type(
            f"perceptual_{name}", (NeosrModelMixin, registry.get(name)), {"__module__": __name__}
        )
        for name in ("image", "otf")
        if name in registry
    }
    return host.register_under(registry, models)


def main() -> None:
    """Run ``train.py`` of the clone that is the working directory; all options go to neosr."""
    host.run_script("train.py", "neosr", register, register_models)


if __name__ == "__main__":
    # Not this copy of the file, which `-m` calls __main__: the host's script takes that name.
    import_module("sr_perceptual_loss.integrations.neosr").main()
