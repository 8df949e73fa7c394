"""BasicSR: importing this package makes our losses, models and metrics known to its registries.

BasicSR's ``build_model`` is replaced by :func:`projects.build_model`, which finds ``Perceptual<Name>`` for every SR
model and refuses options that would be ignored.

One line in a project's own train.py, before any ``import basicsr``::

    import sr_perceptual_loss.integrations.basicsr

or no line at all: ``srpl basicsr -opt x.yml``.
"""

from sr_perceptual_loss.integrations.basicsr_shim import install_shims, require_basicsr

install_shims()
require_basicsr()

import sys  # noqa: E402

from basicsr.utils.registry import LOSS_REGISTRY, METRIC_REGISTRY  # noqa: E402

from sr_perceptual_loss.integrations import host  # noqa: E402
from sr_perceptual_loss.integrations.basicsr import models, projects  # noqa: E402  registers the models
from sr_perceptual_loss.integrations.basicsr.losses import BasicSRLoss, LossList  # noqa: E402
from sr_perceptual_loss.integrations.metrics import critic_metrics  # noqa: E402

__all__ = ["BasicSRLoss", "LossList", "models", "register"]


def register() -> None:
    """Register losses and metrics (``calculate_<critic>``, ``calculate_rqi``); a second call changes nothing."""
    host.register_under(LOSS_REGISTRY, {**host.loss_classes(BasicSRLoss), "LossList": LossList})
    metrics = critic_metrics("bgr")
    metrics["calculate_rqi"] = critic_metrics("bgr")["calculate_rqi_maniqa"]
    host.register_under(METRIC_REGISTRY, metrics)
    for registry in (LOSS_REGISTRY, METRIC_REGISTRY):
        host.let_others_in(registry)
    for module in ("basicsr", "basicsr.models", "basicsr.train", "basicsr.test"):
        if hasattr(sys.modules.get(module), "build_model"):
            setattr(sys.modules[module], "build_model", projects.build_model)  # noqa: B010


register()
