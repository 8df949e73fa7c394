"""Frozen image-quality critics as losses for super-resolution training.

Importing this package loads no training framework and downloads nothing; names are loaded when first used (PEP 562), so
that ``srpl --help`` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from sr_perceptual_loss.critics import (
        Critic,
        CriticCard,
        SizeRule,
        create_critic,
        get_card,
        list_critics,
        register_critic,
    )
    from sr_perceptual_loss.critics.external import external
    from sr_perceptual_loss.errors import InputError, NonFiniteError, UnknownNameError, WeightsError
    from sr_perceptual_loss.losses import (
        CriticLoss,
        EfficientPBANLoss,
        FrozenCritic,
        GradNormBalancer,
        RQILoss,
        Schedule,
        SSIMLoss,
        SSIMPerceptualRatioLoss,
    )
    from sr_perceptual_loss.monitor import HackingError, HackingGuard
    from sr_perceptual_loss.monitor.probe import probe
    from sr_perceptual_loss.ops.crops import CropPlan
    from sr_perceptual_loss.ops.ssim import ssim
    from sr_perceptual_loss.weights import load_weights, save_weights

__all__ = [
    "Critic",
    "CriticCard",
    "CriticLoss",
    "CropPlan",
    "EfficientPBANLoss",
    "FrozenCritic",
    "GradNormBalancer",
    "HackingError",
    "HackingGuard",
    "InputError",
    "NonFiniteError",
    "RQILoss",
    "SSIMLoss",
    "SSIMPerceptualRatioLoss",
    "Schedule",
    "SizeRule",
    "UnknownNameError",
    "WeightsError",
    "__version__",
    "create_critic",
    "external",
    "get_card",
    "list_critics",
    "load_weights",
    "probe",
    "register_critic",
    "save_weights",
    "ssim",
]

_MODULES = {
    "critics": ("Critic", "CriticCard", "SizeRule", "create_critic", "get_card", "list_critics", "register_critic"),
    "critics.external": ("external",),
    "errors": ("InputError", "NonFiniteError", "UnknownNameError", "WeightsError"),
    "losses": (
        "CriticLoss",
        "EfficientPBANLoss",
        "FrozenCritic",
        "GradNormBalancer",
        "RQILoss",
        "SSIMLoss",
        "SSIMPerceptualRatioLoss",
        "Schedule",
    ),
    "monitor": ("HackingError", "HackingGuard"),
    "monitor.probe": ("probe",),
    "ops.crops": ("CropPlan",),
    "ops.ssim": ("ssim",),
    "weights": ("load_weights", "save_weights"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sr_perceptual_loss' has no attribute '{name}'")
    value = getattr(import_module(f"sr_perceptual_loss.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
